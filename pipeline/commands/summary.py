"""What `foundry run` says at the end: what was built, how good it is, how fast it went, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts import kind_of
from pipeline.console import duration
from pipeline.errors import ArtifactError
from pipeline.files import read_artefact
from pipeline.paths import OUTPUT_OF, REPORTS, STAGES

# Task → what to do with its model, and what its targets are
_USES = {
    "masked_lm": ("artifacts/validation/samples.json   what the model fills in", "hidden tokens"),
    "text_classification": ("foundry classify TEXT           its class, by the model", "texts"),
    "vision_classification": ("foundry classify FILE           the class of a picture", "pictures"),
    "vision_multilabel": ("foundry classify FILE           the labels of a picture", "labels"),
}
_USE = ('foundry generate "To be, or"   text from the model', "tokens")

_NEXT = """\
Next: {use}
      make compare                   this run against the last commit
      make plots                     its curves
      edit specs/experiment.yaml, then `make run` again: only what changed is built"""


def summarize(*, ran: Mapping[str, float], restored: Sequence[str], seconds: float) -> str:
    """The summary of a finished run, as lines of text.

    Args:
        ran: the stages that ran, with the seconds each took.
        restored: the stages whose results came from the cache of an earlier run.
        seconds: how long the whole run took.
    """
    lines = ["", f"{'stage':<11} {'what happened':<26} where"]
    for stage in STAGES:
        if stage in ran:
            happened = f"built in {duration(ran[stage])}"
        else:
            happened = "restored from the cache" if stage in restored else "unchanged"
        folder = OUTPUT_OF[stage]
        lines.append(f"{stage:<11} {happened:<26} {folder}/ ({_megabytes(folder):.1f} MB)")
    lines += ["", *_quality(), f"finished in {duration(seconds)}", "", _NEXT.format(use=_use()[0])]
    return "\n".join(lines)


def _quality() -> list[str]:
    final = _report("training_metrics.json").get("final_metrics", {})
    held_out = _report("validation.json")
    health = _report("health_report.json").get("summary", {})
    targets = _use()[1]
    good = [
        _figure(f"validation loss {{:.4f}} nats per {targets.removesuffix('s')}", final.get("best_val_loss")),
        _figure("accuracy {:.1%}", held_out.get("metrics", {}).get("accuracy")),
        _figure("micro F1 {:.1%}", held_out.get("metrics", {}).get("micro_f1")),
        _figure("{:.4f} bits per byte", _find(held_out, "bits_per_byte") or final.get("bits_per_byte")),
    ]
    fast = [_figure(f"{{:,.0f}} {targets}/s in training", final.get("tokens_per_second"))]
    sound = [_figure("{} checks passed", health.get("passed")), _figure("{} failed", health.get("failed"))]
    rows = {"quality": good, "speed": fast, "exports": sound}
    return [f"{name:<11} {', '.join(filter(None, figures))}" for name, figures in rows.items() if any(figures)]


def _use() -> tuple[str, str]:
    """What the model is good for, and what it learned from."""
    return _USES.get(_find(_report("training_metrics.json"), "task_type"), _USE)


def _report(name: str) -> dict[str, Any]:
    """A report, empty where there is none that can be read: the summary shows what it can."""
    path = REPORTS / name
    try:
        report: dict[str, Any] = read_artefact(path, kind_of(path) or "")
    except ArtifactError:
        return {}
    return report


def _find(report: Any, name: str) -> Any:
    """The first value of that name in nested mappings."""
    if not isinstance(report, dict):
        return None
    if name in report:
        return report[name]
    return next((found for value in report.values() if (found := _find(value, name)) is not None), None)


def _figure(text: str, value: Any) -> str:
    return text.format(value) if isinstance(value, int | float) else ""


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
