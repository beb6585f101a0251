"""What is right in an experiment but rarely meant. Each row warns (codes W) and none blocks."""

from __future__ import annotations

from pipeline.spec.rule import Finding, Rule

_FLOAT32 = ("32-true", "32")
_SPREADING = ("ddp", "fsdp", "fsdp_native", "dp")

# GPT-3 (Brown et al. 2020, table 2.1) takes 6e-4 at width 768 and 1.2e-4 at width 4096: rate x width is 0.3 to 0.7 over
# all its sizes, and 0.38 in the shipped experiment. Five times their middle is more than a guess that went a bit wide.
_RATE_TIMES_WIDTH = 2.0
_NEVER_UNUSUAL, _ALWAYS_UNUSUAL = 1e-3, 1e-2

# As in training.hardware, where `auto` weighs it: below that, compiling costs more time than it saves.
FLOPS_WORTH_COMPILING = 2e13


def rate_fits_width(learning_rate: float, d_model: int, model_type: str) -> Finding:
    """The wider a transformer, the smaller the steps that it stands."""
    if model_type == "cnn":
        return None
    usual = min(max(_RATE_TIMES_WIDTH / d_model, _NEVER_UNUSUAL), _ALWAYS_UNUSUAL)
    if learning_rate <= usual:
        return None
    message = (
        f"learning_rate {learning_rate:g} is high for d_model {d_model}: training often diverges above {usual:.2g}"
    )
    return message, f"try {usual / 5:.1g}, or keep it and watch the loss"


def several_devices_to_spread_over(strategy: str | None, devices: object, num_nodes: int) -> Finding:
    """A strategy for many devices has nothing to do on one."""
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    if strategy not in _SPREADING or not one or num_nodes > 1:
        return None
    return f"strategy {strategy} spreads training over devices, but there is one", "set strategy to auto"


def mixing_is_not_switched_off(use_amp: bool | None, precision: str) -> Finding:
    """Mixed precision cannot be on where everything is float32."""
    if use_amp is not True or precision not in _FLOAT32:
        return None
    return f"use_amp is true, but precision {precision} mixes nothing", "set precision to auto, or use_amp to null"


def graphics_processors_mix(precision: str, device: str) -> Finding:
    """A GPU is several times as fast in 16 bits, with half the memory for activations."""
    if device != "cuda" or precision not in _FLOAT32:
        return None
    return (
        f"precision {precision} on a CUDA device trains slowly and takes twice the memory for activations",
        "set precision to bf16-mixed or auto",
    )


def warmup_has_a_step(warmup_ratio: float, warmup_steps: int | None, max_steps: int | None) -> Finding:
    """A share of few steps can be none at all."""
    if warmup_steps is not None or max_steps is None or warmup_ratio == 0 or round(warmup_ratio * max_steps) >= 1:
        return None
    return (
        f"warmup_ratio {warmup_ratio:g} of max_steps {max_steps} is less than one step: there is no warmup",
        "set warmup_steps, or warmup_ratio to 0 if none is meant",
    )


def compiling_pays(  # noqa: PLR0917 - a rule takes the values that it reads
    compile_mode: str | None,
    max_steps: int | None,
    batch_size: int,
    gradient_accumulation_steps: int,
    max_seq_len: int,
    d_model: int,
    d_ff: int,
    num_layers: int,
    model_type: str,
) -> Finding:
    """torch.compile takes half a minute before the first step."""
    if compile_mode in ("auto", None) or max_steps is None or model_type == "cnn":
        return None
    tokens = max_steps * batch_size * gradient_accumulation_steps * max_seq_len
    weights = num_layers * (4 * d_model**2 + 3 * d_model * d_ff)  # of attention and feed-forward parts: most of all
    if 6 * weights * tokens >= FLOPS_WORTH_COMPILING:  # forward and backward
        return None
    return (
        f"compile_mode {compile_mode} compiles for half a minute, which a run of {max_steps} steps does not earn back",
        "set it to auto, which weighs this, or to null",
    )


def evaluation_comes_before_the_end(eval_every_n_steps: int | None, max_steps: int | None) -> Finding:
    """An interval longer than the run never comes."""
    return _interval_ends("eval_every_n_steps", eval_every_n_steps, max_steps, "the model is evaluated at the end only")


def checkpoint_comes_before_the_end(save_every_n_steps: int | None, max_steps: int | None) -> Finding:
    """An interval longer than the run never comes."""
    return _interval_ends("save_every_n_steps", save_every_n_steps, max_steps, "it saves no checkpoint on the way")


def _interval_ends(name: str, interval: int | None, max_steps: int | None, outcome: str) -> Finding:
    if interval is None or max_steps is None or interval <= max_steps:
        return None
    return f"{name} {interval} is beyond max_steps {max_steps}: {outcome}", f"take {max_steps} or less"


def formats_outlive_torch(formats: list[str]) -> Finding:
    """PyTorch has deprecated TorchScript; beside a format with a future it does no harm."""
    if formats != ["torchscript"]:
        return None
    return "torchscript is the only format, and PyTorch has deprecated it", "add onnx"


def prompts_hide_something(task_type: str, prompts: list[str]) -> Finding:
    """A model that fills in what is hidden has nothing to do where nothing is."""
    if task_type != "masked_lm" or all("<mask>" in prompt for prompt in prompts):
        return None
    whole = next(prompt for prompt in prompts if "<mask>" not in prompt)
    return f"the prompt {whole!r} has no <mask>, so nothing is filled in", "write <mask> for each token to be guessed"


def budgets_can_be_missed(on_budget_failure: str, *budgets: float | None) -> Finding:
    """What happens to a missed budget matters where there is one."""
    if on_budget_failure == "fail" or any(budget is not None for budget in budgets):
        return None
    return "`validation.on_budget_failure` has no effect: every budget is null", "remove it"


ODD_EXPERIMENT = (
    Rule("W0101", ("training.learning_rate", "model.d_model", "model.model_type"), rate_fits_width),
    Rule(
        "W0102",
        (
            "validation.on_budget_failure", "validation.budgets.val_loss", "validation.budgets.rss_mb",
            "validation.budgets.peak_mb", "validation.budgets.latency_p95_ms", "validation.budgets.model_mb",
            "validation.budgets.training_minutes",
        ),
        budgets_can_be_missed,
    ),
    Rule(
        "W0104", ("hardware.strategy", "hardware.devices", "hardware.num_nodes"), several_devices_to_spread_over
    ),
    Rule("W0105", ("hardware.use_amp", "hardware.precision"), mixing_is_not_switched_off),
    Rule("W0106", ("hardware.precision", "hardware.device"), graphics_processors_mix),
    Rule(
        "W0107", ("scheduler.warmup_ratio", "scheduler.warmup_steps", "training.max_steps"), warmup_has_a_step
    ),
    Rule(
        "W0108",
        (
            "hardware.compile_mode", "training.max_steps", "training.batch_size",
            "training.gradient_accumulation_steps", "model.max_seq_len", "model.d_model", "model.d_ff",
            "model.num_layers", "model.model_type",
        ),
        compiling_pays,
    ),
    Rule("W0109", ("training.eval_every_n_steps", "training.max_steps"), evaluation_comes_before_the_end),
    Rule("W0109", ("checkpointing.save_every_n_steps", "training.max_steps"), checkpoint_comes_before_the_end),
    Rule("W0110", ("export.formats",), formats_outlive_torch),
    Rule("W0114", ("task.task_type", "logging.sample_prompts"), prompts_hide_something),
    Rule("W0114", ("task.task_type", "validation.prompts"), prompts_hide_something),
)  # fmt: skip
