"""The health of an export: every check of the table run on it, against the model it was made from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ArtifactError, ExportError
from pipeline.export.checks import BUNDLE_CHECK, Check, checks_for
from pipeline.export.formats import FORMATS
from pipeline.export.report import CheckResult, ExportHealthReport
from pipeline.export.source import REBUILD
from pipeline.export.subject import Outcome, Subject
from pipeline.files import MANIFEST, read_artefact
from pipeline.models.model import Model
from pipeline.models.store import load_model
from pipeline.paths import OUTPUT_OF
from pipeline.spec import Spec
from pipeline.spec.flat import TrainingConfig, plain_spec
from pipeline.spec.schema import resolve, schema_of


class ExportHealthChecker:
    """Runs the checks on exports of one model.

    Args:
        model: its folder, as the train stage writes it; or the model itself, whose folder is then `model_folder`.
        config: the experiment, whose section `export` says how exact a format must be; None: what the export itself
            says that it was made with.
        task_spec: a document of kind `task`; what the model must have been trained for.
        model_folder: of a model that is given itself: what it is used with, and what says which one it is.
        data: the output folder of the tokenizer stage, for the held-out split; None: nothing held out is at hand.

    Raises:
        ArtifactError: the model folder is missing or damaged.
        ExportError: the model was trained for another task, or is not the one in its folder.
    """

    def __init__(
        self,
        model: Path | Model,
        config: TrainingConfig | Spec | None = None,
        task_spec: Spec | None = None,
        *,
        model_folder: Path = OUTPUT_OF["train"],
        data: Path | None = None,
    ) -> None:
        self._folder, self._data = model if isinstance(model, Path) else model_folder, data
        self._model, self._description = load_model(self._folder)
        if not isinstance(model, Path) and not _is_same(model, self._model):
            hint = "pass the folder that it was saved in as model_folder"
            raise ExportError("the model has other weights than its folder", where=str(self._folder), hint=hint)
        self._settings = None if config is None else plain_spec(config).section("export")
        found = self._description["task_type"]
        if task_spec is not None and task_spec.task_type != found:
            message = f"the model was trained for {found}, the task document says {task_spec.task_type}"
            raise ExportError(
                message, where=str(self._folder), hint="pass the document of the task that it was trained for"
            )

    def run_all_checks(self, export_dir: Path, formats: Sequence[str] | None = None) -> ExportHealthReport:
        """Run every check and report. A failed check is in the report and is not an error.

        Args:
            export_dir: the export, with its manifest.
            formats: what it should hold; None: what the config or the manifest says.

        Raises:
            ArtifactError: the export has no readable manifest.
            ExportError: the folder is something else than an export, or a format is not known.
        """
        report = ExportHealthReport(self._description["model_name"])
        with self._subject(export_dir, formats) as subject:
            report.spec_hash = subject.manifest.get("spec_hash")
            for check in checks_for(subject):
                report.add_check(run_check(check, subject))
        return report

    def run_bundle_check(self, export_dir: Path) -> CheckResult:
        """Run the check of the bundle alone, which is made when all others have passed.

        Raises:
            ArtifactError: the export has no readable manifest.
        """
        with self._subject(export_dir, None) as subject:
            return run_check(BUNDLE_CHECK, subject)

    def _subject(self, export_dir: Path, formats: Sequence[str] | None) -> Subject:
        manifest = read_artefact(export_dir / MANIFEST, "manifest", rebuild=REBUILD)
        if manifest.get("stage") != "export" or "export" not in manifest["sections"]:
            raise ExportError("the folder is not an export", where=str(export_dir), hint=f"make one with: {REBUILD}")
        settings = export_settings(self._settings or manifest["sections"]["export"])
        if formats is not None:
            settings["formats"] = list(formats)
        if unknown := [name for name in settings["formats"] if name not in FORMATS]:
            hint = f"formats are {', '.join(FORMATS)}"
            raise ExportError(f"not a format: {', '.join(unknown)}", where=str(export_dir), hint=hint)
        return Subject(
            model=self._model,
            description=self._description,
            model_folder=self._folder,
            folder=export_dir,
            manifest=manifest,
            settings=settings,
            data_folder=self._data,
        )


def _is_same(model: Model, other: Model) -> bool:
    """Whether two models have the same weights, wherever these are."""
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].cpu(), theirs[name]) for name in ours)


def export_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The section `export` of a spec with its defaults filled in: exports of earlier versions lack the newer ones."""
    settings: dict[str, Any] = resolve(schema_of()["properties"]["export"], dict(given))
    return settings


def run_check(check: Check, subject: Subject) -> CheckResult:
    """Run one check; what it raises for the user to mend is a failed check, not the end of the report."""
    started = time.monotonic()
    try:
        outcome = check.run(subject)
    except (ArtifactError, ExportError) as error:  # not every FoundryError: a request to stop must stop
        outcome = Outcome("failed", str(error), advice=error.hint or f"build it again with: {REBUILD}")
    return CheckResult(
        check.name,
        outcome.status,
        outcome.message,
        outcome.details,
        round(time.monotonic() - started, 3),
        outcome.advice,
    )
