"""The schema of each kind of document in one file, for editors: `schemas/v1/bundle/<kind>.json`.

Editors that meet a `$ref` to another file ask the network or give up, so a bundle has none. Write them again after
changing a schema: `python -m pipeline.spec.bundle`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS
from pipeline.spec.schema import EXPERIMENT, Schema, kinds, partial, schema_of

# In a template, text with a parameter in it can stand wherever a setting stands.
_HOLE = {"type": "string", "pattern": r"\$\{[^{}]*\}"}


def bundle(kind: str = EXPERIMENT, version: int = 1) -> Schema:
    """The whole schema of a kind of document.

    That of templates also says what a rule of the checker says: their values are those of the documents they become.
    """
    whole = schema_of(kind, version)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from the files beside this folder by python -m pipeline.spec.bundle.",
        **(_with_values(whole, version) if kind == "template" else whole),
    }


def bundle_text(kind: str = EXPERIMENT, version: int = 1) -> str:
    """The bundle as its file holds it."""
    return json.dumps(bundle(kind, version), indent=2, ensure_ascii=False) + "\n"


def bundle_path(kind: str = EXPERIMENT, version: int = 1) -> Path:
    """Where the bundle is kept."""
    return SCHEMAS / f"v{version}" / "bundle" / f"{kind}.json"


def write_bundles() -> list[Path]:
    """Write all of them; returns their paths."""
    for kind in kinds():
        write_atomic(bundle_path(kind), bundle_text(kind))
    return [bundle_path(kind) for kind in kinds()]


def _with_values(template: Schema, version: int) -> Schema:
    becomes = {kind: partial(schema_of(kind, version)) for kind in template["properties"]["for"]["enum"]}
    branches = [
        {
            "if": {"properties": {"for": {"const": kind}}, "required": ["for"]},
            "then": {"properties": {"values": _with_holes(schema)}},
        }
        for kind, schema in becomes.items()
    ]
    return {**template, "allOf": branches}


def _with_holes(schema: Schema) -> Schema:
    """A schema in which a hole can stand in the place of all that it holds."""
    holed = dict(schema)
    if "properties" in schema:
        holed["properties"] = {name: _or_hole(child) for name, child in schema["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            holed[inner] = _or_hole(schema[inner])
    return holed


def _or_hole(schema: Schema) -> Schema:
    return {"if": _HOLE, "else": _with_holes(schema)}


if __name__ == "__main__":
    print(*write_bundles(), sep="\n")
