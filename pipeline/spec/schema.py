"""The shipped JSON Schemas: read once, offline, with every `$ref` in place; leaves, branches and defaults."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.paths import SCHEMAS

Schema = dict[str, Any]


EXPERIMENT = "experiment"  # the kind of a document that names none


@cache
def kinds(version: int = 1) -> tuple[str, ...]:
    """The kinds of documents that can be written: the names of the schemas directly in a version's folder."""
    return tuple(sorted(path.stem for path in (SCHEMAS / f"v{version}").glob("*.json")))


@cache
def schema_of(kind: str = EXPERIMENT, version: int = 1) -> Schema:
    """The schema of a document, with what each `$ref` names written in its place. Read-only by agreement.

    A `$ref` is the path of a file in the version's folder, and perhaps `#/` and the way to a part of it; keywords
    beside it win over what stands there. With `x-partial: true` beside it nothing in there is required: it describes
    what is laid over a whole.
    """
    return _read(f"{kind}.json", SCHEMAS / f"v{version}")


def _read(name: str, folder: Path) -> Schema:
    schema: Schema = json.loads((folder / name).read_text(encoding="utf-8"))
    # jsonschema would take `$schema` as a wish for its own validator and drop what ours does differently.
    schema.pop("$schema")
    whole: Schema = _referred(schema, folder)
    return whole


def _referred(node: Any, folder: Path) -> Any:
    if isinstance(node, list):
        return [_referred(item, folder) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" not in node:
        return {key: _referred(value, folder) for key, value in node.items()}
    file, _, way = node["$ref"].partition("#/")
    there = _read(file, folder)
    for name in way.split("/") if way else ():
        there = there[name]
    beside = {key: value for key, value in node.items() if key not in ("$ref", "x-partial")}
    return {**(partial(there) if node.get("x-partial") else there), **_referred(beside, folder)}


def partial(node: Any) -> Any:
    """A schema that requires nothing: of values that are laid over a whole document, or filled up to one."""
    if isinstance(node, list):
        return [partial(item) for item in node]
    if not isinstance(node, dict):
        return node
    # What `if` requires is a condition, not a demand; `required` under `properties` would be the name of a setting.
    return {
        key: {name: partial(child) for name, child in value.items()}
        if key == "properties"
        else value
        if key == "if"
        else partial(value)
        for key, value in node.items()
        if key != "required"
    }


def is_leaf(schema: Schema) -> bool:
    """Whether a schema describes one setting, as opposed to a mapping of settings."""
    return "properties" not in schema


def leaves(schema: Schema | None = None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every setting of a document (default: an experiment) with its schema, of all branches, in the schema's order.

    What stands in the items of a list is not a setting of its own: the list is one.
    """
    schema = schema_of() if schema is None else schema
    for name, child in schema["properties"].items():
        if is_leaf(child):
            yield (*prefix, name), child
        else:
            yield from leaves(child, (*prefix, name))


def schema_at(keys: Iterable[Any], schema: Schema | None = None) -> Schema:
    """The schema of what stands at a path of a document (default: an experiment).

    Raises:
        KeyError: the schema knows nothing there.
    """
    schema = schema_of() if schema is None else schema
    for key in keys:
        if isinstance(key, int):
            schema = schema["items"]
        elif key in schema.get("properties", ()):
            schema = schema["properties"][key]
        elif isinstance(others := schema.get("additionalProperties"), dict):
            schema = others
        else:
            raise KeyError(key)
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
    if isinstance(value, dict) or (value is None and "null" not in schema.get("type", ())):
        return _filled(schema, value or {}) if "properties" in schema else _named_freely(schema, value)
    if isinstance(value, list):
        return [resolve(schema.get("items", {}), item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "const" in schema:
        return schema["const"]
    kinds = schema.get("type", ())
    if "number" in kinds and "integer" not in kinds:
        return float(value) + 0.0  # adding zero turns -0.0 into 0.0
    return int(value) if "integer" in kinds and value == int(value) else value


def _filled(schema: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    filled = {}
    for name in branch(schema, given):
        child = schema["properties"][name]
        if name in given:
            filled[name] = resolve(child, given[name])
        elif "default" in child:
            filled[name] = resolve(child, copy.deepcopy(child["default"]))
        elif "properties" in child:
            filled[name] = resolve(child, {})
    return filled


def _named_freely(schema: Schema, value: Any) -> Any:
    others = schema.get("additionalProperties")
    inner = others if isinstance(others, dict) else {}
    return value and {name: resolve(inner, item) for name, item in value.items()}
