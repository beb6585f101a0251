"""What other tools call our settings and values, so that `lr` can be answered with `learning_rate`."""

from __future__ import annotations

# Ours → what nanoGPT, Hugging Face, Lightning, Keras, PyTorch, SentencePiece, Megatron and others say.
# Names are compared in lower case with `_` for `-`. A name may stand under several of ours: the section it is used in
# decides.
_ALSO_KNOWN_AS = {
    "name": "experiment_name project_name title",
    "notes": "comment comments description tags",
    "schema_version": "version config_version spec_version format_version",
    "dataset": "data datasets corpus",
    "tokenizer": "tokeniser tokenization vocab vocabulary",
    "model": "architecture network net transformer model_config",
    "training": "train trainer training_args training_arguments hyperparameters",
    "optimizer": "optim optimiser",
    "scheduler": "lr_scheduler learning_rate_scheduler schedule lr_schedule",
    "hardware": "accelerator compute runtime machine",
    "checkpointing": "checkpoint checkpoints",
    "logging": "logger log logs",
    "reproducibility": "determinism",
    "validation": "validate evaluation evaluate eval",
    "export": "exports exporting",
    "dataset.source.paths": (
        "path file files folder directory data_path data_dir data_file data_files train_file corpus_path"
    ),
    "dataset.source.url": "uri link download_url corpus_url",
    "dataset.source.sha256": "hash checksum digest sha",
    "dataset.source.kind": "type source_type",
    "dataset.source.package": "wheel distribution",
    "dataset.source.members": "globs glob patterns",
    "dataset.source.format": "file_format file_type",
    "dataset.source.text_field": "text_column text_key content_field dataset_text_field",
    "dataset.source.repository": "repo repo_id hub_id dataset_path dataset_repo name",
    "dataset.source.revision": "commit commit_hash dataset_revision",
    "dataset.source.subset": "dataset_subset config_name dataset_config dataset_config_name",
    "dataset.source.split": "dataset_split train_split split_name",
    "dataset.source.max_rows": "n_rows num_rows max_examples",
    "dataset.dataset_name": "dataset_id name",
    "dataset.label_field": "label_column label_key class_field",
    "dataset.target_field": "target_column target_key",
    "dataset.validation_split": "val_split valid_split val_ratio val_fraction val_size validation_ratio dev_split",
    "dataset.test_split": "test_ratio test_fraction test_size",
    "dataset.max_train_samples": "max_samples num_train_samples",
    "dataset.max_val_samples": "max_eval_samples max_validation_samples num_val_samples",
    "dataset.split_seed": "shuffle_seed data_seed",
    "tokenizer.tokenizer_type": "algorithm tokenizer_model tokenizer_class tokenizer_algorithm type name",
    "tokenizer.vocab_size": "vocabulary_size n_vocab num_embeddings padded_vocab_size",
    "tokenizer.special_tokens": "user_defined_symbols additional_special_tokens control_symbols",
    "tokenizer.character_coverage": "coverage",
    "task.task_type": "type",
    "task.task_name": "name",
    "model.d_model": (
        "n_embd n_embed hidden_size hidden_dim dim embed_dim embedding_dim embedding_size emb_dim model_dim width"
    ),
    "model.num_layers": "n_layer n_layers num_hidden_layers layers depth num_blocks",
    "model.num_heads": "n_head n_heads num_attention_heads nhead heads attention_heads",
    "model.num_kv_heads": "n_kv_head n_kv_heads num_key_value_heads num_query_groups n_query_groups kv_heads",
    "model.d_ff": (
        "intermediate_size n_inner ffn_dim ffn_hidden_size dim_feedforward feedforward_dim mlp_dim hidden_ff d_inner"
    ),
    "model.max_seq_len": (
        "block_size max_length context_length context_size n_ctx n_positions max_position_embeddings "
        "max_seq_length sequence_length seq_len seq_length model_max_length cutoff_len ctx_len context_window"
    ),
    "model.dropout": ("dropout_rate drop_rate p_dropout resid_pdrop embd_pdrop hidden_dropout_prob"),
    "model.attention_dropout": "attn_pdrop attn_dropout attention_probs_dropout_prob attention_dropout_rate",
    "model.tie_embeddings": "tie_word_embeddings tied_embeddings weight_tying tie_weights share_embeddings",
    "model.rope_theta": "rope_base rotary_base rotary_emb_base",
    "model.norm_epsilon": "norm_eps rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon eps epsilon",
    "model.init_std": "initializer_range init_scale initializer_std",
    "model.qk_norm": "qk_layernorm use_qk_norm query_key_norm qk_normalization",
    "model.activation": "activation_function hidden_act act_fn hidden_activation mlp_type ffn_type activation_fn",
    "model.separate_documents": "document_mask packing pack_documents reset_attention_mask block_diagonal_attention",
    "model.short_conv": "conv_size short_convolution conv_kernel_size d_conv canon canon_kernel use_short_conv",
    "model.zero_init": "zero_init_residual zero_output_init",
    "model.model_type": "arch model_class type",
    "model.model_name": "name",
    "model.pooling": "pooling_type pool",
    "training.learning_rate": "lr max_lr peak_lr base_lr initial_lr init_lr step_size",
    "training.batch_size": (
        "per_device_train_batch_size per_device_batch_size train_batch_size micro_batch_size mini_batch_size "
        "bs device_batch_size batchsize"
    ),
    "training.gradient_accumulation_steps": (
        "accumulate_grad_batches grad_accum grad_accum_steps grad_accumulation_steps gradient_accumulation "
        "accumulation_steps gradient_accumulation_iters"
    ),
    "training.epochs": "num_train_epochs num_epochs n_epochs max_epochs total_epochs epoch",
    "training.max_steps": (
        "max_iters max_iterations num_steps n_steps total_steps train_steps max_train_steps num_iterations steps"
    ),
    "training.max_grad_norm": (
        "grad_clip gradient_clip_val gradient_clip gradient_clipping clip_grad clip_grad_norm grad_norm_clip "
        "clip_norm max_norm"
    ),
    "training.eval_every_n_steps": (
        "eval_steps eval_interval eval_every val_check_interval evaluation_interval val_every val_interval"
    ),
    "training.early_stopping_patience": "patience early_stopping early_stop es_patience",
    "training.early_stopping_min_delta": "min_delta early_stopping_threshold",
    "training.ema_decay": "ema ema_rate",
    "training.on_nonfinite": "skip_nan nan_policy",
    "training.resume_from_checkpoint": "init_from resume_from ckpt_path checkpoint_path",
    "optimizer.optimizer_name": "optimizer_type optim_name type name",
    "optimizer.adam_beta1": "beta1 beta_1 b1 betas",
    "optimizer.adam_beta2": "beta2 beta_2 b2",
    "optimizer.adam_epsilon": "eps epsilon adam_eps",
    "optimizer.muon_method": "orthogonalization muon_orthogonalization ns_method",
    "optimizer.weight_decay": "wd l2 decay weight_decay_rate",
    "scheduler.scheduler_type": "lr_scheduler_type scheduler_name lr_decay_style decay_lr type name",
    "scheduler.warmup_ratio": "warmup_fraction warmup_proportion warmup_frac pct_start",
    "scheduler.warmup_steps": "warmup warmup_iters num_warmup_steps n_warmup_steps lr_warmup_steps lr_warmup_iters",
    "scheduler.min_lr_ratio": "min_lr eta_min min_learning_rate final_lr_fraction lr_min end_lr",
    "scheduler.decay_ratio": "decay_fraction cooldown_ratio cooldown_fraction warmdown_ratio",
    "hardware.device": "gpu cuda use_cuda",
    "hardware.precision": "dtype torch_dtype mixed_precision amp fp16 bf16 fp32 half float16 bfloat16 autocast",
    "hardware.strategy": "ddp fsdp distributed parallel_strategy",
    "hardware.devices": "n_gpus num_gpus gpus num_devices n_devices",
    "hardware.num_nodes": "nnodes n_nodes nodes",
    "hardware.compile_mode": "compile torch_compile use_compile compile_model",
    "hardware.num_threads": "threads n_threads num_cpus cpu_threads omp_num_threads",
    "hardware.use_tf32": "tf32 allow_tf32 enable_tf32",
    "hardware.use_gradient_checkpointing": "gradient_checkpointing activation_checkpointing grad_checkpointing",
    "checkpointing.save_every_n_steps": (
        "save_steps save_interval save_every checkpoint_interval checkpoint_every checkpoint_steps every_n_train_steps"
    ),
    "checkpointing.keep_last_n": "save_total_limit max_checkpoints max_to_keep keep_checkpoints",
    "checkpointing.keep_best_k": "save_top_k keep_top_k",
    "checkpointing.save_every_n_minutes": "save_every_minutes train_time_interval",
    "checkpointing.keep_best_only": "save_best_only load_best_model_at_end",
    "checkpointing.monitor": "metric_for_best_model monitor_metric",
    "logging.console_level": "log_level verbosity level verbose",
    "logging.log_every_n_steps": "logging_steps log_interval log_every log_freq logging_interval",
    "logging.use_tensorboard": "tensorboard use_tb",
    "logging.use_wandb": "wandb report_to weights_and_biases",
    "logging.wandb_project": "wandb_project_name",
    "logging.wandb_entity": "entity wandb_team",
    "logging.run_name": "wandb_name wandb_run_name",
    "reproducibility.random_seed": "seed manual_seed torch_seed rng_seed global_seed random_state",
    "reproducibility.deterministic": "use_deterministic_algorithms deterministic_algorithms cudnn_deterministic",
    "validation.max_new_tokens": "max_tokens max_generated_tokens",
    "validation.split": "eval_split",
    "validation.budgets": "budget limits thresholds",
    "validation.generation_seed": "sampling_seed",
    "export.formats": "export_formats",
    "export.opset": "opset_version onnx_opset",
    "export.max_abs_diff": "atol tolerance max_diff",
}

# Setting → what people write → what we call it. Compared in lower case.
VALUES: dict[str, dict[str, str]] = {
    "dataset.source.kind": {
        "file": "files",
        "folder": "files",
        "directory": "files",
        "local": "files",
        "path": "files",
        "http": "url",
        "https": "url",
        "web": "url",
        "download": "url",
        "pypi": "wheel",
        "package": "wheel",
        "pip": "wheel",
        "huggingface": "hub",
        "hf": "hub",
        "datasets": "hub",
    },
    "dataset.source.format": {"txt": "text", "plain": "text", "md": "markdown", "json": "jsonl", "ndjson": "jsonl"},
    "dataset.source.compression": {"gz": "gzip", "null": "none", "no": "none"},
    "dataset.split_method": {
        "random": "document",
        "hash": "document",
        "sequential": "contiguous",
        "ordered": "contiguous",
    },
    "tokenizer.tokenizer_type": {
        "sentencepiece": "unigram",
        "spm": "unigram",
        "byte_pair": "bpe",
        "bytepair": "bpe",
        "character": "char",
        "characters": "char",
        "words": "word",
        "whitespace": "word",
    },
    "task.task_type": {
        "language_model": "lm",
        "language_modeling": "lm",
        "causal_lm": "lm",
        "clm": "lm",
        "text_generation": "lm",
    },
    "model.model_type": {
        "gpt2": "gpt",
        "gpt-2": "gpt",
        "nanogpt": "gpt",
        "llama2": "llama",
        "llama3": "llama",
        "mistral": "llama",
    },
    "optimizer.optimizer_name": {"adam": "adamw", "adamw_torch": "adamw", "adam_w": "adamw"},
    "scheduler.scheduler_type": {
        "cosine_with_warmup": "cosine",
        "cosineannealing": "cosine",
        "cosineannealinglr": "cosine",
        "cosine_annealing": "cosine",
        "linear_with_warmup": "linear",
        "none": "constant",
        "constant_with_warmup": "constant",
        "trapezoidal": "wsd",
        "warmup_stable_decay": "wsd",
    },
    "hardware.device": {"gpu": "cuda", "cuda:0": "cuda", "nvidia": "cuda"},
    "hardware.precision": {
        "bfloat16": "bf16-mixed",
        "mixed": "bf16-mixed",
        "fp16": "16-mixed",
        "fp32": "32-true",
        "float32": "32-true",
        "full": "32-true",
        "true": "bf16-mixed",
        "false": "32-true",
    },
    "hardware.compile_mode": {
        "true": "default",
        "false": "null",
        "none": "null",
        "off": "null",
        "reduce_overhead": "reduce-overhead",
    },
    "logging.console_level": {"warn": "warning", "debug": "info", "quiet": "warning", "error": "warning"},
    "validation.split": {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"},
    "validation.on_budget_failure": {"error": "fail", "abort": "fail", "ignore": "warn", "warning": "warn"},
    "export.formats": {
        "torch": "pytorch",
        "pt": "pytorch",
        "safetensors": "pytorch",
        "jit": "torchscript",
        "script": "torchscript",
        "onnxruntime": "onnx",
        "ort": "onnx",
    },
}


def _inverted() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for ours, others in _ALSO_KNOWN_AS.items():
        for other in others.split():
            found[other] = (*found.get(other, ()), ours)
    return found


# What another tool says → the dotted names it can mean here.
NAMES = _inverted()

_FOLDERS = "artifacts/ holds what is made, reports/ its figures, .work/ the checkpoints"
_IN_MEMORY = "the encoded corpus is read from memory"
_IN_TURN = "each epoch has an order of its own, from reproducibility.random_seed"
_STAGES = "`foundry run` runs every stage whose inputs changed"
# What other tools must be told, and this toolkit need not → how it is here.
NEEDLESS = {
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "checkpoint_dir", "logging_dir", "log_dir"), _FOLDERS),
    **dict.fromkeys(("overwrite_output_dir", "overwrite_cache"), "what is made again takes the place of what was"),
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "pin_memory", "prefetch_factor"), _IN_MEMORY),
    **dict.fromkeys(
        ("shuffle", "shuffle_data"), "each epoch has an order of its own, from reproducibility.random_seed"
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _STAGES),
}
