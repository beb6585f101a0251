"""What a model folder says about itself, once every file of it has been checked: all that the registry remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, canonical_json, manifest_hash, read_artefact, sha256_bytes, verify_manifest
from pipeline.spec import Spec, load_spec
from pipeline.spec.lock import lock_of

WEIGHTS = "model.safetensors"
_DESCRIPTION, _SPEC, _TOKENIZER = "model.json", "spec.json", "tokenizer.model"
_INSIDE = "pytorch"  # the format of an export that is a whole model folder
_REBUILD = "foundry run --force"


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose files are as they were written.

    Attributes:
        path: the folder.
        description: its model.json.
        spec: the spec that made it.
        manifest: its manifest.
    """

    path: Path
    description: dict[str, Any]
    spec: Spec
    manifest: dict[str, Any]

    @property
    def manifest_sha256(self) -> str:
        """The identity of the folder."""
        return manifest_hash(self.path)

    @property
    def model_sha256(self) -> str:
        """The identity of the folder that training wrote; this may be the copy of it inside an export."""
        made_from: str = self.manifest["inputs"].get("model", "")
        return made_from if self.manifest["stage"] == "export" else self.manifest_sha256

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights."""
        found: str = self.manifest["files"][WEIGHTS]["sha256"]
        return found

    @property
    def size_mb(self) -> float:
        """How large the weights are, in 10^6 bytes."""
        return float(self.manifest["files"][WEIGHTS]["bytes"] / 1e6)

    @property
    def config_hash(self) -> str:
        """The hash of the settings that shaped it."""
        return lock_of(self.spec, "train").hash

    @property
    def run_id(self) -> str:
        """The run that trained it."""
        found: str = self.description["training"]["run_id"]
        return found

    @property
    def start_sha256(self) -> str | None:
        """The SHA-256 of the weights that training began with; None: random ones."""
        found: str | None = self.manifest["inputs"].get("start")
        return found

    @property
    def val_loss(self) -> float | None:
        """The loss that training found for these weights on the validation split; None: there was no split."""
        found: float | None = self.description["training"]["val_loss"]
        return found

    @property
    def vocabulary(self) -> str:
        """The identity of what the model reads and says: its tokenizer, and the names of its classes if it has some."""
        tokenizer = self.manifest["files"].get(_TOKENIZER, {}).get("sha256")
        classes = read_artefact(self.path / "tokenizer.json", "tokenizer").get("classes")
        return sha256_bytes(canonical_json([tokenizer, classes]).encode())


def read_model_folder(path: Path) -> ModelFolder:
    """Read a model folder, after checking every file of it against its manifest.

    Raises:
        ArtifactError: a file is missing or damaged, or the folder holds something else.
        SpecError: its spec cannot be read by this version.
    """
    manifest = verify_manifest(path, rebuild=_REBUILD)
    for name in (WEIGHTS, _DESCRIPTION, _SPEC):
        if name not in manifest["files"]:
            hint = f"a model folder, such as artifacts/model, has {WEIGHTS}, {_DESCRIPTION} and {_SPEC}"
            raise ArtifactError(f"this is no model folder: it has no {name}", where=str(path), hint=hint)
    description = read_artefact(path / _DESCRIPTION, "model")
    return ModelFolder(path, description, load_spec(path / _SPEC), manifest)


def is_export(path: Path) -> bool:
    """Whether a folder is an export, not a model folder.

    Raises:
        ArtifactError: it has no readable manifest.
    """
    manifest = read_artefact(path / MANIFEST, "manifest", rebuild=_REBUILD)
    return manifest["stage"] == "export" and _DESCRIPTION not in manifest["files"]


def model_of_export(path: Path) -> Path:
    """The model folder inside an export.

    Raises:
        ArtifactError: there is none.
    """
    inside = path / _INSIDE
    if not inside.is_dir():
        hint = "register the model folder that it was made from, then: foundry models add-export"
        raise ArtifactError(
            f"the export does not hold the model itself, the format {_INSIDE}", where=str(path), hint=hint
        )
    return inside


def read_export(path: Path) -> dict[str, Any]:
    """The manifest of an export, after checking every file against it.

    Raises:
        ArtifactError: a file is missing or damaged, or the folder is no export.
    """
    manifest = verify_manifest(path, rebuild="foundry run --from export --force")
    if not is_export(path):
        raise ArtifactError("this is no export", where=str(path), hint="an export is a folder such as artifacts/export")
    return manifest
