"""What is known about a trial of a sweep."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from .drawing import value_of

State = Literal["waiting", "running", "completed", "pruned", "refused", "failed"]
STATES: tuple[State, ...] = ("waiting", "running", "completed", "pruned", "refused", "failed")
_ENDED = ("completed", "pruned", "refused", "failed")

# What we note on Optuna's trials.
HOLDER, KILLS, ENDED, MESSAGE, CODE, RUN, SURPLUS = "holder", "kills", "ended", "message", "exit_code", "run", "surplus"

_STATE_OF: Mapping[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Trial:
    """A trial as the storage has it.

    Attributes:
        number: from 0, in the order in which trials were begun.
        state: `waiting` for a worker again, `running`, or how it ended: `refused` has wrong settings and was not run.
        values: dotted setting → the value that the sweep chose; empty in the moment in which they are chosen.
        objective: the figure that decides; None where it is not known, or no finite number.
        run_id: its run in the records.
        kills: how often its worker or its training was killed.
        message: why it failed, was refused or pruned.
        exit_code: what its run ended with; None while it goes on, and where it was not run.
        seconds: from its beginning to its end, with every interruption; None before it ends.
        losses: its validation losses, by the number of the evaluation, from 1.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    objective: float | None
    run_id: str
    kills: int
    message: str
    exit_code: int | None
    seconds: float | None
    losses: Mapping[int, float]

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.state in _ENDED


def run_of(sweep_id: str, number: int) -> str:
    """The identity of a trial's run: one for each trial, however often it is killed."""
    return uuid.uuid5(uuid.UUID(sweep_id), str(number)).hex


def trial_of(frozen: FrozenTrial, sweep_id: str, *, sign: int) -> Trial:
    """What Optuna knows about a trial.

    Args:
        frozen: the trial.
        sweep_id: of its sweep.
        sign: -1 where Optuna was told the negative of the validation losses.
    """
    noted = frozen.user_attrs
    lasted = frozen.duration
    return Trial(
        number=frozen.number,
        state=noted.get(ENDED, _STATE_OF[frozen.state]) if frozen.state.is_finished() else _STATE_OF[frozen.state],
        values={path: value_of(given) for path, given in frozen.params.items()},
        objective=frozen.value if frozen.state == TrialState.COMPLETE else None,
        run_id=run_of(sweep_id, frozen.number),
        kills=noted.get(KILLS, 0),
        message=noted.get(MESSAGE, ""),
        exit_code=noted.get(CODE),
        seconds=None if lasted is None else lasted.total_seconds(),
        losses={step: sign * loss for step, loss in sorted(frozen.intermediate_values.items())},
    )
