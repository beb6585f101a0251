"""A registered model, and the ways to name one: by its id, `name:tag` or `name@version`."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.errors import FoundryError
from pipeline.records.versions import Version

Status = Literal["active", "retired"]
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # also the name of a folder, on every system


class RegistryError(FoundryError):
    """The registry has no such model, or what was asked of it would break a rule."""


@dataclass(frozen=True)
class RegisteredModel:
    """What the registry knows of a model.

    Attributes:
        model_id: the number it was given.
        name: what it is called; all versions of a model share it.
        version: `1.0.0`; no two models have both name and version in common.
        checkpoint_path: the registry's own copy of the model folder.
        manifest_sha256: of the manifest of that copy.
        weights_sha256: of its weights.
        task_type: `task.task_type` of its spec.
        config_hash: of the lock of its spec: the settings that shaped it.
        training_run_id: the run that trained it.
        parent_model_id: the model whose weights its training began with, or that it was said to follow.
        created_at: when it was registered.
        metrics: name → figure.
        export_formats: what was exported from it.
        model_size_mb: size of the weights, in 10^6 bytes.
        memory_req_gb: what using it takes, in 10^9 bytes, where that was measured.
        metadata: what else is to be remembered.
        status: `retired` models keep their version and carry no tags.
        tags: such as `production`.
    """

    model_id: int
    name: str
    version: str
    checkpoint_path: Path
    manifest_sha256: str
    weights_sha256: str
    task_type: str
    config_hash: str
    training_run_id: str | None
    parent_model_id: int | None
    created_at: str
    metrics: dict[str, float]
    export_formats: list[str]
    model_size_mb: float
    memory_req_gb: float | None
    metadata: dict[str, Any]
    status: Status
    tags: list[str]

    @classmethod
    def of_row(cls, row: sqlite3.Row, *, folder: Path) -> Self:
        """A row of the view `registered`, whose paths start from `folder`."""
        values: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row gives its values
        decoded = {name: json.loads(values[name]) for name in ("metrics", "export_formats", "metadata", "tags")}
        return cls(**{**values, **decoded, "checkpoint_path": folder / values["checkpoint_path"]})

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "checkpoint_path": self.checkpoint_path.as_posix()}


@dataclass(frozen=True)
class Reference:
    """What text means that names a model: exactly one of the three.

    Attributes:
        text: as it was written.
        model_id: its number.
        tag: a name, and a tag that a model of that name has.
        version: a name, and a version.
    """

    text: str
    model_id: int | None = None
    tag: tuple[str, str] | None = None
    version: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """Read an id, `name:tag` or `name@version`.

        Raises:
            RegistryError: it is none of them.
        """
        said = str(text)
        if said.isdecimal() and said.isascii():
            return cls(said, model_id=int(said))
        name, mark, rest = said.partition("@") if "@" in said else said.partition(":")
        if not mark or not name or not rest:
            hint = "name a model by its id, as name:tag or as name@version; `foundry models list` shows them"
            raise RegistryError(f"{said!r} does not name one registered model", hint=hint)
        if mark == ":":
            return cls(said, tag=(name, rest))
        return cls(said, version=(name, str(Version.parse(rest))))


def require_word(kind: str, text: str) -> str:
    """A name or a tag, which becomes part of paths and of references.

    Raises:
        RegistryError: it has other characters than these allow.
    """
    if _WORD.fullmatch(text) is None:
        hint = "take letters, digits, `.`, `_` and `-`, at most 100, beginning with a letter or a digit"
        raise RegistryError(f"{text!r} cannot be the {kind} of a model", hint=hint)
    if text.isdecimal():
        raise RegistryError(f"the {kind} {text!r} would be taken for an id", hint="let it hold a letter")
    return text


def require_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics that can be kept and compared.

    Raises:
        RegistryError: one of them is no finite number.
    """
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:  # NaN and infinity
            raise RegistryError(f"the metric {name} is {value!r}, which is no finite number", hint="leave it out")
    return dict(metrics)
