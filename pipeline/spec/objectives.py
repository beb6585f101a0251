"""What a sweep can go by: the figures of a run under the names of its record, and the stage that measures each."""

from __future__ import annotations

from functools import cache

from pipeline.artefacts import artefact_schema
from pipeline.spec.nearest import closest

_OF_HISTORY = ("train/loss", "val/loss", "train/epoch_loss", "val/epoch_loss")
# What follows is named by the shape of a report, by the task, or by the format.
_FREE = {"corpus/": "corpus", "tokenizer/": "tokenizer", "baseline/": "validate", "export/": "export"}


def stage_of(objective: str) -> str | None:
    """The stage that measures a figure; None if a run has no such figure."""
    free = (stage for prefix, stage in _FREE.items() if objective.startswith(prefix) and objective != prefix)
    return _known().get(objective) or next(free, None)


def meant_by(objective: str) -> str | None:
    """The figure of a run that a wrong name is most likely a slip of."""
    return closest(objective, _known())


@cache
def _known() -> dict[str, str]:
    """Name → stage, by the schemas of the reports; docs/records.md explains the names."""
    training = artefact_schema("training_metrics")["properties"]["final_metrics"]["properties"]
    validation = artefact_schema("validation_report")["properties"]
    return {
        **dict.fromkeys([*training, *_OF_HISTORY], "train"),
        **{f"validation/{name.removeprefix('val_')}": "validate" for name in validation["metrics"]["properties"]},
        **{f"inference/{name}": "validate" for name in validation["inference"]["properties"]},
        "health_score": "export",
    }
