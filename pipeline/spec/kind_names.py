"""What other tools call the settings and values of documents that are no experiments; see names.py for those."""

from __future__ import annotations

# Kind of document → ours → what transformers, TRL, PEFT, Optuna, W&B and others say. Keys of the items of lists and of
# mappings with free names stand under the path without numbers and free names.
_ALSO_KNOWN_AS = {
    "finetune": {
        "model.name": "model_name model_name_or_path model_id base_model pretrained_model_name_or_path",
        "model.torch_dtype": "dtype",
        "model.quantization": "load_in_4bit load_in_8bit bits quantize quantization_config bnb_4bit_quant_type",
        "model.double_quantization": "bnb_4bit_use_double_quant use_double_quant double_quant",
        "training": "train trainer training_args training_arguments hyperparameters",
        "training.method": "type algorithm stage training_type finetuning_type",
        "training.num_epochs": "num_train_epochs epochs n_epochs max_epochs",
        "training.learning_rate": "lr",
        "training.batch_size": "per_device_train_batch_size per_device_batch_size micro_batch_size bs",
        "training.gradient_accumulation_steps": "grad_accum grad_accum_steps gradient_accumulation accumulation_steps",
        "training.max_length": "max_seq_length max_seq_len cutoff_len model_max_length context_length block_size",
        "training.warmup_steps": "warmup num_warmup_steps",
        "training.scheduler_type": "lr_scheduler_type lr_scheduler",
        "training.max_grad_norm": "grad_clip gradient_clip_val clip_grad_norm",
        "training.precision": "fp16 bf16 mixed_precision amp",
        "training.optimizer_name": "optim optimizer",
        "training.adam_beta1": "beta1",
        "training.adam_beta2": "beta2",
        "training.adam_epsilon": "eps epsilon",
        "training.weight_decay": "wd",
        "training.lora_r": "r rank lora_rank lora_dim",
        "training.lora_alpha": "alpha",
        "training.lora_target_modules": "target_modules lora_target",
        "training.beta": "dpo_beta orpo_beta",
        "training.clip_range": "cliprange clip_epsilon clip_ratio",
        "training.value_coefficient": "vf_coef value_coef",
        "training.entropy_coefficient": "ent_coef entropy_coef",
        "data": "dataset datasets",
        "data.generation_type": "origin source_type",
        "data.paths": "path files data_files train_file",
        "data.max_samples": "num_samples n_samples limit max_train_samples",
        "data.train_split": "train_ratio split_ratio",
        "tools": "functions",
        "tools.parameters": "arguments args input_schema",
        "evaluation": "eval validation",
        "evaluation.eval_steps": "eval_interval eval_every",
        "tensorboard.log_dir": "logging_dir",
        "seed": "random_seed manual_seed",
    },
    "sweep": {
        "base": "spec config program experiment",
        "space": "parameters params search_space grid",
        "space.kind": "type distribution",
        "space.values": "choices options",
        "space.low": "min minimum lower",
        "space.high": "max maximum upper",
        "space.points": "num count n q",
        "method": "sampler algorithm search_alg strategy",
        "seed": "random_seed",
        "startup_trials": "n_startup_trials",
        "objective": "metric target",
        "direction": "goal",
        "budget.max_trials": "n_trials num_trials trials run_cap",
        "budget.max_minutes": "timeout max_time",
        "pruning": "early_terminate",
        "parallel_jobs": "n_jobs jobs workers max_concurrent",
    },
    "policy": {
        "triggers": "rules conditions",
        "triggers.kind": "type trigger",
        "triggers.max_degradation": "tolerance degradation_threshold performance_threshold",
        "triggers.threshold": "drift_threshold js_threshold",
        "triggers.interval_hours": "interval hours every",
        "triggers.percentage": "percent",
        "triggers.samples": "min_samples num_samples",
    },
    "task": {
        "task_type": "type",
        "model_family": "architecture family",
        "loss_type": "loss",
        "target_field": "target label label_field",
        "input_fields": "inputs",
    },
    "evaluation": {
        "dataset_id": "dataset eval_dataset_id",
        "max_eval_examples": "max_samples max_examples limit",
        "batch_size": "eval_batch_size per_device_eval_batch_size",
        "num_workers": "dataloader_num_workers workers",
        "eval_interval_steps": "eval_steps eval_every eval_interval",
        "max_seq_length": "max_length max_seq_len",
    },
    "monitoring": {
        "drift.warn_threshold": "drift_threshold_warning warning warning_threshold",
        "drift.alert_threshold": "drift_threshold_critical critical critical_threshold",
        "alerts.val_loss_spike": "val_loss_spike_threshold",
        "gradients.explosion_norm": "gradient_explosion gradient_explosion_threshold",
    },
}

# Kind of document → setting → what people write → what we call it. Compared in lower case.
VALUES_OF_KINDS: dict[str, dict[str, dict[str, str]]] = {
    "finetune": {
        "model.torch_dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"},
        "model.device_map": {"gpu": "cuda", "cuda:0": "cuda", "none": "null"},
        "model.quantization": {"8bit": "int8", "4bit": "nf4", "int4": "nf4", "none": "null"},
        "training.method": {"rlhf": "ppo", "pretrain": "cpt", "continued_pretraining": "cpt", "supervised": "sft"},
        "training.precision": {"fp16": "16-mixed", "bf16": "bf16-mixed", "fp32": "32-true", "float32": "32-true"},
        "training.optimizer_name": {"adam": "adamw", "adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit"},
        "data.generation_type": {"generated": "synthetic", "mixed": "hybrid"},
        "evaluation.metrics": {
            "format_correctness": "format_accuracy",
            "execution_success": "execution_accuracy",
            "accuracy": "tool_accuracy",
        },
    },
    "sweep": {
        "method": {
            "bayes": "tpe",
            "bayesian": "tpe",
            "optuna": "tpe",
            "grid_search": "grid",
            "random_search": "random",
        },
        "direction": {"min": "minimize", "max": "maximize"},
        "pruning.pruner": {"none": "null"},
    },
    "policy": {
        "logic": {"any": "or", "all": "and"},
        "triggers.logic": {"any": "or", "all": "and"},
        "triggers.severity": {"error": "critical", "high": "critical", "low": "info", "warn": "warning"},
    },
    "task": {
        "task_type": {"causal_lm": "lm", "language_model": "lm", "language_modeling": "lm"},
        "loss_type": {"ce": "cross_entropy", "bce": "bce_with_logits", "binary_cross_entropy": "bce_with_logits"},
    },
    "evaluation": {"split": {"val": "validation", "valid": "validation", "dev": "validation"}},
}


def _inverted(ours_to_others: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for ours, others in ours_to_others.items():
        for other in others.split():
            found[other] = (*found.get(other, ()), ours)
    return found


# Kind of document → what another tool says → the paths that it can mean.
NAMES_OF_KINDS = {kind: _inverted(table) for kind, table in _ALSO_KNOWN_AS.items()}
