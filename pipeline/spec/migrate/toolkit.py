"""What the configuration toolkit kept beside its training configs: tasks, evaluations, tiers, monitoring."""

from __future__ import annotations

from typing import Any

from pipeline.spec.migrate.names import as_name
from pipeline.spec.migrate.table import UNSET, Carried, Dialect, Dropped, Fixed, Lost, is_one_of, words

TASK = Dialect(
    name="task",
    title="task of the configuration toolkit",
    kind="task",
    rows=(
        Carried("name", "name", meaning=as_name),
        Carried("task_type", "task_type"),
        Carried("model_family", "model_family"),
        Carried("modality", "modality", "text"),
        Carried("input_fields", "input_fields"),
        Carried("target_field", "target_field", None),
        Carried("loss_type", "loss_type", meaning=words({"bce": "bce_with_logits"})),
        Carried("metrics", "metrics"),
        *(
            Carried(f"special_tokens.{old}", f"special_tokens.{name}_token")
            for name in ("pad", "bos", "eos", "unk", "sep", "cls", "mask")
            for old in (f"{name}_token", name)
        ),
        Carried("input_schema.max_length", "input_schema.max_length"),
        Carried("input_schema.max_seq_len", "input_schema.max_length"),
        Carried("input_schema.image_size", "input_schema.image_size"),
        Carried("input_schema.num_features", "input_schema.num_features"),
        Carried("input_schema.sample_rate", "input_schema.sample_rate"),
        Carried("output_schema.num_classes", "output_schema.num_classes"),
        Carried("output_schema.vocab_size", "output_schema.vocab_size"),
        Carried("preprocessing_config.normalize", "preprocessing_config.normalize"),
        Carried("preprocessing_config.mean", "preprocessing_config.channel_mean"),
        Carried("preprocessing_config.std", "preprocessing_config.channel_std"),
        Carried("additional_config", "additional_config", {}),
    ),
)

EVALUATION = Dialect(
    name="evaluation",
    title="evaluation of the configuration toolkit",
    kind="evaluation",
    rows=(
        Carried("dataset_id", "dataset_id", None),
        Carried("split", "split", "validation"),
        Carried("max_eval_examples", "max_eval_examples", 512),
        Carried("batch_size", "batch_size", 8),
        Carried("num_workers", "num_workers", 0),
        Carried("max_seq_length", "max_seq_length", 128),
        Carried("eval_interval_steps", "eval_interval_steps", 100),
        Carried("eval_on_start", "eval_on_start", True),
    ),
    fixed=(Fixed("perplexity_clip", 20.0, "where its evaluation cut"),),
)


def _tier(value: Any) -> Any:
    if isinstance(value, str) and value in ("1", "2", "3", "4", "5"):
        return [int(value)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _tier_of_mode(value: Any) -> Any:
    # Only this mode chose a tier; the others are names of presets.
    return [4] if isinstance(value, str) and value.upper() == "EXPORT" else UNSET


_A_STUB = "the earlier command never looked at it: it tested a small model of its own"

TIERS = Dialect(
    name="tiers",
    title="configuration of the tests by tiers",
    kind="tiers",
    rows=(
        Carried("tier", "tiers", 1, meaning=_tier, note="the earlier command ran tier 1 in place of 2 and 3"),
        Carried("mode", "tiers", meaning=_tier_of_mode, note="only EXPORT chose a tier"),
        Carried("num_samples", "export.samples", 5),
        Carried("export.num_samples", "export.samples"),
        Carried("thresholds.fp32", "export.max_abs_diff", 1e-4),
        Carried("thresholds.quantized", "export.max_abs_diff_quantized", 1e-2),
        Lost(
            "export.formats",
            is_one_of(None),
            "tiers look at whatever was exported",
            "set export.formats of the experiment",
        ),
        Lost(
            "export.quantization",
            is_one_of(None),
            "tiers look at whatever was exported",
            "set export.quantization of the experiment",
        ),
        Dropped("task_name", _A_STUB),
        Dropped("model_file", _A_STUB),
        Dropped("model_name", _A_STUB),
        Dropped("export.export_dir", "exports are read from artifacts/export"),
    ),
)

_IN_AN_EVALUATION = "how a model is evaluated stands in a document of its own"

MONITORING = Dialect(
    name="monitoring",
    title="set of monitoring thresholds",
    kind="monitoring",
    rows=(
        *(
            Carried(f"{section}{old}", new, default if not section else UNSET)
            for section in ("", "thresholds.", "drift.")
            for old, new, default in (
                ("drift_threshold_warning", "drift.warn_threshold", 0.1),
                ("drift_threshold_critical", "drift.alert_threshold", 0.2),
            )
        ),
        *(
            Carried(f"{section}{old}", new, default if not section else UNSET)
            for section in ("", "alerts.", "alert_config.")
            for old, new, default in (
                ("val_loss_spike", "alerts.val_loss_spike", 0.2),
                ("accuracy_drop", "alerts.accuracy_drop", 0.05),
                ("gradient_explosion", "gradients.explosion_norm", 10.0),
            )
        ),
        Carried("metric_threshold", "comparison.metric_delta", 0.01),
        Carried("profile_samples", "profile.sample_size", 1000),
        Lost("tier", is_one_of(5, "5"), "thresholds of monitoring belong to tier 5 alone"),
        Dropped("mode", "a monitoring document is for every mode"),
        Dropped("task_name", "a monitoring document is for every task"),
        Dropped("baseline_run_id", "what is compared is named when a comparison is asked for"),
        Dropped("reference_profile_id", "what is compared is named when a comparison is asked for"),
        Lost("eval.*", is_one_of(None), _IN_AN_EVALUATION, "migrate the evaluation's own file"),
    ),
    fixed=(Fixed("comparison.lower_is_better", ["loss"], "names that contain it were better when lower"),),
)
