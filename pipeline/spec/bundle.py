"""The schema of each kind of document in one file, for editors: `schemas/v1/bundle/<kind>.json`.

Editors that meet a `$ref` to another file ask the network or give up, so a bundle has none. Write them again after
changing a schema: `python -m pipeline.spec.bundle`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS
from pipeline.spec.schema import EXPERIMENT, Schema, kinds, schema_of


def bundle(kind: str = EXPERIMENT, version: int = 1) -> Schema:
    """The whole schema of a kind of document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from the files beside this folder by python -m pipeline.spec.bundle.",
        **schema_of(kind, version),
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


if __name__ == "__main__":
    print(*write_bundles(), sep="\n")
