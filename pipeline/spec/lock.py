"""A spec's lock: the settings that shape the result, in one spelling, and their hash.

Two specs with the same lock train the same model, however their files are ordered, spelled or commented. What only
changes speed, reports or the screen is left out, and so are the name and the notes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import canonical_json, read_artefact, sha256_bytes
from pipeline.paths import STAGES
from pipeline.spec.schema import EXPERIMENT, schema_at, schema_of
from pipeline.spec.spec import Spec

LOCK_FORMAT = 1
_LABELS = ("schema_version", "kind", "name", "notes")  # say which document it is, not what it does


@dataclass(frozen=True, slots=True)
class Lock:
    """What a spec comes down to.

    Attributes:
        kind: the kind of document.
        settings: dotted setting → resolved value, sorted by name.
        hash: the SHA-256 of kind and settings in canonical JSON.
    """

    kind: str
    settings: dict[str, Any]
    hash: str

    @property
    def text(self) -> str:
        """The lock as its file holds it: JSON, one setting a line."""
        content = {"format_version": LOCK_FORMAT, "kind": self.kind, "hash": self.hash, "settings": self.settings}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def lock_of(spec: Spec, stage: str | None = None) -> Lock:
    """The lock of a spec.

    Args:
        spec: the spec. One that is no experiment trains nothing by itself, so all its settings count.
        stage: take only the settings that this stage and those before it read: what the stage's output follows from.
            From the train stage on that is all of them.
    """
    stages = STAGES if stage is None else STAGES[: STAGES.index(stage) + 1]
    settings = {
        name: value_of(spec, name)
        for name in sorted(spec.leaves())
        if name not in _LABELS and (spec.kind != EXPERIMENT or _shapes(name, stages))
    }
    return Lock(spec.kind, settings, _hash(spec.kind, settings))


def read_lock(path: Path) -> Lock:
    """Read what `Lock.text` gave.

    Raises:
        ArtifactError: the file is missing, is no lock, or its hash is not that of its settings.
    """
    content = read_artefact(path, "lock")
    lock = Lock(content["kind"], content["settings"], content["hash"])
    if lock.hash != _hash(lock.kind, lock.settings):
        message = "the hash is not that of the settings beside it: the lock was changed by hand or damaged"
        raise ArtifactError(message, where=str(path), hint="write it again with: foundry lock")
    return lock


def _hash(kind: str, settings: dict[str, Any]) -> str:
    return sha256_bytes(canonical_json({"kind": kind, "settings": settings}).encode())


def value_of(spec: Spec, name: str) -> Any:
    """The resolved value of a dotted setting that the spec has, as plain lists and scalars."""
    value: Any = spec.to_dict()
    for key in name.split("."):
        value = value[key]
    return value


def _shapes(name: str, stages: tuple[str, ...]) -> bool:
    schema = schema_at(name.split("."), schema_of(EXPERIMENT))
    return schema["x-effect"] == "result" and not set(stages).isdisjoint(schema["x-stages"])
