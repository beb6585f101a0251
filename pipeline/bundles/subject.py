"""What is packed: the model of a run, and what else is known to belong to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import MANIFEST, manifest_hash, read_artefact, verify_manifest
from pipeline.paths import OUTPUT_OF, REPORTS, STAGES, is_registered_name
from pipeline.records.environment import environment
from pipeline.records.experiments import ExperimentDB, default_database
from pipeline.records.model_folder import ModelFolder, read_model_folder
from pipeline.records.registry import open_registry, registry_exists

from .code import Code, code_here, code_of_record
from .errors import BundleError

# Report → the stage that wrote it.
REPORT_OF = {
    "corpus.json": "corpus",
    "tokenizer.json": "tokenizer",
    "training_metrics.json": "train",
    "history.csv": "train",
    "validation.json": "validate",
    "health_report.json": "export",
    "health_report.md": "export",
}
_REBUILD = "foundry run --force"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A run, as far as it can still be proven.

    Attributes:
        model: the folder of its model, every file checked.
        reference: the registered model that was asked for, as `name@version`.
        record: of the run, where there is one.
        code: that it ran on.
        environment: `python`, `platform` and `packages`, as far as they are known.
        outputs: stage → folder, of those that belong to the model.
        reports: name → file, of those that belong to it.
    """

    model: ModelFolder
    reference: str | None
    record: Record | None
    code: Code
    environment: Mapping[str, Any]
    outputs: Mapping[str, Path]
    reports: Mapping[str, Path]

    @property
    def identity(self) -> str:
        """Of the run; of the training where the run was not recorded."""
        return self.model.run_id if self.record is None else str(self.record["run_id"])


def find_subject(name: str | None) -> Subject:
    """The run that is meant.

    Args:
        name: the beginning of a run's identity, or `latest`; `name:tag` or `name@version` of a registered model; None
            for what stands in this folder.

    Raises:
        BundleError: its model is not there any more, or its code is not known.
        UnknownRunError: no run is called so.
        RegistryError: no model is called so.
        ArtifactError: a file of it is damaged.
    """
    if name is None:
        return _of_folder()
    return _of_model(name) if is_registered_name(name) else _of_run(name)


def _of_folder() -> Subject:
    model = read_model_folder(OUTPUT_OF["train"])
    record = _record_of(model)
    if record is not None:
        return _recorded(model, record)
    _require_fresh()
    return _subject(model, None, code_here(Path()), environment())


def _of_model(name: str) -> Subject:
    with open_registry() as registry:
        found = registry.get_model(name)
        model = read_model_folder(registry.get_folder(found.model_id))
    record = _record_of(model)
    if record is None:
        message = f"no record of the run that trained {found} says which code it ran on"
        hint = "pack it where it was trained; `foundry runs rebuild` finds the runs that git knows"
        raise BundleError(message, hint=hint)
    return _recorded(model, record, reference=str(found))


def _of_run(name: str) -> Subject:
    if not default_database().exists():
        hint = "`foundry run` records one; `foundry runs rebuild` reads those in reports/ and in git"
        raise BundleError("no run is recorded here yet", where=str(default_database()), hint=hint)
    with ExperimentDB() as database:
        record = database.get_record(database.resolve(name))
    if record["status"] != "completed":
        hint = "`foundry runs list --where status=completed` shows those that can be packed"
        raise BundleError(f"the run {record['run_id']} is {record['status']}, so there is nothing to repeat", hint=hint)
    for folder in _model_folders():
        if _has_left(record, folder):
            return _recorded(read_model_folder(folder), record)
    hint = "bring its spec back, and `foundry run` restores the model; register models that are to be kept"
    message = f"the model of the run {record['run_id']} is neither in {OUTPUT_OF['train']} nor registered"
    raise BundleError(message, hint=hint)


def _recorded(model: ModelFolder, record: Record, *, reference: str | None = None) -> Subject:
    if record["git_commit"] is None:
        hint = "what is to be repeated elsewhere is kept in git: commit the project, and run again"
        raise BundleError(f"the run {record['run_id']} was in no git repository", hint=hint)
    code = code_of_record(Path(), record["git_commit"], record["git_diff"] or "")
    return _subject(model, record, code, record["environment"] or {}, reference=reference)


def _subject(
    model: ModelFolder, record: Record | None, code: Code, executed: Mapping[str, Any], *, reference: str | None = None
) -> Subject:
    outputs = _outputs_of(model)
    reports = {
        name: REPORTS / name
        for name, stage in REPORT_OF.items()
        if stage in outputs and (REPORTS / name).is_file() and (stage != "train" or _tells_of(model))
    }
    known = {
        "python": executed.get("python"),
        "platform": executed.get("platform"),
        "packages": executed.get("packages", {}),
    }
    return Subject(model, reference, record, code, known, outputs, reports)


def _record_of(model: ModelFolder) -> Record | None:
    """The newest record of a run that has left this model; one that knows its hash before one made from reports."""
    if not default_database().exists():
        return None
    query = """
        SELECT run_id FROM runs JOIN executions USING (run_id) WHERE training_run_id = ? AND status = 'completed'
        ORDER BY origin = 'foundry run' DESC, created_at DESC
    """
    with ExperimentDB() as database:
        records = [database.get_record(row["run_id"]) for row in database.rows(query, (model.run_id,))]
    return next((record for record in records if _has_left(record, model.path)), None)


def _has_left(record: Record, folder: Path) -> bool:
    """Whether a run has left a model folder: by its hash, or by the identity of the training where that is all."""
    known = [row["metadata"].get("sha256") for row in record["artifacts"] if row["artifact_type"] == "model"]
    if known:
        return manifest_hash(folder) in known
    description = read_artefact(folder / "model.json", "model")
    return bool(description["training"]["run_id"] == record["training_run_id"])


def _model_folders() -> Iterator[Path]:
    """Where models are: the one of this folder, then those of the registry."""
    if (OUTPUT_OF["train"] / MANIFEST).is_file():
        yield OUTPUT_OF["train"]
    if registry_exists():
        with open_registry() as registry:
            folders = [model.checkpoint_path for model in registry.list_models()]
        yield from (folder for folder in folders if (folder / MANIFEST).is_file())


def _outputs_of(model: ModelFolder) -> dict[str, Path]:
    """The folders that this model was made from, back to the corpus, and those that were made from it."""
    found = {"train": model.path}
    inputs: Mapping[str, str] = model.manifest["inputs"]
    for stage in ("tokenizer", "corpus"):
        folder = OUTPUT_OF[stage]
        if not (folder / MANIFEST).is_file() or inputs.get(stage) != manifest_hash(folder):
            break
        inputs = verify_manifest(folder, rebuild=_REBUILD)["inputs"]
        found[stage] = folder
    for stage in ("validate", "export"):
        folder = OUTPUT_OF[stage]
        if (folder / MANIFEST).is_file():
            manifest = read_artefact(folder / MANIFEST, "manifest")
            if manifest["inputs"].get("model") == model.manifest_sha256:
                verify_manifest(folder, rebuild=_REBUILD)
                found[stage] = folder
    return {stage: found[stage] for stage in STAGES if stage in found}


def _tells_of(model: ModelFolder) -> bool:
    """Whether the reports of training are about this model."""
    path = REPORTS / "training_metrics.json"
    return path.is_file() and read_artefact(path, "training_metrics")["run_id"] == model.run_id


def _require_fresh() -> None:
    """Insist that what stands in this folder is what its spec and its code make.

    Raises:
        BundleError: it is not, or DVC cannot tell.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1].removeprefix("ERROR: ")
        raise BundleError(f"no record tells of this model, and DVC does not, either: {said}", hint="foundry run")
    if changed := json.loads(done.stdout or "{}"):
        message = f"what stands here is not what the spec and the code make: changed since is {', '.join(changed)}"
        raise BundleError(message, hint="run `foundry run`, and pack again")
