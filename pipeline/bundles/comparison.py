"""What a replay made, held against what the bundle says: every hash that can be equal, and every figure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.artefacts import kind_of
from pipeline.errors import EXIT_CODE_OF, ExitCode
from pipeline.files import MANIFEST, canonical_json, parse_artefact, read_artefact, read_text, sha256_bytes
from pipeline.paths import OUTPUT_OF, REPORTS, STAGES
from pipeline.records.ledger import LEDGER, read_ledger
from pipeline.records.ledger_difference import parting_of

from .content import Bundle
from .subject import REPORT_OF

# Files that say when something was done, how long it took or where; what else is in them follows from other files.
_OF_THE_MOMENT = {
    "manifest.json",
    "model.json",
    "latencies.json",
    "metadata.json",
    "health_report.json",
    "health_report.md",
    "README.md",
    LEDGER,  # says what the training was executed on; its steps are compared below
}
_SPEEDS = ("tokens_per_second", "training_seconds", "peak_rss_mb", "rss_mb")
_SPEEDS_OF_STEPS = (*_SPEEDS, "cuda_allocated_mb", "cuda_reserved_mb", "cuda_peak_mb")
# Report → what of it is the same in every run.
_LASTING: Mapping[str, Callable[[Any], Any]] = {
    "corpus.json": lambda report: report,
    "tokenizer.json": lambda report: report,
    "history.csv": lambda rows: [_without(row, _SPEEDS_OF_STEPS) for row in rows],
    "training_metrics.json": lambda report: {
        "final_metrics": _without(report["final_metrics"], _SPEEDS),
        "epoch_history": report["epoch_history"],
        "samples": report["samples"],
    },
    "validation.json": lambda report: {key: report[key] for key in ("metrics", "baselines", "scored", "samples")},
}
# Keys of `training` in model.json that say how the model was computed: where they differ, so may its last bits.
_EXECUTION = ("device", "precision", "compile_mode", "num_threads", "torch", "cpu_capability", "gpu", "arithmetic")
DESCRIPTION = (OUTPUT_OF["train"] / "model.json").as_posix()
_NOT_THERE = "not there"


@dataclass(frozen=True)
class Compared:
    """One thing that a bundle says of a run, and a replay of it.

    Attributes:
        stage: that made it.
        name: the file.
        packed: its SHA-256 in the bundle, or that of what is the same in every run; of a ledger, how many steps.
        replayed: the same of the replay; of a ledger, where it parted.
    """

    stage: str
    name: str
    packed: str
    replayed: str

    @property
    def equal(self) -> bool:
        """Whether they are the same."""
        return self.packed == self.replayed


@dataclass(frozen=True)
class Verdict:
    """How a replay ended.

    Attributes:
        rows: everything that was compared.
        execution: how the computation differed, as sentences.
        weights_sha256: of the weights that the bundle tells of.
    """

    rows: tuple[Compared, ...]
    execution: tuple[str, ...]
    weights_sha256: str

    @property
    def equal(self) -> bool:
        """Whether everything is the same."""
        return all(row.equal for row in self.rows)

    @property
    def exit_code(self) -> ExitCode:
        """What a process ends with that reports it: the code of the first stage whose result differs."""
        first = next((stage for stage in STAGES for row in self.rows if row.stage == stage and not row.equal), None)
        return ExitCode.OK if first is None else EXIT_CODE_OF[first]


def compare(bundle: Bundle, project: Path) -> Verdict:
    """Hold a project in which the run was repeated against its bundle.

    Args:
        bundle: what was packed.
        project: where the stages have run.

    Raises:
        ArtifactError: an output or a report of the replay is missing or damaged.
    """
    rows = [*_files(bundle, project), *_steps(bundle, project), *_reports(bundle, project)]
    rows.sort(key=lambda row: STAGES.index(row.stage))
    there = bundle.json(DESCRIPTION)["training"]
    here = read_artefact(project / DESCRIPTION, "model")["training"]
    execution = tuple(
        f"{key}: {there.get(key)} there, {here.get(key)} here" for key in _EXECUTION if there.get(key) != here.get(key)
    )
    return Verdict(tuple(rows), execution, bundle.weights_sha256)


def _files(bundle: Bundle, project: Path) -> Iterator[Compared]:
    for stage, manifest in bundle.stages.items():
        folder = OUTPUT_OF[stage]
        made = read_artefact(project / folder / MANIFEST, "manifest")
        yield from _pairs(stage, f"source {{}} of {folder}", *_of(stage, manifest["inputs"], made["inputs"]))
        hashes = ({name: file["sha256"] for name, file in each["files"].items()} for each in (manifest, made))
        there, here = ({name: sha for name, sha in each.items() if _lasts(name)} for each in hashes)
        yield from _pairs(stage, f"{folder.as_posix()}/{{}}", there, here)


def _of(stage: str, there: Mapping[str, str], here: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The inputs of two manifests, where they are the same in every run: what the corpus was read from."""
    return (there, here) if stage == STAGES[0] else ({}, {})


def _pairs(stage: str, form: str, there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Compared]:
    for name in sorted(there.keys() | here.keys()):
        yield Compared(stage, form.format(name), there.get(name, _NOT_THERE), here.get(name, _NOT_THERE))


def _lasts(name: str) -> bool:
    return PurePosixPath(name).name not in _OF_THE_MOMENT


def _steps(bundle: Bundle, project: Path) -> Iterator[Compared]:
    """The steps of the training, which say where it went another way."""
    member = (OUTPUT_OF["train"] / LEDGER).as_posix()
    if member in bundle.names:
        with tempfile.TemporaryDirectory() as scratch:
            bundle.unpack(member, Path(scratch) / LEDGER)
            there = read_ledger(Path(scratch) / LEDGER)
        parting = parting_of(there, read_ledger(project / member))
        steps = f"{len(there.steps)} steps"
        yield Compared("train", member, steps, steps if parting is None else f"parted at {parting}")


def _reports(bundle: Bundle, project: Path) -> Iterator[Compared]:
    for name, member in bundle.below(REPORTS.as_posix()).items():
        if name in _LASTING:
            kind = kind_of(PurePosixPath(member))
            assert kind is not None
            there = parse_artefact(bundle.read(member).decode(), kind, member)
            here = parse_artefact(read_text(project / REPORTS / name), kind, str(project / REPORTS / name))
            yield Compared(REPORT_OF[name], member, *(_digest(_LASTING[name](value)) for value in (there, here)))


def _digest(value: Any) -> str:
    return sha256_bytes(canonical_json(value).encode())


def _without(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
