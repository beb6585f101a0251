"""The fine-tuning JSON: sections for model, tokenizer, training, data, tools, evaluation and TensorBoard."""

from __future__ import annotations

from typing import Any

from pipeline.spec.migrate.names import as_name
from pipeline.spec.migrate.table import UNSET, Carried, Derived, Dialect, Dropped, switch, words

_IGNORED_BY_SFT = "the earlier trainer read it for dpo alone"
_HIDDEN = "templates set it unasked; null takes all examples"
_MADE_BY = {
    "toolbench": "real",
    "pc_building": "real",
    "knowledge_dense": "real",
    "manual_templates": "synthetic",
    "teacher_mode": "synthetic",
    "hybrid": "hybrid",
}
_METRICS = {"format_correctness": "format_accuracy", "execution_success": "execution_accuracy"}
_OPTIMIZERS = words({"adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit"})


def _metrics(value: Any) -> Any:
    return (
        [_METRICS.get(name, name) if isinstance(name, str) else name for name in value]
        if isinstance(value, list)
        else value
    )


def _tools(value: Any) -> Any:
    return [_tool(item) for item in value] if isinstance(value, list) else value


def _tool(item: Any) -> Any:
    if not isinstance(item, dict) or item.get("type") != "function":
        return item
    return {name: part for name, part in item.items() if name != "type"}


def _made_by(strategy: Any) -> Any:
    return _MADE_BY.get(strategy, UNSET) if isinstance(strategy, str) else UNSET


FINETUNING = Dialect(
    name="finetuning",
    title="fine-tuning config",
    kind="finetune",
    rows=(
        Carried("name", "name", meaning=as_name),
        Carried("description", "notes"),
        Carried("model.name", "model.name"),
        Carried("model.trust_remote_code", "model.trust_remote_code", False),
        Carried("model.torch_dtype", "model.torch_dtype"),
        Carried("model.device_map", "model.device_map"),
        Carried("model.load_in_8bit", "model.quantization", meaning=switch("int8", UNSET)),
        Carried("model.load_in_4bit", "model.quantization", meaning=switch("nf4", UNSET)),
        Carried("model.bnb_4bit_use_double_quant", "model.double_quantization"),
        Carried("tokenizer.name", "tokenizer.name"),
        Carried("tokenizer.trust_remote_code", "tokenizer.trust_remote_code", False),
        Carried("tokenizer.padding_side", "tokenizer.padding_side"),
        # Training
        Carried("training.method", "training.method", meaning=words({"rlhf": "ppo"})),
        Carried("training.num_epochs", "training.num_epochs"),
        Carried("training.learning_rate", "training.learning_rate"),
        Carried("training.batch_size", "training.batch_size"),
        Carried("training.gradient_accumulation_steps", "training.gradient_accumulation_steps"),
        Carried("training.max_length", "training.max_length"),
        Carried("training.warmup_steps", "training.warmup_steps"),
        Carried("training.lr_scheduler_type", "training.scheduler_type"),
        Carried("training.max_grad_norm", "training.max_grad_norm", note=_IGNORED_BY_SFT),
        Carried("training.fp16", "training.precision", meaning=switch("16-mixed", UNSET)),
        Carried("training.bf16", "training.precision", meaning=switch("bf16-mixed", UNSET)),
        Carried("training.gradient_checkpointing", "training.gradient_checkpointing"),
        Carried("training.optim", "training.optimizer_name", meaning=_OPTIMIZERS, note=_IGNORED_BY_SFT),
        Carried("training.optimizer", "training.optimizer_name", meaning=_OPTIMIZERS, note=_IGNORED_BY_SFT),
        Carried("training.adam_beta1", "training.adam_beta1", note=_IGNORED_BY_SFT),
        Carried("training.adam_beta2", "training.adam_beta2", note=_IGNORED_BY_SFT),
        Carried("training.adam_epsilon", "training.adam_epsilon", note=_IGNORED_BY_SFT),
        Carried("training.weight_decay", "training.weight_decay", 0.0, note=_IGNORED_BY_SFT),
        Carried("training.use_lora", "training.use_lora"),
        Carried("training.lora_r", "training.lora_r", None),
        Carried("training.lora_alpha", "training.lora_alpha"),
        Carried("training.lora_dropout", "training.lora_dropout"),
        Carried("training.lora_target_modules", "training.lora_target_modules"),
        Carried("training.target_modules", "training.lora_target_modules"),
        Carried("training.packing", "training.packing"),
        Carried("training.beta", "training.beta"),
        Carried("training.dpo_beta", "training.beta"),
        Carried("training.ppo_epochs", "training.ppo_epochs"),
        Carried("training.cliprange", "training.clip_range"),
        Carried("training.vf_coef", "training.value_coefficient"),
        Carried("training.entropy_coef", "training.entropy_coefficient"),
        # Data
        Carried("data.strategy", "data.strategy", meaning=words({"hybrid_training": "hybrid"})),
        Carried("data.generation_type", "data.generation_type"),
        Carried("data.max_samples", "data.max_samples", None, note=_HIDDEN),
        Carried("data.train_split", "data.train_split"),
        Carried("tools", "tools", [], meaning=_tools),
        Carried("evaluation.metrics", "evaluation.metrics", meaning=_metrics),
        Carried("evaluation.eval_steps", "evaluation.eval_steps"),
        Carried("tensorboard.enabled", "tensorboard.enabled"),
        Carried("tensorboard.log_dir", "tensorboard.log_dir"),
        Carried("seed", "seed", note="it also seeds Python and NumPy now"),
        Dropped("output_dir", "artifacts/ holds what is made"),
        Dropped("training.output_dir", "artifacts/ holds what is made"),
    ),
    derived=(
        Derived("training.use_lora", "training.lora_r", lambda rank: rank is not None, "lora_r switched it on"),
        Derived("data.generation_type", "data.strategy", _made_by, "what its strategy makes"),
    ),
)  # fmt: skip
