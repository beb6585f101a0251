"""The table of health checks of an export, in three stages: a row and a function each.

A package can add rows: an entry point of the group `model_foundry.export_checks` names a function that takes a
`Subject` and returns an `Outcome`; the entry point's name is that of the check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from pipeline.errors import ExportError, Interrupted, Preempted
from pipeline.export import format_checks as of_format
from pipeline.export import model_checks as of_model
from pipeline.export.formats import FORMATS
from pipeline.export.subject import BUNDLE, Outcome, Subject

Stage = Literal["pre-export", "format", "post-export"]
CUSTOM = "model_foundry.export_checks"


@dataclass(frozen=True)
class Check:
    """One check, as it is run: a name for the report and the function that does it."""

    name: str
    run: Callable[[Subject], Outcome]


@dataclass(frozen=True)
class ModelCheck:
    """A row for the model, or for the export as a whole.

    Attributes:
        name: of the check.
        stage: when it could first be run.
        run: the function.
        applies: whether there is anything to check.
    """

    name: str
    stage: Stage
    run: Callable[[Subject], Outcome]
    applies: Callable[[Subject], bool] = lambda _: True

    def checks(self, subject: Subject) -> Iterator[Check]:
        """The check, where it applies."""
        if self.applies(subject):
            yield Check(self.name, self.run)


@dataclass(frozen=True)
class FormatCheck:
    """A row for each format, whose name stands before `name`. Otherwise as `ModelCheck`."""

    name: str
    stage: Stage
    run: Callable[[Subject, str], Outcome]
    applies: Callable[[Subject, str], bool] = lambda _, __: True

    def check(self, format_name: str) -> Check:
        """The check of one format."""
        return Check(f"{format_name}_{self.name}", lambda subject: self.run(subject, format_name))


def _can_score(subject: Subject, name: str) -> bool:
    """Rounded weights must be compared on held-out data; the others are, where there is some."""
    return subject.has_heldout or FORMATS[name].rounded


BUNDLE_CHECK = Check("bundle_validation", of_model.bundle)
MODEL_CHECKS = (
    ModelCheck("export_integrity", "format", of_model.integrity),
    ModelCheck("tokenizer_validation", "format", of_model.tokenizer),
    ModelCheck(BUNDLE_CHECK.name, "format", BUNDLE_CHECK.run, lambda subject: (subject.folder / BUNDLE).is_dir()),
    ModelCheck("architecture_validation", "pre-export", of_model.architecture),
    ModelCheck("parameter_validation", "pre-export", of_model.parameters),
    ModelCheck("shape_validation", "pre-export", of_model.shapes),
    ModelCheck("memory_requirements", "pre-export", of_model.memory),
    ModelCheck("forward_pass_validation", "pre-export", of_model.forward_pass),
)
FORMAT_CHECKS = (
    FormatCheck("validation", "format", of_format.validation),
    FormatCheck("numerical_consistency", "post-export", of_format.numerical_consistency),
    FormatCheck(
        "generation_consistency", "post-export", of_format.generation, lambda subject, _: subject.writes_text
    ),
    FormatCheck(
        "perplexity",
        "post-export",
        of_format.perplexity,
        lambda subject, name: subject.writes_text and _can_score(subject, name),
    ),
    FormatCheck(
        "class_agreement",
        "post-export",
        of_format.class_agreement,
        lambda subject, name: subject.has_classes and _can_score(subject, name),
    ),
    FormatCheck("performance", "post-export", of_format.performance),
)  # fmt: skip


def checks_for(subject: Subject) -> Iterator[Check]:
    """The checks of an export, in the order of the report: the whole, each format, and those of other packages.

    Raises:
        ExportError: a check of another package cannot be had.
    """
    formats = subject.settings["formats"]
    subject.start_source()
    for name in formats[:1]:
        subject.start(name)
    for row in MODEL_CHECKS:
        yield from row.checks(subject)
    for name, following in zip(formats, [*formats[1:], None], strict=True):
        if following is not None:
            subject.start(following)  # it imports while this one is checked, and holds no weights yet
        yield from (row.check(name) for row in FORMAT_CHECKS if row.applies(subject, name))
        subject.close(name)  # by now they have been run: one process at a time holds the weights
    for entry in entry_points(group=CUSTOM):
        yield Check(entry.name, custom_check(entry))


def custom_check(entry: EntryPoint) -> Callable[[Subject], Outcome]:
    """The function that an entry point names. What it raises, whatever it is, is a failed check.

    Raises:
        ExportError: there is no such function.
    """
    try:
        function = entry.load()
    except (ImportError, AttributeError) as error:
        hint = f"mend or uninstall the package that registers it under {CUSTOM}"
        raise ExportError(f"the check {entry.name} cannot be loaded: {error}", where=entry.value, hint=hint) from error

    def run(subject: Subject) -> Outcome:
        try:
            found = function(subject)
        except (Preempted, Interrupted):
            raise
        except Exception as error:  # noqa: BLE001 - code of others: its defect must not hide the other checks
            return Outcome("failed", f"it raised {type(error).__name__}: {error}", {}, f"mend {entry.value}")
        if not isinstance(found, Outcome):
            return Outcome("failed", f"it returned {found!r} instead of an Outcome", {}, f"mend {entry.value}")
        return found

    return run
