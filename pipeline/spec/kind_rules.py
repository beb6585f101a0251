"""What a schema cannot say of documents that are no experiments: their rules, which the tables of rules.py take in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.directions import direction as better
from pipeline.spec.objectives import meant_by, stage_of
from pipeline.spec.rule import Finding, InnerFinding, InnerRule, Rule, Unread
from pipeline.spec.schema import is_leaf, schema_at, schema_of
from pipeline.spec.space import grid_values
from pipeline.spec.suggest import suggest_key
from pipeline.spec.words import expected, listed, spelled

# Task

_TEXT_OUT = ("lm", "masked_lm", "seq2seq")
_CLASSES = ("classification", "text_classification", "vision_classification", "vision_multilabel")
_FAMILIES = {  # other tasks: every family
    "lm": ("decoder_only",),
    "masked_lm": ("encoder_only",),
    "seq2seq": ("encoder_decoder", "decoder_only"),
}
_MODALITIES = {
    "lm": "text",
    "masked_lm": "text",
    "seq2seq": "text",
    "text_classification": "text",
    "vision_classification": "vision",
    "vision_multilabel": "vision",
}
_SHAPES = {"vision": "image_size", "tabular": "num_features", "audio": "sample_rate"}
_SCORES_OF_TEXT = ("perplexity", "bits_per_byte", "exact_match")
_SCORES_OF_CLASSES = ("top5_accuracy", "precision", "recall", "f1")
_STRANGE_TO_LABELS = ("perplexity", "bits_per_byte", "accuracy", "top5_accuracy")  # of any number there is no likeliest


def family_fits_task(model_family: str, task_type: str) -> Finding:
    """Who predicts the next token must not see it."""
    families = _FAMILIES.get(task_type, (model_family,))
    if model_family in families:
        return None
    return f"task type {task_type} does not work with model family {model_family}", f"take {listed(families)}"


def loss_fits_task(loss_type: str, task_type: str) -> Finding:
    """One answer out of many needs a softmax; any number of answers needs a yes or no for each."""
    fitting = "bce_with_logits" if task_type == "vision_multilabel" else "cross_entropy"
    if loss_type == fitting:
        return None
    return f"task type {task_type} does not work with loss {loss_type}", f"take {fitting}"


def modality_fits_task(modality: str, task_type: str) -> Finding:
    """A task on texts reads texts, one on pictures reads pictures."""
    fitting = _MODALITIES.get(task_type, modality)
    if modality == fitting:
        return None
    return f"task type {task_type} does not work with modality {modality}", f"take {fitting}"


def classes_are_counted(task_type: str, num_classes: int | None) -> Finding:
    """A classifier has an output for each class."""
    if task_type not in _CLASSES or num_classes is not None:
        return None
    return f"task type {task_type} needs the number of classes", "set output_schema.num_classes"


def input_has_a_shape(
    modality: str, image_size: Sequence[int] | None, num_features: int | None, sample_rate: int | None
) -> Finding:
    """What is not text has a size that no tokenizer decides."""
    needed = _SHAPES.get(modality)
    given = {"image_size": image_size, "num_features": num_features, "sample_rate": sample_rate}
    if needed is None or given[needed] is not None:
        return None
    return f"modality {modality} needs the shape of an input", f"set input_schema.{needed}"


def channels_agree(
    channel_mean: Sequence[float] | None, channel_std: Sequence[float] | None, image_size: Sequence[int] | None
) -> Finding:
    """Each channel has one mean and one deviation."""
    lists = {"channel_mean": channel_mean, "channel_std": channel_std}
    for name, values in lists.items():
        if image_size is not None and values is not None and len(values) != image_size[0]:
            return (
                f"{name} has {len(values)} values, but an image has {image_size[0]} channels",
                "give one value for each channel, or null",
            )
    return None


def metrics_fit_task(metrics: Sequence[str], task_type: str) -> Finding:
    """Perplexity is of texts, F1 is of classes."""
    strange = _SCORES_OF_CLASSES if task_type in _TEXT_OUT else _SCORES_OF_TEXT
    strange = _STRANGE_TO_LABELS if task_type == "vision_multilabel" else strange
    wrong = [name for name in metrics if name in strange]
    if not wrong:
        return None
    return f"task type {task_type} has no {listed(wrong)}", f"remove {listed(wrong, 'and')} from the metrics"


def input_holds_a_target(max_length: int | None, task_type: str) -> Finding:
    """Of one token there is no next."""
    if task_type not in _TEXT_OUT or max_length is None or max_length > 1:
        return None
    return f"task type {task_type} needs inputs of at least 2 tokens", "raise input_schema.max_length"


# Limits, in several kinds


def ascending(*names: str) -> Callable[..., Finding]:
    """The rule that the values of some settings, given in the order of `names`, grow."""

    def broken(*values: float) -> Finding:
        for name, value, above, limit in zip(names, values, names[1:], values[1:], strict=False):
            if value >= limit:
                return f"{name} {value:g} is not below {above} {limit:g}", f"lower {name}, or raise {above}"
        return None

    return broken


# Sweep

_NUMBERS = ("range", "log_range")
_DRAWN = ("random", "tpe")


def swept_settings_exist(space: Mapping[str, Any]) -> Iterator[InnerFinding]:
    """Each name in the space is that of a setting of an experiment."""
    for path in space:
        if _setting(path) is not None:
            continue
        keys = tuple(path.split("."))
        if (section := _found(keys)) is not None:
            inside = f"{path}.{next(iter(section['properties']))}"
            yield (path,), f"`{path}` is a section of an experiment, not a setting", f"name a setting, as {inside}"
            continue
        home = keys[:-1] if _found(keys[:-1]) is not None else ()
        meant = suggest_key(keys[-1], home, {})
        hint = f"did you mean `{'.'.join(meant.keys)}`?" if meant else "see specs/experiment.yaml for all settings"
        yield (path,), f"an experiment has no setting `{path}`", hint


def swept_values_are_allowed(space: Mapping[str, Any]) -> Iterator[InnerFinding]:
    """Each value, and each end of a range, is one that the setting takes."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only sweeps need it here

    for path, dimension in space.items():
        if (schema := _setting(path)) is None:
            continue
        validator = Draft202012Validator(schema)
        for keys, value in _candidates(dimension):
            if not validator.is_valid(value):
                message = f"`{path}` cannot be {spelled(value)}: it takes {expected(schema)}"
                yield (path, *keys), message, "take it out of the sweep" if isinstance(keys[-1], int) else ""


def ranges_have_a_width(space: Mapping[str, Any]) -> Iterator[InnerFinding]:
    """A range goes up, and one over orders of magnitude starts above zero."""
    for path, dimension in _ranges(space):
        low, high = dimension["low"], dimension["high"]
        if low >= high:
            yield (path, "low"), f"low {low:g} is not below high {high:g}", "swap them, or give a list of values"
        elif dimension["kind"] == "log_range" and low <= 0:
            yield (path, "low"), f"a log_range cannot start at {low:g}: zero has no order of magnitude", "start above 0"


def ranges_are_divided_once(space: Mapping[str, Any]) -> Iterator[InnerFinding]:
    """Step and points both say where the values of a range are."""
    for path, dimension in _ranges(space):
        if dimension["points"] is not None and dimension.get("step") is not None:
            yield (path, "points"), "a range has a step or a number of points, not both", "remove one of them"


def grid_is_finite(space: Mapping[str, Any], method: str) -> Iterator[InnerFinding]:
    """A grid tries every value, so a range must say which."""
    for path, dimension in _ranges(space):
        if method == "grid" and dimension["points"] is None and dimension.get("step") is None:
            ways = "points" if dimension["kind"] == "log_range" else "step or points"
            yield (path,), f"a grid needs to know which values of the range to try for `{path}`", f"add {ways}"


def drawing_ends(method: str, max_trials: int | None, max_minutes: float | None) -> Finding:
    """What draws trials draws them for ever, unless it is told when to stop."""
    if method not in _DRAWN or max_trials is not None or max_minutes is not None:
        return None
    return f"a sweep by {method} never ends without a budget", "set budget.max_trials or budget.max_minutes"


def grid_fits_budget(max_trials: int | None, method: str, space: Mapping[str, Any]) -> Finding:
    """A grid that stops early has tried its first corner only."""
    if method != "grid" or max_trials is None:
        return None
    sizes = [_size(path, dimension) for path, dimension in space.items()]
    if None in sizes or (whole := math.prod(size or 1 for size in sizes)) <= max_trials:
        return None
    return (
        f"the grid has {whole} combinations, but the sweep stops after {max_trials}",
        "raise budget.max_trials, or take `method: random`, which spreads its trials",
    )


def storage_holds_no_password(storage: str | None) -> Finding:
    """A document is committed, a password must not be."""
    user = (storage or "").partition("://")[2].partition("@")
    if not user[1] or ":" not in user[0]:
        return None
    return "the storage address holds a password", "leave it out and set PGPASSWORD, or use ~/.pgpass"


def objective_is_measured(objective: str) -> Finding:
    """A sweep goes by a figure that every trial has in its record."""
    if stage_of(objective) is not None:
        return None
    hint = (
        f"did you mean `{meant}`?" if (meant := meant_by(objective)) else "docs/records.md names the figures of a run"
    )
    return f"a run has no figure `{objective}`", hint


def direction_is_known(direction: str | None, objective: str) -> Finding:
    """Without knowing which way is better there is no best trial."""
    if direction is not None or better(objective) is not None or stage_of(objective) is None:
        return None
    return f"`{objective}` does not say whether less or more of it is better", "set `direction`"


def direction_fits_objective(direction: str | None, objective: str) -> Finding:
    """More accuracy is better, more loss is not."""
    way = better(objective)
    if direction is None or way is None or direction.startswith(way):
        return None
    return f"the sweep looks for the worst {objective}, not for the best", f"set `direction: {way}imize`"


def _found(keys: tuple[str, ...]) -> dict[str, Any] | None:
    """What the schema of an experiment has at a path, if anything."""
    try:
        return schema_at(keys)
    except KeyError:
        return None


def _setting(path: str) -> dict[str, Any] | None:
    schema = _found(tuple(path.split(".")))
    return schema if schema is not None and is_leaf(schema) else None


def _candidates(dimension: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The values that stand in a dimension, each with the keys to it."""
    if isinstance(dimension, list):
        yield from (((index,), value) for index, value in enumerate(dimension))
    elif dimension["kind"] in _NUMBERS:
        yield from (((end,), _whole(dimension[end])) for end in ("low", "high"))
        if (step := dimension.get("step")) is not None:
            yield ("step",), _whole(dimension["low"] + step)
    else:
        yield from ((("values", index), value) for index, value in enumerate(dimension["values"]))


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _ranges(space: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, dimension in space.items():
        if isinstance(dimension, dict) and dimension["kind"] in _NUMBERS:
            yield path, dimension


def _size(path: str, dimension: Any) -> int | None:
    """How many values of a dimension a grid tries; None when that is not known."""
    is_range = isinstance(dimension, dict) and dimension["kind"] in _NUMBERS
    if _setting(path) is None or (is_range and dimension["points"] is None and dimension.get("step") is None):
        return None
    return len(grid_values(path, dimension))


# Policy


def data_volume_is_counted(triggers: list[dict[str, Any]]) -> Iterator[InnerFinding]:
    """A trigger on new data needs a limit, absolute or relative."""
    for keys, trigger in _nested(triggers):
        if trigger["kind"] == "data_volume" and trigger["samples"] is None and trigger["percentage"] is None:
            yield keys, "a data_volume trigger needs a limit", "set samples or percentage"


def trigger_names_differ(triggers: list[dict[str, Any]]) -> Iterator[InnerFinding]:
    """Reports tell triggers apart by their names."""
    seen = set()
    for keys, trigger in _nested(triggers):
        name = trigger["name"] or f"{trigger['kind']}_trigger"
        if name in seen:
            there = (*keys, "name") if trigger["name"] else keys
            yield there, f"a second trigger is called {name}", "give it another `name`"
        seen.add(name)


def _nested(triggers: list[dict[str, Any]], above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for index, trigger in enumerate(triggers):
        keys = (*above, index)
        yield keys, trigger
        yield from _nested(trigger.get("triggers", []), (*keys, "triggers"))


# Finetune

_ABOUT_TOOLS = ("toolbench", "teacher_mode", "manual_templates", "hybrid")


def lora_has_a_rank(use_lora: bool, lora_r: int | None) -> Finding:
    """The rank decides how many parameters are trained; there is no size that fits all."""
    if not use_lora or lora_r is not None:
        return None
    return "use_lora needs lora_r", "add `lora_r: 8`, or 16 for more capacity"


def quantized_weights_stay_frozen(quantization: str | None, use_lora: bool) -> Finding:
    """Integers have no gradients: what is trained is added beside them."""
    if quantization is None or use_lora:
        return None
    return (
        f"weights in {quantization} cannot be trained themselves",
        "set training.use_lora, or model.quantization: null",
    )


def tools_are_there(strategy: str, tools: list[Any]) -> Finding:
    """Who learns to call tools must be told of them."""
    if strategy not in _ABOUT_TOOLS or tools:
        return None
    return f"strategy {strategy} is about tools, but `tools` is empty", "describe at least one tool under `tools:`"


def teacher_generates(method: str, generation_type: str) -> Finding:
    """Learning from a teacher means learning from what it generates."""
    if method != "teacher_mode" or generation_type != "real":
        return None
    return "method teacher_mode learns from generated answers, not from real ones", "take synthetic, or method sft"


def tool_names_differ(tools: list[dict[str, Any]]) -> Iterator[InnerFinding]:
    """A call names the tool."""
    names = [tool["name"] for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (index, "name"), f"a second tool is called {name}", "give it another name"


def required_arguments_exist(tools: list[dict[str, Any]]) -> Iterator[InnerFinding]:
    """Only arguments that are described can be demanded."""
    for index, tool in enumerate(tools):
        known = tool["parameters"]["properties"]
        for number, name in enumerate(tool["parameters"]["required"]):
            if name not in known:
                keys = (index, "parameters", "required", number)
                yield (
                    keys,
                    f"{tool['name']} has no argument {spelled(name)}",
                    f"describe it under `properties:`{_of(known)}",
                )


def weights_fit_memory(torch_dtype: str) -> Finding:
    """Two bytes a weight are enough for fine-tuning."""
    if torch_dtype != "float32":
        return None
    return "weights in float32 take twice the memory of bfloat16", "take auto or bfloat16"


def rate_is_gentle(learning_rate: float) -> Finding:
    """A pretrained model has much to lose."""
    if learning_rate <= 1e-3:
        return None
    return (
        f"learning rate {learning_rate:g} is above 1e-3, where fine-tuning forgets what was learned",
        "try 2e-4 or less",
    )


def no_code_is_run(trust_remote_code: bool) -> Finding:
    """Code of strangers can do all that the user can."""
    if not trust_remote_code:
        return None
    return "trust_remote_code runs code that comes with the model on this machine", "set it to false, or read that code"


def _of(known: Mapping[str, Any]) -> str:
    return f", or take {listed([spelled(name) for name in known])}" if known else ""


RULES_OF_KINDS: dict[str, tuple[Rule, ...]] = {
    "task": (
        Rule("E0501", ("model_family", "task_type"), family_fits_task),
        Rule("E0502", ("loss_type", "task_type"), loss_fits_task),
        Rule("E0503", ("modality", "task_type"), modality_fits_task),
        Rule("E0504", ("task_type", "output_schema.num_classes"), classes_are_counted),
        Rule(
            "E0505",
            ("modality", "input_schema.image_size", "input_schema.num_features", "input_schema.sample_rate"),
            input_has_a_shape,
        ),
        Rule(
            "E0506",
            ("preprocessing_config.channel_mean", "preprocessing_config.channel_std", "input_schema.image_size"),
            channels_agree,
        ),
        Rule("E0507", ("metrics", "task_type"), metrics_fit_task),
        Rule("E0508", ("input_schema.max_length", "task_type"), input_holds_a_target),
    ),
    "evaluation": (
        Rule(
            "E0511",
            tuple(f"data_quality.{zone}_below" for zone in ("excellent", "good", "high", "very_high")),
            ascending("excellent_below", "good_below", "high_below", "very_high_below"),
        ),
    ),
    "sweep": (
        Rule("E0525", ("method", "budget.max_trials", "budget.max_minutes"), drawing_ends),
        Rule("W0211", ("budget.max_trials", "method", "space"), grid_fits_budget),
        Rule("W0212", ("storage",), storage_holds_no_password),
        Rule("E0528", ("objective",), objective_is_measured),
        Rule("E0529", ("direction", "objective"), direction_is_known),
        Rule("W0213", ("direction", "objective"), direction_fits_objective),
    ),
    "monitoring": (
        Rule(
            "E0511", ("drift.warn_threshold", "drift.alert_threshold"), ascending("warn_threshold", "alert_threshold")
        ),
        Rule(
            "E0511",
            ("gradients.vanishing_norm", "gradients.explosion_norm"),
            ascending("vanishing_norm", "explosion_norm"),
        ),
    ),
    "tiers": (
        Rule(
            "E0511",
            ("gradient_flow.vanishing_norm", "gradient_flow.explosion_norm"),
            ascending("vanishing_norm", "explosion_norm"),
        ),
        Rule(
            "E0511",
            ("output_stability.collapsed_std", "output_stability.unstable_std"),
            ascending("collapsed_std", "unstable_std"),
        ),
        Rule("E0511", ("initialization.min_std", "initialization.max_std"), ascending("min_std", "max_std")),
        Rule(
            "E0511",
            ("robustness.alert_agreement", "robustness.warn_agreement"),
            ascending("alert_agreement", "warn_agreement"),
        ),
        Rule(
            "E0511",
            ("export.max_abs_diff", "export.max_abs_diff_quantized"),
            ascending("max_abs_diff", "max_abs_diff_quantized"),
        ),
    ),
    "finetune": (
        Rule("E0541", ("training.use_lora", "training.lora_r"), lora_has_a_rank),
        Rule("E0542", ("model.quantization", "training.use_lora"), quantized_weights_stay_frozen),
        Rule("E0543", ("data.strategy", "tools"), tools_are_there),
        Rule("E0544", ("training.method", "data.generation_type"), teacher_generates),
        Rule("W0201", ("model.torch_dtype",), weights_fit_memory),
        Rule("W0202", ("training.learning_rate",), rate_is_gentle),
        Rule("W0203", ("model.trust_remote_code",), no_code_is_run),
        Rule("W0203", ("tokenizer.trust_remote_code",), no_code_is_run),
    ),
}

INNER_RULES_OF_KINDS: dict[str, tuple[InnerRule, ...]] = {
    "sweep": (
        InnerRule("E0521", ("space",), swept_settings_exist),
        InnerRule("E0522", ("space",), swept_values_are_allowed),
        InnerRule("E0523", ("space",), ranges_have_a_width),
        InnerRule("E0524", ("space", "method"), grid_is_finite),
        InnerRule("E0526", ("space",), ranges_are_divided_once),
    ),
    "policy": (
        InnerRule("E0531", ("triggers",), data_volume_is_counted),
        InnerRule("E0532", ("triggers",), trigger_names_differ),
    ),
    "finetune": (
        InnerRule("E0545", ("tools",), tool_names_differ),
        InnerRule("E0546", ("tools",), required_arguments_exist),
    ),
}

_SECTIONS_OF_TIERS = {
    1: ("shapes", "gradient_flow", "output_stability", "initialization", "memory", "speed"),
    2: ("attention", "attribution", "robustness"),
    3: ("short_fit",),
    4: ("export",),
}


def _lacks(tier: int) -> Callable[[list[int]], bool]:
    return lambda tiers: tier not in tiers


UNREAD_OF_KINDS: dict[str, tuple[Unread, ...]] = {
    "task": (
        *(
            Unread(f"preprocessing_config.{name}", "modality", lambda kind: kind != "vision", "only images have it")
            for name in ("normalize", "channel_mean", "channel_std")
        ),
        Unread("input_schema.image_size", "modality", lambda kind: kind != "vision", "only images have it"),
        Unread("input_schema.num_features", "modality", lambda kind: kind != "tabular", "only tables have it"),
        Unread("input_schema.sample_rate", "modality", lambda kind: kind != "audio", "only sound has it"),
        Unread("output_schema.num_classes", "task_type", lambda kind: kind in _TEXT_OUT, "the answer is text"),
        Unread("output_schema.vocab_size", "task_type", lambda kind: kind in _CLASSES, "the answer is a class"),
    ),
    "sweep": (
        Unread("seed", "method", lambda method: method == "grid", "a grid draws nothing"),
        Unread("startup_trials", "method", lambda method: method != "tpe", "only `tpe` learns from trials"),
        Unread("pruning.min_evaluations", "pruning.pruner", lambda pruner: pruner is None, "nothing is pruned"),
        Unread("pruning.min_trials", "pruning.pruner", lambda pruner: pruner != "median", "only `median` reads it"),
    ),
    "tiers": tuple(
        Unread(f"{section}.{name}", "tiers", _lacks(tier), f"tier {tier} does not run")
        for tier, sections in _SECTIONS_OF_TIERS.items()
        for section in sections
        for name in schema_of("tiers")["properties"][section]["properties"]
    ),
    "finetune": (
        *(
            Unread(f"training.{name}", "training.use_lora", lambda use_lora: not use_lora, "use_lora is false")
            for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
        ),
        Unread("model.double_quantization", "model.quantization", lambda kind: kind != "nf4", "only `nf4` has scales"),
        Unread("tensorboard.log_dir", "tensorboard.enabled", lambda enabled: not enabled, "TensorBoard is off"),
        Unread("evaluation.eval_steps", "data.train_split", lambda share: share == 1, "nothing is held out"),
    ),
}  # fmt: skip
