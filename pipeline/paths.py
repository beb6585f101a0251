"""Where things live: shipped schemas and specs, artefacts, reports, scratch."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries schemas/ and specs/ inside the package; a checkout has them beside it.
_SHIPPED = _PACKAGE / "_shipped"
_HOME = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent

SCHEMAS = _HOME / "schemas"
SPECS = _HOME / "specs"

# The rest belongs to the project being worked on, which is the working directory of every command.
DEFAULT_SPEC = Path("specs/experiment.yaml")
ARTIFACTS = Path("artifacts")
REPORTS = Path("reports")
STAGES = ("corpus", "tokenizer", "train", "validate", "export")  # in the order of dvc.yaml
OUTPUT_OF = {
    "corpus": ARTIFACTS / "corpus",
    "tokenizer": ARTIFACTS / "tokenizer",
    "train": ARTIFACTS / "model",
    "validate": ARTIFACTS / "validation",
    "export": ARTIFACTS / "export",
}


def work_dir() -> Path:
    """The scratch folder: checkpoints, status files, locks, downloads.

    `FOUNDRY_WORK` moves it, so that experiments in temporary clones find their checkpoints again.
    """
    return Path(os.environ.get("FOUNDRY_WORK") or ".work")


def registry_dir() -> Path:
    """Where registered models live. `FOUNDRY_REGISTRY` moves it, so that several projects share one."""
    return Path(os.environ.get("FOUNDRY_REGISTRY") or "registry")


def is_registered_name(text: str) -> bool:
    """Whether text that may be a path names a model of the registry: `name:tag` or `name@version`.

    A folder that is called so is written `./name:tag`.
    """
    return "/" not in text and (":" in text or "@" in text)


def status_file(stage: str) -> Path:
    """Where a stage says how it is doing and how it ended."""
    # Not under FOUNDRY_WORK: clones that share checkpoints each have a status of their own.
    return Path(".work") / "status" / f"{stage}.json"
