"""What `foundry checkpoints plan` knows of a run: after which steps it would save, and what disk that would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.spec.estimate import Steps, checkpoints_on_disk
from pipeline.spec.estimate_model import Settings
from pipeline.spec.saves import schedule_of


@dataclass(frozen=True)
class Plan:
    """When a run saves.

    Attributes:
        text: where the number of steps comes from, in words.
        steps: optimizer steps of the run.
        steps_per_epoch: of an epoch.
        saves: why → the steps after which it saves for this reason; a step can have several.
        every_minutes: what the clock adds; None: nothing.
        checkpoints: saved in all, if every evaluation finds a better model.
        checkpoint_bytes: of each.
        kept_at_once: the most on the disk, while one more is being written.
        disk_bytes: what these take.
        kept_after: how many are there when the run has finished.
    """

    text: str
    steps: int
    steps_per_epoch: int
    saves: dict[str, Sequence[int]]
    every_minutes: float | None
    checkpoints: int
    checkpoint_bytes: int
    kept_at_once: int
    disk_bytes: int
    kept_after: int


def plan_of(settings: Settings, steps: Steps, size: float, *, text: str) -> Plan:
    """The plan of a spec.

    Args:
        settings: the sections of a resolved experiment.
        steps: of its run.
        size: bytes of a checkpoint.
        text: where the number of steps comes from, in words.
    """
    training, saving = settings["training"], settings["checkpointing"]
    scheduled = schedule_of(saving, total=steps.total, per_epoch=steps.per_epoch)
    every_epochs = saving["save_every_n_epochs"]
    periods = {
        "steps": saving["save_every_n_steps"],
        "epochs": None if every_epochs is None else every_epochs * steps.per_epoch,
        "evaluations": (training["eval_every_n_steps"] or steps.per_epoch) if steps.evaluations else None,
    }
    saves: dict[str, Sequence[int]] = {
        why: range(period, steps.total + 1, period) for why, period in periods.items() if period is not None
    }
    kept = checkpoints_on_disk(settings, steps)
    return Plan(
        text=text,
        steps=steps.total,
        steps_per_epoch=steps.per_epoch,
        saves={**saves, **({"schedule": scheduled} if scheduled else {})},
        every_minutes=saving["save_every_n_minutes"],
        checkpoints=steps.checkpoints,
        checkpoint_bytes=round(size),
        kept_at_once=kept,
        disk_bytes=round((kept + 1) * size),
        kept_after=len({*scheduled, steps.total}) if scheduled else 0,
    )
