"""What a schema cannot say: rules between settings, and settings that nothing reads. Each row has a code of its own."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Collection
from dataclasses import replace

from pipeline.paths import OUTPUT_OF
from pipeline.spec import holes
from pipeline.spec.carried import SHAPE_READS, formats_carry_the_model, int8_is_told_how
from pipeline.spec.kind_rules import INNER_RULES_OF_KINDS, RULES_OF_KINDS, UNREAD_OF_KINDS
from pipeline.spec.oddities import ODD_EXPERIMENT
from pipeline.spec.rule import MASK, MASKED, OF_PICTURES, PICTURE_KINDS, Finding, InnerRule, Rule, Unread, Unsupported
from pipeline.spec.unread import UNREAD_IN_EXPERIMENT

_CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
_FLOAT16_NOTHING = 2.0**-25  # the largest number that float16 rounds to zero
_BYTES = 256  # byte fallback has a piece for each


def heads_divide_width(num_heads: int, d_model: int) -> Finding:
    """Each head takes an equal share of the features."""
    if d_model % num_heads == 0:
        return None
    heads = _neighbours(num_heads, lambda heads: d_model % heads == 0)
    widths = _neighbours(d_model, lambda width: width % num_heads == 0)
    return (
        f"num_heads {num_heads} does not divide d_model {d_model}",
        f"with d_model {d_model} take num_heads {heads}, or with num_heads {num_heads} take d_model {widths}",
    )


def kv_heads_divide_heads(num_kv_heads: int | None, num_heads: int) -> Finding:
    """Each key and value head serves an equal number of query heads."""
    if num_kv_heads is None or num_heads % num_kv_heads == 0:
        return None
    choices = _neighbours(num_kv_heads, lambda heads: num_heads % heads == 0)
    return f"num_kv_heads {num_kv_heads} does not divide num_heads {num_heads}", f"take num_kv_heads {choices}"


def rotary_head_is_even(num_heads: int, d_model: int, model_type: str) -> Finding:
    """Rotary positions turn the features of a head in pairs."""
    if model_type != "llama" or d_model % num_heads or d_model // num_heads % 2 == 0:
        return None
    size = d_model // num_heads
    widths = _neighbours(d_model, lambda width: width % (2 * num_heads) == 0)
    return (
        f"a head has d_model / num_heads = {size} features, but rotary positions need an even number",
        f"with num_heads {num_heads} take d_model {widths}",
    )


def something_is_left_to_train_on(validation_split: float, test_split: float) -> Finding:
    """The held-out shares cannot take everything."""
    if validation_split + test_split < 1:
        return None
    return (
        f"validation_split {validation_split:g} and test_split {test_split:g} leave nothing to train on",
        "their sum must be below 1",
    )


def judged_split_is_not_empty(split: str, validation_split: float, test_split: float) -> Finding:
    """A model cannot be judged on a split that the corpus does not have."""
    share = {"validation": validation_split, "test": test_split}[split]
    if share > 0:
        return None
    return (
        f"the model is validated on the {split} split, but dataset.{split}_split is 0",
        f"set dataset.{split}_split above 0, or choose another validation.split",
    )


def warmup_ends_before_training(warmup_steps: int | None, max_steps: int | None) -> Finding:
    """The peak learning rate must be reached."""
    if warmup_steps is None or max_steps is None or warmup_steps <= max_steps:
        return None
    return f"{warmup_steps} warmup steps do not fit into max_steps {max_steps}", "lower scheduler.warmup_steps"


def warmup_ends_before_decay(
    decay_ratio: float, warmup_ratio: float, scheduler_type: str, warmup_steps: int | None, max_steps: int | None
) -> Finding:
    """`wsd` warms up, stays, and decays: the parts follow each other."""
    if scheduler_type != "wsd":
        return None
    if warmup_steps is not None:
        if max_steps is None or warmup_steps > max_steps:
            return None  # not known before the corpus is, or reported by another rule
        warmup_ratio = warmup_steps / max_steps
    if warmup_ratio + decay_ratio <= 1:
        return None
    return (
        f"warmup takes {warmup_ratio:.0%} of the steps and decay {decay_ratio:.0%}, together more than all",
        "their sum can be 1 at most",
    )


def vocabulary_has_room(vocab_size: int, byte_fallback: bool, special_tokens: list[str]) -> Finding:
    """Special tokens and bytes come out of the vocabulary; something must be left for text."""
    fallback = _BYTES if byte_fallback else 0
    taken = len(_CONTROL_TOKENS) + fallback + len(special_tokens)
    if vocab_size > taken:
        return None
    parts = [f"{len(_CONTROL_TOKENS)} control tokens"]
    parts += [f"{fallback} bytes"] if fallback else []
    parts += [f"{len(special_tokens)} special tokens"] if special_tokens else []
    return (
        f"vocab_size {vocab_size} has no room for text: {', '.join(parts)} take {taken} of it",
        f"take more than {taken}" + (", or set byte_fallback to false" if fallback else ""),
    )


def special_tokens_are_new(special_tokens: list[str]) -> Finding:
    """The control tokens are always there and cannot be declared again."""
    again = [token for token in special_tokens if token in _CONTROL_TOKENS]
    if not again:
        return None
    return f"the special token {again[0]} is always part of the vocabulary", f"remove {', '.join(again)} from the list"


def numbered_devices_are_graphics_processors(devices: object, device: str) -> Finding:
    """Processors have no numbers."""
    if device != "cpu" or not isinstance(devices, list):
        return None
    return "devices lists numbers of CUDA devices, but device is cpu", "set devices to auto, or device to cuda"


def one_process_stays_on_one_machine(strategy: str | None, num_nodes: int) -> Finding:
    """`dp` ends at the machine."""
    if strategy != "dp" or num_nodes == 1:
        return None
    return f"strategy dp stays on one machine and cannot use {num_nodes}", "set strategy to ddp"


def task_is_about_the_source(task_type: str, kind: str) -> Finding:
    """Pictures are for tasks about pictures, each with what the task learns, and texts for the others."""
    fitting = OF_PICTURES.get(task_type, ())
    if kind in fitting or (not fitting and kind not in PICTURE_KINDS):
        return None
    if not fitting:
        task = next(task for task, kinds in OF_PICTURES.items() if kind in kinds)
        message = f"task_type {task_type} is about text, but source kind {kind} has pictures"
        return message, f"set task.task_type to {task}"
    hint = f"set dataset.source.kind to {' or '.join(fitting)}"
    if kind not in PICTURE_KINDS:
        return f"task_type {task_type} is about pictures, but source kind {kind} has text", hint
    has = "any number of labels for each picture" if kind == "image_table" else "one class for each picture"
    return f"task_type {task_type} does not learn from source kind {kind}, which has {has}", hint


# Task → the models for it; other tasks take the first two.
_MODELS_FOR = {"masked_lm": ("bert",), "vision_classification": ("cnn",), "vision_multilabel": ("cnn",)}
_DECODERS = ("llama", "gpt")
_ABILITY = {
    **dict.fromkeys(_DECODERS, "reads text and sees nothing after a token"),
    "bert": "guesses hidden tokens of a text",
    "cnn": "takes pictures",
}


def model_fits_the_task(model_type: str, task_type: str) -> Finding:
    """Convolutions are for pictures, an encoder for hidden tokens, decoders for all else that is text."""
    fitting = _MODELS_FOR.get(task_type, _DECODERS)
    if model_type in fitting:
        return None
    about = "pictures" if task_type in OF_PICTURES else "hidden tokens" if task_type == MASKED else "text"
    return (
        f"model_type {model_type} {_ABILITY[model_type]}, but task_type {task_type} is about {about}",
        f"set model_type to {fitting[0]}",
    )


def masks_have_a_token(task_type: str, special_tokens: list[str]) -> Finding:
    """A token is hidden behind another one, which must not stand for anything else."""
    if task_type != MASKED or MASK in special_tokens:
        return None
    return (
        f"task_type masked_lm hides tokens behind {MASK}, which the vocabulary does not have",
        f'add "{MASK}" to tokenizer.special_tokens',
    )


def groups_divide_channels(norm_groups: int, stage_channels: list[int], model_type: str) -> Finding:
    """Each group of a norm has an equal number of channels, and two at least: one value normalized is always 0."""
    if model_type != "cnn" or all(size % norm_groups == 0 and size > norm_groups for size in stage_channels):
        return None
    shared = math.gcd(*stage_channels)
    fitting = [groups for groups in range(1, shared + 1) if shared % groups == 0 and groups < min(stage_channels)]
    message = f"norm_groups {norm_groups} does not cut each of stage_channels {list(stage_channels)} into equal groups"
    hint = f"take norm_groups {fitting[-1]}" if fitting else "take two channels or more"
    return f"{message} of two channels or more", hint


def pictures_are_grey_or_coloured(image_size: list[int] | None) -> Finding:
    """Files hold one channel of grey or three of colour."""
    if image_size is None or image_size[0] in (1, 3):
        return None
    return (
        f"image_size asks for {image_size[0]} channels, but pictures have 1 (grey) or 3 (colour)",
        "write it as [channels, height, width], for example [3, 32, 32]",
    )


def epsilon_is_seen_in_float16(precision: str, adam_epsilon: float) -> Finding:
    """Half of float16's smallest number rounds to nothing, and Adam divides by epsilon where gradients are zero."""
    if precision != "16-true" or adam_epsilon > _FLOAT16_NOTHING:
        return None
    return (
        f"adam_epsilon {adam_epsilon:g} is zero in float16, and with precision 16-true Adam divides by it",
        "set optimizer.adam_epsilon to 1e-6 or more, or precision to 16-mixed",
    )


_WITH_FIELDS = ("files", "url", "wheel")  # kinds of dataset.source that classes and targets are read from


def classes_come_from_somewhere(
    task_type: str, label_field: str | None, label_from_folder: bool, target_field: str | None, kind: str
) -> Finding:
    """A classifier needs the class of each text, from one place."""
    has_classes = label_field is not None or label_from_folder
    if label_field is not None and label_from_folder:
        return "label_field and label_from_folder both name the class of a text", "keep one of them"
    if has_classes and kind not in _WITH_FIELDS:
        return f"classes are not read from a source of kind {kind}", f"take {' or '.join(_WITH_FIELDS)}"
    if has_classes and target_field is not None:
        return "a text cannot have a class and a target", "set dataset.target_field to null, or give it no class"
    if task_type != "text_classification" or has_classes:
        return None
    return (
        "task_type text_classification needs the class of each text, and the dataset names none",
        "set dataset.label_field, or dataset.label_from_folder: true where each class has a folder",
    )


def pairs_come_from_somewhere(task_type: str, target_field: str | None, make_pairs: str | None, kind: str) -> Finding:
    """`seq2seq` needs pairs, and only that task."""
    has_pairs = target_field is not None or make_pairs is not None
    if target_field is not None and make_pairs is not None:
        return "target_field and make_pairs both make pairs", "set one of them to null"
    if target_field is not None and kind not in _WITH_FIELDS:
        return f"pairs are not read from a source of kind {kind}", f"take {' or '.join(_WITH_FIELDS)}"
    if task_type == "seq2seq" and not has_pairs:
        return "task_type seq2seq needs pairs, and the dataset has none", "set dataset.target_field or make_pairs"
    if task_type != "seq2seq" and has_pairs:
        return f"the dataset has pairs, which task_type {task_type} cannot use", "set task_type to seq2seq"
    return None


def sources_of_pairs_stay_whole(
    target_field: str | None, drop_duplicate_paragraphs: bool, task_type: str, separate_documents: bool
) -> Finding:
    """What belongs to a target is neither cut nor hidden from it."""
    if target_field is not None and drop_duplicate_paragraphs:
        return "cleaning.drop_duplicate_paragraphs takes paragraphs out of the sources of pairs", "set it to false"
    if task_type == "seq2seq" and separate_documents:
        return "model.separate_documents would hide the source of a pair from its target", "set it to false"
    return None


def parts_have_no_loss_scale(strategy: str | None, precision: str) -> Finding:
    """Each process would see another part of the gradients overflow, and scale by itself."""
    if strategy not in ("fsdp", "fsdp_native") or precision not in ("16-mixed", "16"):
        return None
    return (
        f"precision {precision} scales the loss, but with {strategy} each process sees a part of the gradients",
        "set precision to bf16-mixed, or strategy to ddp",
    )


def start_is_not_what_follows(resume_from_checkpoint: str | None) -> Finding:
    """Each run would begin with what the one before it made, and DVC removes an output before it is made again."""
    if resume_from_checkpoint is None:
        return None
    path = posixpath.normpath(resume_from_checkpoint)
    made = [OUTPUT_OF[stage].as_posix() for stage in ("train", "validate", "export")]
    if not any(path == folder or path.startswith(f"{folder}/") for folder in made):
        return None
    return (
        f"training cannot start from {path}, which follows from training itself",
        f"copy it, `cp -r {path} earlier`, and start from the copy",
    )


_SERVED = ("onnx", "onnx_cache", "torchscript")  # what the script of a bundle opens


def bundle_can_serve(export_bundle: bool, formats: Collection[str], task_type: str) -> Finding:
    """A bundle serves its model without this toolkit, which takes a format that other runtimes open."""
    if export_bundle and task_type == MASKED:
        return "a bundle serves models that write text or choose classes", "set export_bundle to false"
    if not export_bundle or set(_SERVED) & set(formats):
        return None
    return (
        f"a bundle serves one of {', '.join(_SERVED)}, and formats has none of them",
        f"add {_SERVED[0]} to export.formats, or set export_bundle to false",
    )


_EXPERIMENT = (
    Rule("E0401", ("model.num_heads", "model.d_model"), heads_divide_width),
    Rule("E0402", ("model.num_kv_heads", "model.num_heads"), kv_heads_divide_heads),
    Rule("E0403", ("model.num_heads", "model.d_model", "model.model_type"), rotary_head_is_even),
    Rule("E0404", ("dataset.validation_split", "dataset.test_split"), something_is_left_to_train_on),
    Rule(
        "E0405", ("validation.split", "dataset.validation_split", "dataset.test_split"), judged_split_is_not_empty
    ),
    Rule("E0406", ("scheduler.warmup_steps", "training.max_steps"), warmup_ends_before_training),
    Rule(
        "E0407",
        (
            "scheduler.decay_ratio", "scheduler.warmup_ratio", "scheduler.scheduler_type", "scheduler.warmup_steps",
            "training.max_steps",
        ),
        warmup_ends_before_decay,
    ),
    Rule(
        "E0408",
        ("tokenizer.vocab_size", "tokenizer.byte_fallback", "tokenizer.special_tokens"),
        vocabulary_has_room,
    ),
    Rule("E0409", ("tokenizer.special_tokens",), special_tokens_are_new),
    Rule("E0410", ("hardware.devices", "hardware.device"), numbered_devices_are_graphics_processors),
    Rule("E0411", ("hardware.strategy", "hardware.num_nodes"), one_process_stays_on_one_machine),
    Rule("E0413", ("hardware.strategy", "hardware.precision"), parts_have_no_loss_scale),
    Rule("E0412", ("hardware.precision", "optimizer.adam_epsilon"), epsilon_is_seen_in_float16),
    Rule("E0414", ("training.resume_from_checkpoint",), start_is_not_what_follows),
    Rule("E0421", ("task.task_type", "dataset.source.kind"), task_is_about_the_source),
    Rule("E0422", ("dataset.source.image_size",), pictures_are_grey_or_coloured),
    Rule("E0423", ("model.model_type", "task.task_type"), model_fits_the_task),
    Rule("E0424", ("model.norm_groups", "model.stage_channels", "model.model_type"), groups_divide_channels),
    Rule(
        "E0431",
        (
            "task.task_type", "dataset.label_field", "dataset.label_from_folder", "dataset.target_field",
            "dataset.source.kind",
        ),
        classes_come_from_somewhere,
    ),
    Rule(
        "E0432",
        ("task.task_type", "dataset.target_field", "dataset.make_pairs", "dataset.source.kind"),
        pairs_come_from_somewhere,
    ),
    Rule(
        "E0433",
        (
            "dataset.target_field", "dataset.cleaning.drop_duplicate_paragraphs", "task.task_type",
            "model.separate_documents",
        ),
        sources_of_pairs_stay_whole,
    ),
    Rule("E0434", ("task.task_type", "tokenizer.special_tokens"), masks_have_a_token),
    Rule("E0441", ("export.export_bundle", "export.formats", "task.task_type"), bundle_can_serve),
    Rule("E0442", ("export.formats", *SHAPE_READS), formats_carry_the_model),
    Rule("E0443", ("export.quantization", "export.formats", "task.task_type"), int8_is_told_how),
    *ODD_EXPERIMENT,
)  # fmt: skip

_EXPERIMENT_UNSUPPORTED = (
    Unsupported(
        "task.task_type",
        lambda kind: kind == "classification",
        "it trains text_classification and vision_classification, each with a model of its own",
        "set it to one of them",
    ),
)


def _of_a_preset(*settings: str) -> tuple[str, ...]:
    return tuple(f"values.{setting}" for setting in settings)


# Kind of document → its rules, those inside its lists and maps, its idle settings and what it can ask for in vain
# (a preset is laid over the defaults of an experiment, so the same holds for its values)
RULES: dict[str, tuple[Rule, ...]] = {
    "experiment": _EXPERIMENT,
    "preset": tuple(replace(row, reads=_of_a_preset(*row.reads)) for row in _EXPERIMENT),
}
INNER_RULES: dict[str, tuple[InnerRule, ...]] = {"template": holes.RULES}
UNREAD: dict[str, tuple[Unread, ...]] = {
    "experiment": UNREAD_IN_EXPERIMENT,
    "preset": tuple(
        replace(row, setting=setting, reads=reads)
        for row in UNREAD_IN_EXPERIMENT
        for setting, reads in [_of_a_preset(row.setting, row.reads)]
    ),
}
UNSUPPORTED: dict[str, tuple[Unsupported, ...]] = {
    "experiment": _EXPERIMENT_UNSUPPORTED,
    "preset": tuple(replace(row, setting=_of_a_preset(row.setting)[0]) for row in _EXPERIMENT_UNSUPPORTED),
}

# The other kinds have rows of their own. A corpus is a dataset section by itself.
RULES |= RULES_OF_KINDS
RULES["corpus"] = tuple(row for row in _EXPERIMENT if all(name.startswith("dataset.") for name in row.reads))
INNER_RULES |= INNER_RULES_OF_KINDS
UNREAD |= UNREAD_OF_KINDS
UNREAD["corpus"] = tuple(row for row in UNREAD_IN_EXPERIMENT if {row.setting[:8], row.reads[:8]} == {"dataset."})


def _neighbours(value: int, fits: Callable[[int], bool]) -> str:
    """The nearest fitting numbers below and above, as `2 or 4`."""
    below = next((number for number in range(value, 0, -1) if fits(number)), None)
    above = next((number for number in range(value + 1, 4 * value + 4) if fits(number)), None)
    return " or ".join(str(number) for number in (below, above) if number is not None)
