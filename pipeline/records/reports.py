"""What the reports of a run say, as rows for the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.files import parse_artefact
from pipeline.paths import REPORTS

# Report → kind of artefact
KINDS = {
    "corpus.json": "corpus_report",
    "tokenizer.json": "tokenizer_report",
    "training_metrics.json": "training_metrics",
    "history.csv": "history",
    "validation.json": "validation_report",
    "health_report.json": "health_report",
}
TIERS_REPORT = "tiers/report.json"  # which a run does not write
_KIND_OF = {**KINDS, TIERS_REPORT: "tiers_report"}
# Column of history.csv → name of the metric, split. The names are those that trackers get.
_OF_STEP = {
    "loss": ("train/loss", "train"),
    "val_loss": ("val/loss", "validation"),
    "learning_rate": ("learning_rate", None),
    "gradient_norm": ("gradient_norm", None),
    "tokens_per_second": ("tokens_per_second", None),
    "rss_mb": ("memory/rss_mb", None),
    "cuda_allocated_mb": ("memory/cuda_allocated_mb", None),
    "cuda_reserved_mb": ("memory/cuda_reserved_mb", None),
    "cuda_peak_mb": ("memory/cuda_peak_mb", None),
}
# Key of an entry of epoch_history → the same
_OF_EPOCH = {"train_loss": ("train/epoch_loss", "train"), "val_loss": ("val/epoch_loss", "validation")}
# Section of validation.json → what stands before its names, and whether it is about the held-out split
_OF_VALIDATION = {
    "metrics": ("validation/", True),
    "baselines": ("baseline/", True),
    "inference": ("inference/", False),
}

Row = dict[str, Any]


def reports_in(folder: Path = REPORTS, names: Iterable[str] = KINDS, *, since: float = 0.0) -> dict[str, str]:
    """The texts of the reports that are there.

    Args:
        folder: where they are.
        names: of the reports.
        since: only those written at this moment or later, in seconds since 1970.
    """
    paths = {name: folder / name for name in names}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in paths.items()
        if path.is_file() and path.stat().st_mtime >= since
    }


def parse_reports(texts: Mapping[str, str], where: str) -> dict[str, Any]:
    """Reports by name, each checked by its schema.

    Args:
        texts: name → what the file holds.
        where: the folder or commit, for messages.

    Raises:
        ArtifactError: one is damaged or of a newer version.
    """
    return {name: parse_artefact(text, _KIND_OF[name], f"{where}{name}") for name, text in texts.items()}


def metrics_of(reports: Mapping[str, Any]) -> list[Row]:
    """Every figure of some reports: of steps, of epochs, of the run as a whole.

    Args:
        reports: name → value, as `parse_reports` returns them.
    """
    return [row for name, rows in _ROWS_OF.items() if name in reports for row in rows(reports[name])]


def rows_of_steps(history: list[Row]) -> list[Row]:
    """The rows for the database of the rows of history.csv."""
    return [
        _row(name, line[column], split, step=line["step"], epoch=line["epoch"])
        for line in history
        for column, (name, split) in _OF_STEP.items()
        if line.get(column) is not None
    ]


def _of_corpus(report: Row) -> Iterator[Row]:
    yield from _leaves(report, "corpus/")


def _of_tokenizer(report: Row) -> Iterator[Row]:
    yield from _leaves(report, "tokenizer/")


def _of_training(metrics: Row) -> Iterator[Row]:
    for line in metrics["epoch_history"]:
        for key, (name, split) in _OF_EPOCH.items():
            if line.get(key) is not None:
                yield _row(name, line[key], split, epoch=line["epoch"])
    yield from _numbers(metrics["final_metrics"], "")


def _of_validation(report: Row) -> Iterator[Row]:
    for section, (prefix, of_split) in _OF_VALIDATION.items():
        yield from _numbers(report.get(section) or {}, prefix, report["split"] if of_split else None)


def _of_health(report: Row) -> Iterator[Row]:
    yield _row("health_score", report["health_score"])
    for name, figures in report["formats"].items():
        yield from _numbers(figures, f"export/{name}/")


def _of_tiers(report: Row) -> Iterator[Row]:
    yield from _numbers(report["summary"], "tiers/")


def _leaves(figures: Mapping[str, Any], prefix: str) -> Iterator[Row]:
    """The numbers in nested mappings, by dotted names."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif name != "format_version":
            yield from _numbers({name: value}, prefix)


def _numbers(figures: Mapping[str, Any], prefix: str, split: str | None = None) -> Iterator[Row]:
    for name, value in figures.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield _row(f"{prefix}{name.removeprefix('val_') if prefix else name}", value, split)


def _row(
    name: str, value: float, split: str | None = None, *, step: int | None = None, epoch: int | None = None
) -> Row:
    return {"metric_name": name, "split": split, "value": value, "step": step, "epoch": epoch}


_ROWS_OF: Mapping[str, Callable[[Any], Iterable[Row]]] = {
    "corpus.json": _of_corpus,
    "tokenizer.json": _of_tokenizer,
    "history.csv": rows_of_steps,
    "training_metrics.json": _of_training,
    "validation.json": _of_validation,
    "health_report.json": _of_health,
    TIERS_REPORT: _of_tiers,
}
