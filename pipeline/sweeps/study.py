"""A sweep at work: who runs which trial, what comes of it, and how a trial is found whose worker is gone.

Trials live in an Optuna storage that any number of workers share. A worker asks for a trial, notes that it holds it,
and lets its pulse beat there while it goes on. A trial that has lost its worker waits again under the same number and
with the same values, so that whoever takes it goes on from the checkpoints of its training.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from pipeline.directions import direction
from pipeline.errors import FoundryError
from pipeline.files import canonical_json

from .drawing import distributions, sampler_of, size_of, value_of
from .place import Place
from .storage import open_storage
from .trials import CODE, ENDED, HOLDER, KILLS, MESSAGE, SURPLUS, State, Trial, run_of, trial_of

Pulse = Literal["alive", "dead", "unclear"]
Direction = Literal["minimize", "maximize"]

MOST_KILLS = 5  # of one trial: what kills it that often (too little memory) would kill it for ever
BEAT_SECONDS = 20.0
GRACE_SECONDS = 120.0  # without a beat: several lost ones, so that a short outage of a network costs no trial
_IDENTITY_SECONDS, _POLL_SECONDS = 10.0, 0.1  # from making a sweep to saying what it is: milliseconds as a rule
_SWEEP_ID, _DEFINITION = "sweep_id", "definition"
_DEFINES = ("space", "method", "seed", "startup_trials", "objective", "direction")


@dataclass(frozen=True)
class _Beat:
    """What was seen last of a worker elsewhere, since when, and whether it was seen to change at all."""

    holder: object
    since: float
    seen_to_beat: bool


class Sweep:
    """The trials of a sweep. Belongs to one process.

    Args:
        document: the sweep, complete, as its schema has it.
        address: of the storage.
        place: where other workers of this machine are seen.
        create: begin the sweep if the storage does not have it.
        grace: seconds without a beat after which a worker elsewhere is taken for dead.

    Raises:
        FoundryError: the storage cannot be opened, does not have the sweep, or has another one of that name.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        address: str,
        place: Place,
        *,
        create: bool = True,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.document = document
        self.name: str = document["name"]
        self.direction = direction_of(document)
        self.size = size_of(document)
        self._place, self._grace = place, grace
        self._worker = uuid.uuid4().hex
        self._pulses: dict[int, _Beat] = {}  # trial → what was seen last of its worker
        # A pruner looks at validation losses. Where more of the objective is better, Optuna gets their negative.
        self._sign = 1 if self.direction == "minimize" else -1
        with place.waiting(address):  # two processes that make one database disturb each other
            self._study = self._open(address, create=create)

    @property
    def sweep_id(self) -> str:
        """The identity of the sweep, in the records of its runs."""
        return str(self._study.user_attrs[_SWEEP_ID])

    def trials(self) -> list[Trial]:
        """Every trial so far, by number."""
        return [self._trial(each) for each in self._frozen()]

    def best(self) -> Trial:
        """The completed trial with the best objective; of equal ones the first.

        Raises:
            FoundryError: no trial has been completed.
        """
        return ranked(self.trials(), self.direction, or_else=self.name)[0]

    def importance(self) -> dict[str, float]:
        """The share of each setting, of 1, in how good trials are, the largest first.

        Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance (ICML 2014),
        as Optuna has it.

        Returns:
            Nothing where there is no telling: one setting only, or trials that are too few or equally good.
        """
        figures = {trial.objective for trial in self.trials() if trial.state == "completed"}
        if len(self.document["space"]) < 2 or len(figures) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {path: float(share) for path, share in shares.items()}

    def take(self) -> Held | None:
        """Hold the next trial: one that waits for a worker again, else a new one.

        Returns:
            None: no trial is left to be taken.
        """
        with self._place.waiting(self.sweep_id):  # so that no worker here begins one too many, or frees what is taken
            self._recover()
            begun = self._frozen()
            if not any(each.state == TrialState.WAITING for each in begun) and self._is_full(len(begun)):
                return None
            trial = self._study.ask()
            held = Held(self, trial, self._place)
        if self._is_surplus(trial.number):  # a worker elsewhere was quicker
            held.give_up()
            return None
        held.choose(sampler_of(self.document, trial.number), distributions(self.document))
        return held

    def is_unclear(self) -> bool:
        """Whether a trial goes on of which is not known yet that its worker, elsewhere, is alive."""
        return any(
            each.state == TrialState.RUNNING and not self._is_here(each) and self._pulse(each) == "unclear"
            for each in self._frozen()
        )

    def _open(self, address: str, *, create: bool) -> optuna.Study:
        storage = open_storage(address)
        pruner = _pruner(self.document)
        definition = canonical_json({name: self.document[name] for name in _DEFINES})
        if create:
            with suppress(optuna.exceptions.DuplicatedStudyError):  # it goes on, or a worker elsewhere was quicker
                study = optuna.create_study(study_name=self.name, storage=storage, direction=self.direction)
                _identify(study, definition)
        try:
            study = optuna.load_study(study_name=self.name, storage=storage, pruner=pruner)
        except KeyError as error:
            hint = "`foundry sweep run` begins it"
            raise FoundryError(f"the sweep {self.name} has not begun", where=address, hint=hint) from error
        deadline = time.monotonic() + _IDENTITY_SECONDS
        while _SWEEP_ID not in study.user_attrs:
            if time.monotonic() > deadline:  # whoever made it was killed before it could go on
                _identify(study, definition)
            time.sleep(_POLL_SECONDS)
        if (known := study.user_attrs[_DEFINITION]) != definition:
            message = f"the storage has a sweep {self.name} with another {_changed(known, definition)}"
            hint = "give this one another `name`; trials of two sweeps cannot be compared as one"
            raise FoundryError(message, where=address, hint=hint)
        return study

    def _frozen(self) -> list[FrozenTrial]:
        return [each for each in self._study.get_trials(deepcopy=False) if SURPLUS not in each.user_attrs]

    def _trial(self, frozen: FrozenTrial) -> Trial:
        return trial_of(frozen, self.sweep_id, sign=self._sign)

    def _is_full(self, begun: int) -> bool:
        return self.size is not None and begun >= self.size

    def _is_surplus(self, number: int) -> bool:
        return self._is_full(sum(each.number < number for each in self._frozen()))

    def _recover(self) -> None:
        """Let the trials wait whose workers are gone."""
        for each in self._frozen():
            if each.state != TrialState.RUNNING:
                continue
            if not self._is_here(each):
                if self._pulse(each) == "dead":
                    self._free(each)
                continue
            with self._place.trying(self.sweep_id, each.number) as is_free:
                if is_free:
                    self._free(each)

    def _free(self, seen: FrozenTrial) -> None:
        """Let a trial wait again after its worker was killed, or give it up if that has happened too often."""
        latest = self._study._storage.get_trial(seen._trial_id)  # noqa: SLF001 - Optuna has no other way to one trial
        if latest.state == TrialState.RUNNING and latest.user_attrs.get(HOLDER) == seen.user_attrs.get(HOLDER):
            _note_kill(self._study, latest)

    def _is_here(self, trial: FrozenTrial) -> bool:
        holder = trial.user_attrs.get(HOLDER)
        return holder is not None and holder["place"] == self._place.name

    def _pulse(self, trial: FrozenTrial) -> Pulse:
        """What is known of the life of a worker elsewhere.

        Only this process's own clock is used: those of other machines may differ.
        """
        now, holder = time.monotonic(), trial.user_attrs.get(HOLDER)
        last = self._pulses.setdefault(trial.number, _Beat(holder, now, seen_to_beat=False))
        if last.holder != holder:
            last = self._pulses[trial.number] = _Beat(holder, now, seen_to_beat=True)
        if now - last.since >= self._grace:
            return "dead"
        return "alive" if last.seen_to_beat else "unclear"


class Held:
    """A trial that this worker runs, until it says how the trial ended. Use it as a context.

    Attributes:
        number: from 0.
        values: dotted setting → value.
        kills: how often a worker was killed with it.
    """

    def __init__(self, sweep: Sweep, trial: optuna.Trial, place: Place) -> None:
        self._sweep, self._trial, self._place = sweep, trial, place
        self._study = trial.study
        self._locks = ExitStack()
        self._beats = 0
        self._holder = {"place": place.name, "worker": sweep._worker, "beat": 0}  # noqa: SLF001 - one of this file
        self._beaten = time.monotonic()
        self.number = trial.number
        self.values: Mapping[str, Any] = {}
        self.kills: int = trial.user_attrs.get(KILLS, 0)
        self._locks.enter_context(place.waiting(sweep.sweep_id, self.number))
        trial.set_user_attr(HOLDER, self._holder)

    def __enter__(self) -> Self:
        """Nothing: the trial is held from the beginning."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock."""
        self._locks.close()

    @property
    def run_id(self) -> str:
        """The identity of the trial's run."""
        return run_of(self._sweep.sweep_id, self.number)

    def choose(self, sampler: optuna.samplers.BaseSampler, space: Mapping[str, Any]) -> None:
        """Draw the values; a trial that was begun before keeps its own."""
        self._study.sampler = sampler
        self.values = {path: value_of(self._suggested(path, space[path])) for path in space}

    def beat(self) -> bool:
        """Show that the worker is alive, where that is due.

        Returns:
            False: another worker has taken the trial for lost and runs it now.
        """
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return True
        if not self._is_mine():
            return False
        self._beaten = time.monotonic()
        self._beats += 1
        self._holder = {**self._holder, "beat": self._beats}
        self._trial.set_user_attr(HOLDER, self._holder)
        return True

    def tell(self, losses: Sequence[float]) -> None:
        """Tell the validation losses so far, with which others are compared from now on."""
        known = self._study._storage.get_trial(self._trial._trial_id).intermediate_values  # noqa: SLF001
        for number, loss in enumerate(losses, start=1):
            if number not in known:
                self._trial.report(self._sweep._sign * loss, number)  # noqa: SLF001 - one of this file

    def should_be_pruned(self, losses: Sequence[float]) -> bool:
        """Tell the validation losses so far; returns whether the trial is worse than it should be."""
        self.tell(losses)
        return len(losses) >= self._sweep.document["pruning"]["min_evaluations"] and self._trial.should_prune()

    def complete(self, objective: float) -> None:
        """The trial has ended well."""
        self._end("completed", TrialState.COMPLETE, objective, code=0)

    def prune(self, message: str) -> None:
        """The trial was stopped because others are better."""
        self._end("pruned", TrialState.PRUNED, message=message)

    def fail(self, message: str, *, code: int) -> None:
        """The trial's run has failed; `code` is what it ended with."""
        self._end("failed", TrialState.FAIL, message=message, code=code)

    def refuse(self, message: str) -> None:
        """The trial's settings are wrong: it is not run."""
        self._end("refused", TrialState.FAIL, message=message)

    def give_up(self) -> None:
        """The trial is one too many: it does not count."""
        self._trial.set_user_attr(SURPLUS, True)
        self._study.tell(self._trial, state=TrialState.FAIL)
        self._locks.close()

    def put_back(self, *, killed: bool = False) -> None:
        """The trial was stopped: whoever takes it next goes on with it.

        Args:
            killed: its run was killed, which counts.
        """
        if not self._is_mine():
            return
        frozen = self._study._storage.get_trial(self._trial._trial_id)  # noqa: SLF001
        if killed:
            _note_kill(self._study, frozen)
        else:
            _wait(self._study, frozen)

    def _suggested(self, path: str, distribution: Any) -> Any:
        known = self._trial.params
        if path in known:
            return known[path]
        return self._trial._suggest(path, distribution)  # noqa: SLF001 - what `ask` itself calls for a distribution

    def _is_mine(self) -> bool:
        frozen = self._study._storage.get_trial(self._trial._trial_id)  # noqa: SLF001
        return frozen.state == TrialState.RUNNING and frozen.user_attrs.get(HOLDER) == self._holder

    def _end(
        self,
        ended: State,
        state: TrialState,
        objective: float | None = None,
        *,
        message: str = "",
        code: int | None = None,
    ) -> None:
        if not self._is_mine():
            return
        for name, value in {ENDED: ended, MESSAGE: message, CODE: code}.items():
            self._trial.set_user_attr(name, value)
        self._study.tell(self._trial, objective, state=state)


def direction_of(document: Mapping[str, Any]) -> Direction:
    """Which way the objective of a sweep should go: `minimize` or `maximize`."""
    said: Direction | None = document["direction"]
    return said or ("maximize" if direction(document["objective"]) == "max" else "minimize")


def ranked(trials: Sequence[Trial], way: str, *, or_else: str = "") -> list[Trial]:
    """The completed trials, the best first; of equal ones the first.

    Args:
        trials: any.
        way: `minimize` or `maximize`.
        or_else: the name of the sweep, which must have a completed trial; empty: it need not.

    Raises:
        FoundryError: it has none.
    """
    sign = 1 if way == "minimize" else -1
    completed = [trial for trial in trials if trial.state == "completed"]
    if or_else and not completed:
        hint = "`foundry sweep status` says what became of them"
        raise FoundryError(f"no trial of {or_else} has been completed", hint=hint)
    return sorted(completed, key=lambda trial: (sign * (trial.objective or 0.0), trial.number))


def _pruner(document: Mapping[str, Any]) -> BasePruner:
    said = document["pruning"]
    if said["pruner"] == "median":
        return MedianPruner(n_startup_trials=said["min_trials"])
    return HyperbandPruner() if said["pruner"] == "hyperband" else NopPruner()


def _identify(study: optuna.Study, definition: str) -> None:
    study.set_user_attr(_DEFINITION, definition)
    study.set_user_attr(_SWEEP_ID, uuid.uuid4().hex)  # last: who finds it finds all


def _note_kill(study: optuna.Study, trial: FrozenTrial) -> None:
    kills = trial.user_attrs.get(KILLS, 0) + 1
    storage, number = study._storage, trial._trial_id  # noqa: SLF001 - Optuna cannot name a trial of another process
    storage.set_trial_user_attr(number, KILLS, kills)
    if kills < MOST_KILLS:
        _wait(study, trial)
        return
    storage.set_trial_user_attr(number, ENDED, "failed")
    message = f"its worker or its training was killed {kills} times; memory may be too small for it"
    storage.set_trial_user_attr(number, MESSAGE, message)
    storage.set_trial_state_values(number, TrialState.FAIL)


def _wait(study: optuna.Study, trial: FrozenTrial) -> None:
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)  # noqa: SLF001


def _changed(known: str, definition: str) -> str:
    was, is_now = json.loads(known), json.loads(definition)
    return " and ".join(name for name in _DEFINES if was[name] != is_now[name])
