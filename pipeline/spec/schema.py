"""The shipped JSON Schemas: read once, offline, with every `$ref` in place; leaves, branches and defaults."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from pipeline.paths import SCHEMAS

Schema = dict[str, Any]


@cache
def schema_files(version: int = 1) -> Mapping[str, Schema]:
    """Every schema of the experiment spec by its path in the version's folder, which is how a `$ref` names it."""
    folder = SCHEMAS / f"v{version}"
    paths = [folder / "experiment.json", *sorted((folder / "section").glob("*.json"))]
    return {path.relative_to(folder).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in paths}


@cache
def experiment_schema(version: int = 1) -> Schema:
    """The schema of a whole spec with every section written in place of its `$ref`. Read-only by agreement."""
    files = schema_files(version)
    schema = copy.deepcopy(files["experiment.json"])
    for name, section in schema["properties"].items():
        if "$ref" in section:
            schema["properties"][name] = files[section["$ref"]]
    return schema


def is_leaf(schema: Schema) -> bool:
    """Whether a schema describes one setting, as opposed to a mapping of settings."""
    return "properties" not in schema


def leaves(schema: Schema | None = None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every setting of the spec with its schema, in the order of the schema, of all branches."""
    schema = experiment_schema() if schema is None else schema
    for name, child in schema["properties"].items():
        if is_leaf(child):
            yield (*prefix, name), child
        else:
            yield from leaves(child, (*prefix, name))


def schema_at(keys: Iterable[str]) -> Schema:
    """The schema of the section or setting at a path."""
    schema = experiment_schema()
    for key in keys:
        schema = schema["properties"][key]
    return schema


def branch(schema: Schema, values: Mapping[str, Any]) -> list[str]:
    """The keys that a mapping can take: all, or those of the kind that its discriminator names."""
    names = list(schema["properties"])
    discriminator = schema.get("x-discriminator")
    if discriminator is None:
        return names
    kind = values.get(discriminator, schema["properties"][discriminator].get("default"))
    if not isinstance(kind, str) or kind not in schema["x-branches"]:
        return names
    return [name for name in names if name == discriminator or name in schema["x-branches"][kind]]


def resolve(schema: Schema, value: Any) -> Any:
    """A valid value with its defaults filled in and each number of the type that the schema names.

    So `32.0` for an integer becomes 32, and `1` for a number becomes 1.0: equal specs have equal values.
    """
    if "properties" in schema:
        given = value or {}
        filled = {}
        for name in branch(schema, given):
            child = schema["properties"][name]
            if name in given:
                filled[name] = resolve(child, given[name])
            elif "properties" in child:
                filled[name] = resolve(child, {})
            elif "default" in child:
                filled[name] = resolve(child, copy.deepcopy(child["default"]))
        return filled
    if isinstance(value, list):
        return [resolve(schema.get("items", {}), item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "const" in schema:
        return schema["const"]
    kinds = schema.get("type", [])
    if "number" in kinds:
        return float(value) + 0.0  # adding zero turns -0.0 into 0.0
    return int(value)
