"""Which steps of a run are scheduled to be saved: many at first, when a model learns most, and fewer later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SCHEDULE = (
    "checkpoint_schedule",
    "auto_generate_checkpoints",
    "first_epoch_checkpoints",
    "subsequent_epochs_spacing",
    "log_base",
    "linear_interval",
    "min_checkpoint_interval",
    "min_checkpoints_per_epoch",
)


def schedule_of(checkpointing: Mapping[str, Any], *, total: int, per_epoch: int) -> tuple[int, ...]:
    """The scheduled steps of a run, from the section `checkpointing` of its spec; see `scheduled_steps`."""
    return scheduled_steps(total=total, per_epoch=per_epoch, **{name: checkpointing[name] for name in _SCHEDULE})


def scheduled_steps(
    *,
    total: int,
    per_epoch: int,
    checkpoint_schedule: Sequence[int],
    auto_generate_checkpoints: bool,
    first_epoch_checkpoints: int,
    subsequent_epochs_spacing: str,
    log_base: float,
    linear_interval: int | None,
    min_checkpoint_interval: int,
    min_checkpoints_per_epoch: int,
) -> tuple[int, ...]:
    """The optimizer steps after which a checkpoint is saved and kept for good, in ascending order.

    Args:
        total: optimizer steps of the run.
        per_epoch: optimizer steps of an epoch.
        checkpoint_schedule: steps named one by one; those beyond the run are left out.
        auto_generate_checkpoints: whether there is more than those: step 0, the last step, and what follows.
        first_epoch_checkpoints: in the first epoch, at a constant ratio from one to the next, its end included.
        subsequent_epochs_spacing: `log`: in every later epoch the gaps begin with `min_checkpoint_interval` and grow by
            `log_base` until its end; `linear`: they are all the same.
        log_base: see there.
        linear_interval: the gap of `linear`; None divides an epoch by `min_checkpoints_per_epoch`.
        min_checkpoint_interval: the smallest gap in later epochs.
        min_checkpoints_per_epoch: in later epochs. One that would get fewer gets these, evenly spaced, whatever the
            smallest gap, or one after each step where it has no more.
    """
    steps = set(checkpoint_schedule)
    if auto_generate_checkpoints:
        steps |= {0, total, *_first_epoch(per_epoch, first_epoch_checkpoints)}
        if subsequent_epochs_spacing == "log":
            offsets = _growing(per_epoch, min_checkpoint_interval, log_base)
        else:
            gap = max(linear_interval or per_epoch // min_checkpoints_per_epoch, min_checkpoint_interval)
            offsets = [*range(gap, per_epoch + 1, gap)]
        if len(offsets) < min_checkpoints_per_epoch:
            parts = range(1, min_checkpoints_per_epoch + 1)
            offsets = [per_epoch * part // min_checkpoints_per_epoch for part in parts]
        steps |= {begin + offset for begin in range(per_epoch, total, per_epoch) for offset in offsets}
    return tuple(sorted(step for step in steps if step <= total))


def _first_epoch(per_epoch: int, wanted: int) -> Iterator[int]:
    count = min(wanted, per_epoch)
    step = 0
    for number in range(1, count + 1):
        step = max(step + 1, int(per_epoch ** (number / count) + 1e-9))  # whole powers must not be rounded down
        yield step


def _growing(per_epoch: int, first: int, base: float) -> list[int]:
    """Steps of an epoch whose gaps grow by a factor, and its end."""
    offsets, gap, step = [], float(first), float(first)
    while step < per_epoch:
        offsets.append(int(step))
        gap *= base
        step += gap
    return [*offsets, per_epoch]
