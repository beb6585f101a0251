"""Documents that have no file yet: layers of values become one, checked by the same checker as files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pipeline.paths import SPECS
from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.document import Document, parse_document, read_document
from pipeline.spec.load import build_spec
from pipeline.spec.schema import EXPERIMENT, Schema, branch, schema_of
from pipeline.spec.spec import Spec
from pipeline.spec.write import write_yaml

_CORPUS = SPECS / "corpora" / "shakespeare-plays.yaml"  # what an experiment learns from when nothing else is named


class ValuesError(SpecError):
    """Values that were given in code or on the command line cannot be used: one line for each problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = [replace(problem, line=0, source="") for problem in problems]  # no file, no line to show
        super().__init__(found)
        are = "is 1 problem" if len(found) == 1 else f"are {len(found)} problems"
        self.message = f"there {are}" + "".join(f"\n  - {_bullet(problem)}" for problem in found)
        self.hint = ""


def _bullet(problem: Problem) -> str:
    further = [f"allowed: {problem.allowed}"] if problem.allowed else []
    further += [problem.hint] if problem.hint else []
    where = f"`{problem.path}`: " if problem.path.rpartition(".")[2] not in problem.message else ""
    return "; ".join([f"{where}{problem.message} [{problem.code}]", *further])


def overlay(schema: Schema, base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it, as values of their own.

    Sections merge setting by setting. Where `over` makes a mapping one of another kind (a corpus source, a method of
    fine-tuning), what only the old kind takes goes.
    """
    merged = copy.deepcopy(dict(base))
    for name, value in over.items():
        child, below = schema.get("properties", {}).get(name, {}), merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and "properties" in child:
            kept = branch(child, {**below, **value})
            merged[name] = overlay(child, {key: below[key] for key in below if key in kept}, value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def on_corpus(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an experiment; one that names no source of text gets the corpus that needs no files."""
    dataset = values.get("dataset")
    source = dataset.get("source") if isinstance(dataset, Mapping) else None
    if isinstance(source, Mapping) and "kind" in source:
        return dict(values)
    return overlay(schema_of(), {"dataset": _corpus()}, values)


def complete(kind: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a whole document: those given, under a name; an experiment stands on a corpus."""
    framed = {"schema_version": 1, "kind": kind, "name": name, **values}
    return on_corpus(framed) if kind == EXPERIMENT else framed


def problems_of(values: Mapping[str, Any], origin: str, kind: str = EXPERIMENT) -> list[Problem]:
    """Everything that is wrong or odd in values; `origin` stands where messages name a file.

    Raises:
        ValuesError: there is something among them that no document can hold.
    """
    from pipeline.spec.check import check  # noqa: PLC0415 - jsonschema is slow to import

    return check(_document(values, origin, kind))


def spec_of(values: Mapping[str, Any], origin: str, kind: str = EXPERIMENT) -> Spec:
    """Values as a checked, complete and frozen spec; `origin` stands where messages name a file.

    Raises:
        ValuesError: something is wrong with them; says everything at once.
    """
    document = _document(values, origin, kind)
    try:
        spec = build_spec(document, kind)
    except SpecError as error:
        raise ValuesError(error.problems) from None
    return replace(spec, warnings=tuple(replace(warning, line=0, source="") for warning in spec.warnings))


@cache
def _corpus() -> dict[str, Any]:
    dataset: dict[str, Any] = read_document(_CORPUS).values["dataset"]
    return dataset


def _document(values: Mapping[str, Any], origin: str, kind: str) -> Document:
    """The values by way of YAML, so that what is given in code means what it means in a file, NaN and True included."""
    try:
        text = write_yaml(values, schema_of(kind), comments=False)
    except TypeError as error:
        raise ValuesError([Problem("E0301", str(error), origin)]) from None
    document = parse_document(text.encode("utf-8", "surrogatepass"), origin)
    document.keys = {}  # nobody has seen the lines that hints could point at
    return document
