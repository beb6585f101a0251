"""The flat training configs of the configuration toolkit: JSON with every field of its TrainingConfig at the top."""

from __future__ import annotations

from typing import Any

from pipeline.spec.migrate.names import as_name
from pipeline.spec.migrate.table import (
    NO_BUDGETS,
    PYTORCH_ADAM,
    UNSET,
    Carried,
    Derived,
    Dialect,
    Dropped,
    Fixed,
    Lost,
    is_one_of,
    unless_null,
)

_NO_CODE = "a spec names no code, and this model is a Python file"
_IDLE_TRACKER = "read once logging.use_wandb is true; the earlier file had no switch for it"
_UNTRAINED = {
    "bert": "an encoder cannot predict the next token, which this file asks for (the preset mlm_tiny trains one)",
    "t5": "models of type t5 (encoder-decoder) cannot be trained: this version has no encoder beside its decoder",
    "custom": f"models of type custom cannot be carried over: {_NO_CODE}",
}
_OTHER_TASKS = {
    "cls_tiny": "the task cls_tiny is about classes, and this file does not say where the class of a text stands",
    "seq2seq_tiny": "the task seq2seq_tiny is about pairs, and this file does not say where the targets stand",
    "vision_tiny": "the task vision_tiny is about pictures, and this file describes a model of text",
}
_SMALLEST_BPE, _LARGEST_BPE = 5_000, 100_000  # outside, its tokenizer took characters


def _algorithm(vocab_size: Any) -> Any:
    is_bpe = isinstance(vocab_size, int) and _SMALLEST_BPE <= vocab_size <= _LARGEST_BPE
    return "bpe" if is_bpe else "char"


TRAINING_CONFIG = Dialect(
    name="training-config",
    title="flat training config",
    kind="experiment",
    names_text="dataset_name",
    split_of_text="dataset_split",
    subset_of_text="dataset_subset",
    rows=(
        Carried("run_name", "logging.run_name", meaning=unless_null, note="the experiment is named after it, too"),
        Carried("notes", "notes", ""),
        # The text
        Carried("dataset_name", "dataset.dataset_name", "wikitext-103-v1"),
        Dropped("dataset_split", "--text gives the whole text; of a dataset of the hub it is dataset.source.split"),
        Dropped("dataset_subset", "--text gives the whole text; of a dataset of the hub it is dataset.source.subset"),
        Carried("validation_split", "dataset.validation_split", 0.1),
        Carried("max_train_samples", "dataset.max_train_samples", None),
        Carried("max_val_samples", "dataset.max_val_samples", None),
        # The model
        Carried("task_name", "task.task_name", "lm_tiny", refuses=_OTHER_TASKS),
        Carried("model_name", "model.model_name", "custom-transformer"),
        Carried("model_type", "model.model_type", "gpt", refuses=_UNTRAINED),
        Lost("model_file", is_one_of(None, ""), _NO_CODE, "describe the model with model_type, d_model, num_layers …"),
        Carried(
            "vocab_size",
            "tokenizer.vocab_size",
            50257,
            note="the tokenizer is learned from the text; none that was trained elsewhere is loaded",
        ),
        Carried("max_seq_len", "model.max_seq_len", 128),
        Carried("d_model", "model.d_model", 768),
        Carried("num_heads", "model.num_heads", 12),
        Carried("num_layers", "model.num_layers", 12),
        Carried("d_ff", "model.d_ff", 3072),
        Carried("dropout", "model.dropout", 0.1),
        # Training
        Carried("learning_rate", "training.learning_rate", 5e-5),
        Carried("batch_size", "training.batch_size", 4),
        Carried("epochs", "training.epochs", 10),
        Carried("gradient_accumulation_steps", "training.gradient_accumulation_steps", 1),
        Carried("accumulate_grad_batches", "training.gradient_accumulation_steps"),
        Carried("max_grad_norm", "training.max_grad_norm", 1.0),
        Carried("early_stopping_patience", "training.early_stopping_patience", 5),
        Carried("weight_decay", "optimizer.weight_decay", 0.01),
        Dropped("warmup_ratio", "the earlier trainer made no schedule: its learning rate was constant from the start"),
        Lost(
            "resume_from_checkpoint",
            is_one_of(None),
            "checkpoints of the earlier system are pickles, which this toolkit never reads",
        ),
        # The machine
        Carried("use_amp", "hardware.use_amp", True),
        Carried("precision", "hardware.precision", "bf16-mixed"),
        Carried("compile_mode", "hardware.compile_mode", None),
        Carried("compile_fullgraph", "hardware.compile_fullgraph", False),
        Carried("compile_dynamic", "hardware.compile_dynamic", True),
        Carried("strategy", "hardware.strategy", "auto"),
        Carried("devices", "hardware.devices", "auto"),
        Carried("num_nodes", "hardware.num_nodes", 1),
        Carried("random_seed", "reproducibility.random_seed", 42),
        Carried("deterministic", "reproducibility.deterministic", False),
        # Checkpoints and records
        Carried("save_every_n_epochs", "checkpointing.save_every_n_epochs", 5),
        Carried("keep_best_only", "checkpointing.keep_best_only", False),
        Dropped("checkpoint_dir", "checkpoints are kept under .work/runs, by what they were trained from"),
        Carried("wandb_project", "logging.wandb_project", "transformer-builder-training", note=_IDLE_TRACKER),
        Carried("wandb_entity", "logging.wandb_entity", None, note=_IDLE_TRACKER),
        Carried("wandb_run_name", "logging.run_name", meaning=unless_null),
        Dropped("created_at", "git knows when a file was made"),
        Dropped("config_version", "schema_version says what the file is written for"),
        # Exports
        Carried("export_bundle", "export.export_bundle", False),
        Carried("export_formats", "export.formats", ["onnx", "torchscript"]),
        Dropped("export_dir", "exports are written to artifacts/export"),
        # What a config could say about evaluation
        Lost(
            "eval_dataset_id",
            is_one_of(None, "lm_tiny_v1"),
            "a model is evaluated on a split of its own text",
            "set dataset.validation_split and dataset.test_split in the new file",
        ),
        Lost(
            "eval.dataset_id",
            is_one_of(None, "lm_tiny_v1"),
            "a model is evaluated on a split of its own text",
            "set dataset.validation_split and dataset.test_split in the new file",
        ),
        Carried("eval.split", "validation.split"),
        Carried("eval.max_eval_examples", "dataset.max_val_samples"),
        Lost(
            "eval.eval_interval_steps",
            is_one_of(None, 100),
            "training evaluates at the end of each epoch, which early_stopping_patience counted",
            "set training.eval_every_n_steps in the new file, and the patience to as many evaluations",
        ),
        Lost(
            "eval.max_seq_length",
            is_one_of(None, 128),
            "an evaluation reads windows of model.max_seq_len tokens, as training does",
        ),
        Dropped("eval.batch_size", "it changes the speed of an evaluation, not its result"),
        Dropped("eval.num_workers", "the encoded text is read from memory"),
        Dropped("eval.eval_on_start", "the loss of the first step says what an untrained model scores"),
    ),
    derived=(
        Derived("name", "run_name", lambda name: UNSET if name is UNSET else as_name(name), "what the run was called"),
        Derived("tokenizer.tokenizer_type", "vocab_size", _algorithm, "bpe from 5,000 to 100,000 pieces, else char"),
        Derived(
            "tokenizer.byte_fallback",
            "vocab_size",
            lambda size: _algorithm(size) == "bpe",
            "its characters had no byte pieces beside them",
        ),
    ),
    fixed=(
        Fixed("scheduler.scheduler_type", "constant", "it never used a schedule"),
        Fixed("scheduler.warmup_ratio", 0.0, "it never warmed up"),
        Fixed("training.early_stopping_min_delta", 0.0, "any gain counted"),
        *PYTORCH_ADAM,
        *NO_BUDGETS,
    ),
)  # fmt: skip
