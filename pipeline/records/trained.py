"""What someone means by a training: a model folder, a project, a registered model, or a recorded run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, FoundryError
from pipeline.files import MANIFEST, manifest_hash, read_artefact, verify_manifest
from pipeline.paths import OUTPUT_OF, STAGES, is_registered_name

from .experiments import ExperimentDB, UnknownRunError, default_database
from .ledger import LEDGER
from .registry import ModelRegistry, model_at, registry_exists

_REBUILD = "foundry run --force"
_DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Trained:
    """A training, and what of it is still there.

    Attributes:
        name: as it was called.
        folders: stage → output folder. Only those that belong together: each was made from the one before it.
        project: the project that they stand in; None: a model folder by itself.
    """

    name: str
    folders: dict[str, Path]
    project: Path | None

    @property
    def ledger(self) -> Path | None:
        """The ledger of the training; None: an older version trained it, or there is no model."""
        path = self.folders["train"] / LEDGER if "train" in self.folders else None
        return path if path is not None and path.is_file() else None

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a stage's folder, after checking every file against it.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        return verify_manifest(self.folders[stage], rebuild=_REBUILD)


def find_training(name: str) -> Trained:
    """What a name means.

    Args:
        name: a model folder, a project folder, `name:tag` or `name@version` of the registry, or the beginning of the
            identity of a recorded run, or `latest`.

    Raises:
        FoundryError: there is nothing of that name.
    """
    if is_registered_name(name):
        return _of_model(name, model_at(name))
    path = Path(name)
    if (path / MANIFEST).is_file():
        return _of_model(name, path)
    if any((path / folder / MANIFEST).is_file() for folder in OUTPUT_OF.values()):
        return _of_project(name, path)
    if path.exists() or "/" in name:
        hint = "name a model folder such as artifacts/model, a project that was run, or a run of `foundry runs list`"
        raise ArtifactError("there is no model or output of a stage here", where=name, hint=hint)
    return _of_model(name, _model_of_run(name))


def _of_model(name: str, folder: Path) -> Trained:
    """A model folder, with the outputs beside it where it stands in a project."""
    if not (folder / _DESCRIPTION).is_file():
        hint = "a model folder, such as artifacts/model, has one"
        raise ArtifactError(f"this is no model folder: it has no {_DESCRIPTION}", where=str(folder), hint=hint)
    project = folder.absolute().parent.parent
    if folder.absolute() == project / OUTPUT_OF["train"]:
        return _of_project(name, project)
    return Trained(name, {"train": folder}, None)


def _of_project(name: str, project: Path) -> Trained:
    """The outputs of a project that belong together, as seen from the last one that they lead to."""
    there: dict[str, Path] = {
        stage: project / OUTPUT_OF[stage] for stage in STAGES if (project / OUTPUT_OF[stage] / MANIFEST).is_file()
    }
    kept: dict[str, Path] = {}
    for stage in ("train", "tokenizer", "corpus"):
        if stage in there and _fits(there[stage], kept):
            kept[stage] = there[stage]
    for stage in ("validate", "export"):
        made_from = _inputs(there[stage]).get("model") if stage in there else None
        if made_from is not None and "train" in kept and made_from == manifest_hash(kept["train"]):
            kept[stage] = there[stage]
    return Trained(name, {stage: kept[stage] for stage in STAGES if stage in kept}, project)


def _fits(folder: Path, kept: dict[str, Path]) -> bool:
    """Whether what is kept so far was made from this folder, or there is nothing yet."""
    return not kept or any(manifest_hash(folder) in _inputs(later).values() for later in kept.values())


def _inputs(folder: Path) -> dict[str, str]:
    found: dict[str, str] = read_artefact(folder / MANIFEST, "manifest", rebuild=_REBUILD)["inputs"]
    return found


def _model_of_run(name: str) -> Path:
    """The model folder of a recorded run: artifacts/model or a registered one.

    Raises:
        FoundryError: there is no such run, or its model is not here.
    """
    if not default_database().is_file():
        hint = "name a folder, a registered model (name:tag), or a run of `foundry runs list`"
        raise UnknownRunError(f"there is no folder and no run {name}", where=str(default_database()), hint=hint)
    with ExperimentDB() as database:
        run_id = database.resolve(name)
        training = database.get_record(run_id)["training_run_id"]
    for folder in _models_here():
        if read_artefact(folder / _DESCRIPTION, "model")["training"]["run_id"] == training:
            return folder
    raise FoundryError(
        f"the model of the run {run_id} is not here any more, and its ledger went with it",
        hint="keep models worth comparing with: foundry models register; or check out the commit and: dvc checkout",
    )


def _models_here() -> list[Path]:
    here = [OUTPUT_OF["train"]] if (OUTPUT_OF["train"] / _DESCRIPTION).is_file() else []
    if not registry_exists():
        return here
    with ModelRegistry() as registry:
        return [*here, *(model.checkpoint_path for model in registry.list_models())]
