"""The trainer's YAML: sections for data, tokenizer, model, training and logging, with a block for each architecture."""

from __future__ import annotations

from typing import Any

from pipeline.spec.migrate.names import as_name
from pipeline.spec.migrate.table import (
    NO_BUDGETS,
    UNSET,
    Carried,
    Derived,
    Dialect,
    Dropped,
    Fixed,
    Lost,
    is_one_of,
    listed_alone,
    switch,
    words,
)

_BUILT_IN = ("<unk>", "<s>", "</s>", "<pad>")
_UNTRAINED = {
    name: f"models of architecture {name} cannot be trained: this version trains transformers"
    for name in ("lstm", "rnn", "gru", "mamba")
}
_IN_STEPS = "counts optimizer steps, as it was planned; the earlier loop counted micro-batches"


def _special_tokens(value: Any) -> Any:
    if isinstance(value, dict):  # name of the token → its text
        value = list(value.values())
    if value is None:
        return []
    return [token for token in value if token not in _BUILT_IN] if isinstance(value, list) else value


TRAINER = Dialect(
    name="trainer",
    title="configuration of the trainer",
    kind="experiment",
    sections={"data": "dataset"},
    rows=(
        Carried("experiment_name", "name", meaning=as_name),
        Carried("random_seed", "reproducibility.random_seed"),
        # The text
        Carried("data.training_corpus", "dataset.source.paths", meaning=listed_alone),
        Dropped("data.source_corpus", "training read training_corpus; the corpus stage cleans by itself"),
        Lost(
            "data.test_corpus",
            is_one_of(None),
            "held-out text is a share of the whole text, not a text of its own",
            "put it beside the training text and set dataset.test_split in the new file",
        ),
        Lost(
            "dataset_manipulation",
            is_one_of(None, []),
            "a spec has no steps that rewrite the text before training",
            "training_corpus is what they wrote",
        ),
        Carried("data.batch_size", "training.batch_size"),
        Carried("data.max_sequence_length", "model.max_seq_len"),
        # The tokenizer
        Carried("tokenizer.vocab_size", "tokenizer.vocab_size"),
        Carried(
            "tokenizer.tokenizer_type",
            "tokenizer.tokenizer_type",
            meaning=words({"sentencepiece": "unigram", "character": "char"}),
            refuses={"wordpiece": "a WordPiece tokenizer cannot be trained: take bpe or unigram"},
            note="learned from the training split alone; the earlier one also saw the test files",
        ),
        Carried("tokenizer.special_tokens", "tokenizer.special_tokens", None, meaning=_special_tokens),
        Dropped("tokenizer.output_dir", "the tokenizer is written to artifacts/tokenizer"),
        # The model
        Carried(
            "model.architecture", "model.model_type", meaning=words({"gpt2": "gpt"}), refuses=_UNTRAINED
        ),
        Carried("model.transformer.layers", "model.num_layers"),
        Carried("model.transformer.hidden_size", "model.d_model"),
        Carried("model.transformer.embedding_size", "model.d_model"),
        Carried("model.transformer.intermediate_hidden_size", "model.d_ff"),
        Carried("model.transformer.attention_heads", "model.num_heads"),
        Carried("model.transformer.dropout", "model.dropout"),
        Carried("model.transformer.attention_dropout", "model.attention_dropout"),
        Carried("model.transformer.activation_function", "model.activation", meaning=words({"gelu_new": "gelu"})),
        Dropped("model.bert.type_vocab_size", "there is one segment, whose embedding would add the same everywhere"),
        Dropped("model.bert.pooler_type", "hidden tokens are guessed from their own states, which nothing pools"),
        Dropped("model.rnn.*", "only architectures rnn, lstm and gru read it"),
        Dropped("model.mamba.*", "only architecture mamba reads it"),
        # Training
        Carried("training.learning_rate", "training.learning_rate"),
        Carried("training.adam_beta1", "optimizer.adam_beta1"),
        Carried("training.adam_beta2", "optimizer.adam_beta2"),
        Carried("training.adam_epsilon", "optimizer.adam_epsilon"),
        Carried("training.epochs", "training.epochs"),
        Carried(
            "training.train_steps",
            "training.max_steps",
            None,
            note=_IN_STEPS,
        ),
        Carried(
            "training.warmup_steps",
            "scheduler.warmup_steps",
            None,
            note="counts optimizer steps, as it was planned",
        ),
        Carried("training.warmup_ratio", "scheduler.warmup_ratio", 0.1),
        Carried("training.gradient_accumulation_steps", "training.gradient_accumulation_steps", 1),
        Carried("training.max_grad_norm", "training.max_grad_norm", None),
        Carried("training.objective", "task.task_type", "causal_lm", meaning=words({"causal_lm": "lm"})),
        Lost(
            "training.mlm_probability",
            is_one_of(None, 0.15),
            "only objective masked_lm reads it, which hides 15 % of the tokens today",
        ),
        Carried(
            "training.use_amp",
            "hardware.precision",
            False,
            meaning=switch("16-mixed", "32-true"),
            note="mixed precision was float16 with a scaled loss",
        ),
        Carried("training.use_gradient_checkpointing", "hardware.use_gradient_checkpointing", False),
        Carried("training.use_tf32", "hardware.use_tf32", True),
        # Checkpoints
        Dropped("training.output_dir", "the model is written to artifacts/model"),
        Dropped("training.resume_from_checkpoint", "an interrupted run goes on by itself"),
        Carried("training.checkpoint_schedule", "checkpointing.checkpoint_schedule", [], note=_IN_STEPS),
        Carried("training.auto_generate_checkpoints", "checkpointing.auto_generate_checkpoints", False),
        *(
            Carried(f"training.{name}", f"checkpointing.{name}", default)
            for name, default in (
                ("first_epoch_checkpoints", 20),
                ("subsequent_epochs_spacing", "log"),
                ("log_base", 2.0),
                ("linear_interval", None),
                ("min_checkpoint_interval", 100),
                ("min_checkpoints_per_epoch", 5),
            )
        ),
        # Logging
        Carried(
            "logging.console_level",
            "logging.console_level",
            "INFO",
            meaning=words(
                {"debug": "info", "info": "info", "warning": "warning", "error": "warning", "critical": "warning"}
            ),
        ),
        Carried(
            "logging.log_metrics_every_n_steps",
            "logging.log_every_n_steps",
            10,
            note=_IN_STEPS,
        ),
        Dropped("logging.file_level", "what a run says goes to the console; reports/ holds its figures"),
        Dropped("logging.dir", "reports/ holds the figures of a run"),
        Dropped("logging.use_structured_logging", "reports/ holds the figures of a run as JSON and CSV"),
        Carried("logging.use_wandb", "logging.use_wandb", False),
        Dropped("logging.max_log_*", "there are no log files to limit"),
        Dropped("logging.*detailed*", "reports/history.csv has one kind of rows"),
        Dropped("logging.profile_performance", "throughput and time are always measured"),
        Dropped("logging.*memory*", "peak memory is always measured"),
        Dropped("logging.max_errors_to_track", "the first error ends a run"),
    ),
    derived=(
        Derived(
            "logging.wandb_mode",
            "logging.use_wandb",
            lambda used: "online" if used is True else UNSET,
            "it sent its figures while training",
        ),
    ),
    fixed=(
        Fixed("dataset.source.kind", "files", "it read files"),
        Fixed("dataset.split_method", "contiguous", "a few files cannot be dealt to splits as wholes"),
        Fixed("tokenizer.byte_fallback", False, "what had no piece was <unk>"),
        Fixed("optimizer.weight_decay", 0.01, "the default of PyTorch's AdamW"),
        Fixed("scheduler.scheduler_type", "linear", "the only schedule it had"),
        Fixed("scheduler.min_lr_ratio", 0.0, "its schedule ended at zero"),
        *NO_BUDGETS,
    ),
)  # fmt: skip
