"""What is valid in an experiment and changes nothing under its other settings. Each row warns (W0102)."""

from __future__ import annotations

from pipeline.spec.rule import MASKED, PICTURE_KINDS, Unread

_HAS_PICTURES = "the source has pictures"


def _is_of_pictures(kind: str) -> bool:
    return kind in PICTURE_KINDS


# Only values that differ from the default are reported: a complete spec spells out settings that happen to be idle.
UNREAD_IN_EXPERIMENT: tuple[Unread, ...] = (
    Unread("scheduler.warmup_ratio", "scheduler.warmup_steps", lambda steps: steps is not None, "warmup_steps is set"),
    Unread(
        "scheduler.decay_ratio", "scheduler.scheduler_type", lambda kind: kind != "wsd", "scheduler_type is not wsd"
    ),
    Unread(
        "scheduler.min_lr_ratio",
        "scheduler.scheduler_type",
        lambda kind: kind == "constant",
        "scheduler_type is constant",
    ),
    Unread(
        "training.early_stopping_min_delta",
        "training.early_stopping_patience",
        lambda patience: patience is None,
        "early_stopping_patience is null",
    ),
    Unread(
        "training.early_stopping_patience",
        "dataset.validation_split",
        lambda share: share == 0,
        "validation_split is 0, so there is nothing to watch",
    ),
    *(
        Unread(
            f"optimizer.{name}",
            "optimizer.optimizer_name",
            lambda optimizer: optimizer != "muon",
            "optimizer_name is not muon",
        )
        for name in ("muon_learning_rate", "muon_momentum", "muon_method")
    ),
    Unread("model.rope_theta", "model.model_type", lambda kind: kind != "llama", "model_type is not llama"),
    Unread(
        "dataset.split_seed",
        "dataset.split_method",
        lambda method: method == "contiguous",
        "split_method is contiguous",
    ),
    Unread(
        "dataset.source.revision",
        "dataset.source.repository",
        lambda name: name.startswith((".", "/")),
        "repository is a folder, which has no revision",
    ),
    Unread(
        "dataset.source.text_field",
        "dataset.source.format",
        lambda form: form in ("text", "markdown"),
        "format is not jsonl, which alone has fields",
    ),
    Unread(
        "dataset.cleaning.strip_markdown",
        "dataset.source.format",
        lambda form: form == "text",
        "format is text, which has no Markdown marks",
    ),
    Unread("dataset.max_val_samples", "dataset.validation_split", lambda share: share == 0, "validation_split is 0"),
    Unread(
        "training.eval_every_n_steps",
        "dataset.validation_split",
        lambda share: share == 0,
        "validation_split is 0, so there is nothing to evaluate on",
    ),
    Unread("hardware.use_tf32", "hardware.device", lambda device: device == "cpu", "device is cpu"),
    Unread(
        "hardware.use_gradient_checkpointing",
        "model.model_type",
        lambda kind: kind == "cnn",
        "model_type is cnn, whose blocks are few and small",
    ),
    Unread(
        "hardware.use_tf32",
        "hardware.precision",
        lambda precision: precision not in ("auto", "32-true", "32"),
        "no product is in float32 with this precision",
    ),
    Unread("hardware.compile_fullgraph", "hardware.compile_mode", lambda mode: mode is None, "compile_mode is null"),
    Unread("hardware.compile_dynamic", "hardware.compile_mode", lambda mode: mode is None, "compile_mode is null"),
    Unread(
        "logging.sample_max_new_tokens",
        "logging.sample_prompts",
        lambda prompts: not prompts,
        "sample_prompts is empty",
    ),
    Unread(
        "logging.sample_temperature", "logging.sample_prompts", lambda prompts: not prompts, "sample_prompts is empty"
    ),
    *(
        Unread(f"logging.{setting}", "logging.use_wandb", lambda used: not used, "use_wandb is false")
        for setting in ("wandb_project", "wandb_entity", "wandb_mode")
    ),
    Unread(
        "validation.generation_seed",
        "validation.temperature",
        lambda temperature: temperature == 0,
        "temperature 0 always takes the likeliest token",
    ),
    *(
        Unread(name, "dataset.source.kind", _is_of_pictures, _HAS_PICTURES)
        for name in (
            "dataset.cleaning.normalize_unicode",
            "dataset.cleaning.strip_control_characters",
            "dataset.cleaning.strip_markdown",
            "dataset.cleaning.drop_duplicate_paragraphs",
            "dataset.cleaning.min_document_characters",
            "dataset.split_method",
            "dataset.min_corpus_characters",
            "tokenizer.tokenizer_type",
            "tokenizer.vocab_size",
            "tokenizer.character_coverage",
            "tokenizer.byte_fallback",
            "tokenizer.special_tokens",
            "tokenizer.max_sentence_length",
        )
    ),
    *(
        Unread(f"model.{name}", "model.model_type", lambda kind: kind == "cnn", "model_type is cnn")
        for name in (
            "d_model",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "d_ff",
            "max_seq_len",
            "attention_dropout",
            "tie_embeddings",
            "init_std",
            "qk_norm",
            "activation",
            "zero_init",
            "short_conv",
            "separate_documents",
        )
    ),
    *(
        Unread(f"model.{name}", "model.model_type", lambda kind: kind != "cnn", "model_type is not cnn")
        for name in ("stage_channels", "blocks_per_stage", "norm_groups")
    ),
    *(
        Unread(f"model.{name}", "model.model_type", lambda kind: kind == "bert", "model_type is bert")
        for name in ("num_kv_heads", "qk_norm", "activation", "zero_init", "short_conv")
    ),
    *(
        Unread(name, "task.task_type", lambda kind: kind == MASKED, "hidden tokens are filled in, no text is written")
        for name in (
            "logging.sample_max_new_tokens",
            "logging.sample_temperature",
            "validation.max_new_tokens",
            "validation.temperature",
            "validation.generation_seed",
            "export.generated_tokens",
        )
    ),
    Unread(
        "task.label_threshold",
        "task.task_type",
        lambda kind: kind != "vision_multilabel",
        "task_type is not vision_multilabel",
    ),
    Unread("model.pooling", "task.task_type", lambda kind: kind != "text_classification", "the model is no classifier"),
    Unread(
        "export.opset",
        "export.formats",
        lambda formats: not {"onnx", "onnx_cache", "int8"} & {*formats},
        "formats has nothing in ONNX",
    ),
    Unread("export.quantization", "export.formats", lambda formats: "int8" not in formats, "formats has no int8"),
)
