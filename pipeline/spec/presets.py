"""Presets and templates: settings under a name, from which a document is written. Nothing expands when it runs.

A preset is laid over the defaults of the schema. A template becomes a document when its parameters are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.paths import SPECS
from pipeline.spec import estimate_pictures
from pipeline.spec.author import complete, overlay, spec_of
from pipeline.spec.check import check
from pipeline.spec.diagnose import SpecError
from pipeline.spec.document import dotted, read_document
from pipeline.spec.edit import Assignment, parse_assignment
from pipeline.spec.estimate import plan, rows_of_a_batch, steps_of, text_of_bytes
from pipeline.spec.estimate_model import count, flops_per_token, shape_of
from pipeline.spec.holes import fill, has_type
from pipeline.spec.nearest import closest
from pipeline.spec.schema import EXPERIMENT, schema_of
from pipeline.spec.spec import Spec
from pipeline.spec.words import describe, expected, listed

PRESETS = SPECS / "presets"
TEMPLATES = SPECS / "templates"
# Presets that differ in size above all, from the smallest to the largest, and how far up each goal goes.
SIZES = ("tiny", "small", "medium", "large")
LARGEST_FOR = {"quick_test": "tiny", "learning": "small", "research": "large", "production": "large"}
# What two cores of a server processor do when they train (docs/performance.md measures it: tokens a second times
# operations a token). `foundry plan` measures yours.
FLOPS_PER_SECOND = 1e11
_CORPUS_BYTES = 4_950_000  # the plays of Shakespeare after cleaning, of which reports/corpus.json says more


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings of an experiment under a name.

    Attributes:
        name: what `foundry new --from` calls it.
        title: the name as people write it.
        description: what it is good for.
        values: what differs from the defaults, by section.
        path: its file.
    """

    name: str
    title: str
    description: str
    values: Mapping[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class Template:
    """A document with parameters and holes.

    Attributes:
        name: what `foundry new --from` calls it.
        description: what it is good for.
        values: the settings, with `${name}` where a parameter belongs.
        path: its file.
        kind: the kind of document that it becomes.
        parameters: name → what it takes (`type`, `title`), and its `default`, or for a hole an `example`.
    """

    name: str
    description: str
    values: Mapping[str, Any]
    path: Path
    kind: str
    parameters: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a spec costs, by arithmetic.

    Attributes:
        parameters: weights of the model, exactly; tied embeddings count once.
        tokens: that training takes in.
        flops: floating-point operations of the training.
        memory_mb: that training takes at its peak, in MB; None for a GPU, which `foundry plan` does not foresee.
    """

    parameters: int
    tokens: int
    flops: float
    memory_mb: float | None

    def hours(self, flops_per_second: float = FLOPS_PER_SECOND) -> float:
        """Hours of training at a pace."""
        return self.flops / flops_per_second / 3600


def names(folder: Path) -> list[str]:
    """The presets or templates that are shipped."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read(name: str) -> Preset | Template:
    """The shipped preset or template of a name, or the one in a file when the name ends in .yaml.

    Raises:
        FoundryError: there is none of that name.
        SpecError: its file is not right.
    """
    document = read_document(_file_of(name))
    if errors := [problem for problem in check(document) if not problem.is_warning]:
        raise SpecError(errors)
    found, path = document.values, Path(document.file)
    if document.kind == "preset":
        return Preset(found["name"], found["title"], found["description"], found["values"], path)
    if document.kind == "template":
        parameters = found.get("parameters", {})
        return Template(found["name"], found["description"], found["values"], path, found["for"], parameters)
    message = f"this is a document of kind {document.kind}, but a preset or a template is needed"
    raise FoundryError(message, where=document.file, hint="`foundry presets` lists those that are shipped")


def read_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        FoundryError: there is none, or it is a template.
        SpecError: its file is not right.
    """
    if isinstance(found := read(name), Preset):
        return found
    raise FoundryError(f"{name} is a template, not a preset", hint=f"presets are {listed(names(PRESETS), 'and')}")


def choose(template: Template, given: Mapping[str, str]) -> dict[str, Any]:
    """The values of a template with its parameters chosen.

    Args:
        template: the template.
        given: parameter → its value as text; what is not text by type is read as YAML.

    Raises:
        FoundryError: a parameter does not exist, is left empty, or is given a value of the wrong type.
    """
    for name in given:
        if name not in template.parameters:
            known = sorted(template.parameters)
            meant = closest(name, known)
            takes = f"it takes {listed(known, 'and')}" if known else "it takes none"
            hint = f"did you mean {meant}?" if meant else takes
            raise FoundryError(f"the template {template.name} has no parameter {name}", hint=hint)
    if empty := [name for name, taken in template.parameters.items() if "default" not in taken and name not in given]:
        holes = listed([f"{name} ({template.parameters[name]['title']})" for name in empty], "and")
        example = " ".join(f"--param {name}='{template.parameters[name]['example']}'" for name in empty)
        raise FoundryError(f"the template {template.name} needs {holes}", hint=f"for example: {example}")
    chosen = {name: _chosen(name, taken, given.get(name)) for name, taken in template.parameters.items()}
    values: dict[str, Any] = fill(template.values, chosen)
    return values


def author(
    name: str, base: str | None = None, parameters: Mapping[str, str] | None = None, settings: Iterable[Assignment] = ()
) -> Spec:
    """A new document: the defaults, what a preset or template says on top, and single settings on top of that.

    Args:
        name: that of the document.
        base: the preset or template; None takes the defaults of an experiment.
        parameters: of the template, as text.
        settings: what to set, in this order.

    Raises:
        FoundryError: the preset or template does not exist, or a parameter of it is wrong or missing.
        SpecError: what comes out is not valid.
    """
    found = None if base is None else read(base)
    kind = found.kind if isinstance(found, Template) else EXPERIMENT
    if isinstance(found, Template):
        values = choose(found, parameters or {})
    elif parameters:
        raise FoundryError(f"only templates take parameters: {listed(list(parameters), 'and')}", hint="use --set")
    else:
        values = dict(found.values) if found else {}
    for each in settings:
        value = each.value
        for key in reversed(each.keys):
            if isinstance(key, int):
                raise FoundryError(f"`{dotted(each.keys)}` is an item of a list", hint="set the whole list")
            value = {key: value}
        values = overlay(schema_of(kind), values, value)
    return spec_of(complete(kind, name, values), f"the document {name}", kind)


def expand(preset: Preset) -> Spec:
    """The spec that a preset stands for.

    Raises:
        SpecError: it does not make a valid one.
    """
    return spec_of(complete(EXPERIMENT, preset.name, preset.values), preset.name)


def estimate_of(spec: Spec) -> Estimate:
    """What an experiment costs on the corpus that needs no files, every step that it asks for taken."""
    settings = spec.to_dict()
    if settings["model"]["model_type"] == "cnn":
        return _estimate_of_pictures(settings)
    tokenizer, dataset = settings["tokenizer"], settings["dataset"]
    shares = {"validation": dataset["validation_split"], "test": dataset["test_split"]}
    sizes = {split: round(_CORPUS_BYTES * share) for split, share in shares.items()}
    text = text_of_bytes(
        {**sizes, "train": _CORPUS_BYTES - sum(sizes.values())},
        tokenizer_type=tokenizer["tokenizer_type"],
        vocab_size=tokenizer["vocab_size"],
        source="the corpus that needs no files",
    )
    shape, training = shape_of(settings["model"], tokenizer["vocab_size"]), settings["training"]
    a_step = rows_of_a_batch(settings) * training["gradient_accumulation_steps"] * settings["model"]["max_seq_len"]
    tokens = min(steps_of(settings, text).total * a_step, training["epochs"] * text.train_tokens)
    memory = plan(settings, text, None)["memory_mb"]["peak_rss"]
    return Estimate(count(shape), tokens, tokens * flops_per_token(shape), memory)


def _estimate_of_pictures(settings: dict[str, Any]) -> Estimate:
    """The same for pictures: on the digits, which need no files; what training takes in are pictures, not tokens."""
    planned = estimate_pictures.plan_pictures(settings, estimate_pictures.digits(settings["dataset"]))
    training, model = planned["training"], planned["model"]
    seen = round(training["flops"] / model["flops_per_picture"])
    return Estimate(model["parameters"]["total"], seen, training["flops"], planned["memory_mb"]["peak_rss"])


def recommend(goal: str, time_budget: float, flops_per_second: float = FLOPS_PER_SECOND) -> Preset:
    """The largest preset of `SIZES` that suits a goal and trains in the time there is.

    Args:
        goal: a key of `LARGEST_FOR`.
        time_budget: how long training may take, in hours.
        flops_per_second: what the machine does when it trains; `foundry plan` measures it.

    Raises:
        FoundryError: the goal does not exist, or even the smallest preset takes longer.
    """
    if goal not in LARGEST_FOR:
        meant = closest(goal, LARGEST_FOR)
        hint = f"did you mean {meant}?" if meant else f"goals are {listed(list(LARGEST_FOR), 'and')}"
        raise FoundryError(f"there is no goal called {goal}", hint=hint)
    suited = SIZES[: SIZES.index(LARGEST_FOR[goal]) + 1]
    for name in reversed(suited):
        preset = read_preset(name)
        if estimate_of(expand(preset)).hours(flops_per_second) <= time_budget:
            return preset
    least = estimate_of(expand(read_preset(SIZES[0]))).hours(flops_per_second)
    raise FoundryError(
        f"no preset trains in {time_budget:g} hours here",
        hint=f"{SIZES[0]} takes {math.ceil(least * 100) / 100:g} hours; `fast_dev` only shows that everything runs",
    )


def _file_of(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    for folder in (PRESETS, TEMPLATES):
        if name in names(folder):
            return folder / f"{name}.yaml"
    meant = closest(name, [*names(PRESETS), *names(TEMPLATES)])
    hint = f"did you mean {meant}?" if meant else "`foundry presets` lists them"
    raise FoundryError(f"there is no preset or template called {name}", hint=hint)


def _chosen(name: str, taken: Mapping[str, Any], text: str | None) -> Any:
    if text is None:
        return taken["default"]
    if taken["type"] == "string":
        return text
    value = parse_assignment(f"{name}={text}").value
    may_be_null = "default" in taken and taken["default"] is None
    if not has_type(taken["type"], value) and not (value is None and may_be_null):
        what = expected({"type": taken["type"]})
        raise FoundryError(f"the parameter {name} takes {what}, but is given {describe(value)}", hint=taken["title"])
    return value
