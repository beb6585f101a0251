"""Examining a trained model: the checks of the tiers that are asked for, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, ExportError, ValidationError
from pipeline.files import sha256_file
from pipeline.models.store import BEST
from pipeline.spec.schema import resolve, schema_of
from pipeline.tiers.checks import TIERS, Check, checks_of
from pipeline.tiers.report import Result, TiersReport
from pipeline.tiers.subject import Outcome, Subject


def _say_nothing(_result: Result) -> None:
    pass


def tier_settings(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A document of kind `tiers` with its defaults filled in.

    Args:
        given: what it says; None: nothing.
    """
    settings: dict[str, Any] = resolve(schema_of("tiers"), dict(given or {}))
    return settings


def run_tiers(
    model_dir: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    tiers: Sequence[int] | None = None,
    data: Path | None = None,
    exports: Path | None = None,
    tell: Callable[[Result], None] = _say_nothing,
) -> TiersReport:
    """Examine a trained model. A check that fails is in the report and is no error.

    Args:
        model_dir: the model folder.
        settings: of a document of kind `tiers`; what it does not say has its default.
        tiers: which of 1 to 4; None: those of the settings.
        data: the output folder of the tokenizer stage that the model was trained on; None: it is not at hand.
        exports: an export of the model; None: there is none.
        tell: is told each result as it comes.

    Raises:
        ArtifactError: the model or the data is missing or damaged, or they do not belong together.
        ValidationError: a tier is asked for that is none of these.
    """
    complete = tier_settings(settings)
    chosen = tuple(sorted({*(complete["tiers"] if tiers is None else tiers)}))
    if unknown := [tier for tier in chosen if tier not in TIERS]:
        message = f"tier {', '.join(map(str, unknown))} does not examine a model by itself: there are 1 to {max(TIERS)}"
        raise ValidationError(message, hint="take it out of `tiers`; monitoring compares two models, not one")
    subject = Subject.open(model_dir, settings=complete, data=data, exports=exports)
    return TiersReport(
        model_name=subject.description["model_name"],
        task_type=subject.task_type,
        weights_sha256=sha256_file(model_dir / BEST),
        tiers=chosen,
        results=examine(subject, chosen, tell),
    )


def examine(subject: Subject, tiers: Sequence[int], tell: Callable[[Result], None] = _say_nothing) -> list[Result]:
    """Run the checks of some tiers on a subject, and those that they build on."""
    results: dict[str, Result] = {}
    for check in checks_of(tiers):
        started = time.monotonic()
        outcome = _run(check, subject, results)
        results[check.name] = Result(check, outcome, time.monotonic() - started)
        tell(results[check.name])
    return list(results.values())


def _run(check: Check, subject: Subject, earlier: Mapping[str, Result]) -> Outcome:
    """What a check finds; what it raises for the user to mend is a failed check, not the end of the others."""
    if reason := check.unfit(subject):
        return Outcome("not_judged", reason)
    if broken := [name for name in check.after if earlier[name].outcome.status == "failed"]:
        return Outcome("not_judged", f"{' and '.join(broken)} failed, which it builds on")
    try:
        return check.run(subject)
    except (ArtifactError, ExportError) as error:
        return Outcome("failed", str(error))
