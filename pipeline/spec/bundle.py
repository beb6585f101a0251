"""The schemas in one file, for editors: `schemas/v1/bundle/experiment.json`.

Editors that meet a `$ref` to another file ask the network or give up, so the bundle holds every section under `$defs`.
Write it again after changing a schema: `python -m pipeline.spec.bundle`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS
from pipeline.spec.schema import Schema, schema_files


def bundle(version: int = 1) -> Schema:
    """The schema of a whole spec, every section of which stands under `$defs`."""
    files = schema_files(version)
    whole: Schema = copy.deepcopy(files["experiment.json"])
    whole["$comment"] = "Generated from the files beside this folder by python -m pipeline.spec.bundle."
    whole["$defs"] = {PurePosixPath(name).stem: _inner(files[name]) for name in files if name != "experiment.json"}
    for child in whole["properties"].values():
        if "$ref" in child:
            child["$ref"] = f"#/$defs/{PurePosixPath(child['$ref']).stem}"
    return whole


def bundle_text(version: int = 1) -> str:
    """The bundle as its file holds it."""
    return json.dumps(bundle(version), indent=2, ensure_ascii=False) + "\n"


def bundle_path(version: int = 1) -> Path:
    """Where the bundle is kept."""
    return SCHEMAS / f"v{version}" / "bundle" / "experiment.json"


def _inner(schema: Schema) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in schema.items() if key != "$schema"}


if __name__ == "__main__":
    write_atomic(bundle_path(), bundle_text())
    print(bundle_path())
