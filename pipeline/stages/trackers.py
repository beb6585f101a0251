"""Trackers: where a run's figures go besides reports/, TensorBoard and Weights & Biases. The extra `track` has both.

A tracker only listens: what it does, and whether there is one, changes no weight. One that cannot be started ends the
run before it begins, when nothing is lost by it; one that fails later is left out with a warning, and training goes on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline import console
from pipeline.errors import TrainingError
from pipeline.spec import Spec


@dataclass(frozen=True)
class Run:
    """Which run is tracked.

    Attributes:
        spec: the experiment.
        run_id: the same for all processes of the run.
        folder: where trackers keep their files.
        resumed_step: the step of the checkpoint that training goes on from, 0 for a new run.
        tracked_step: the last step whose figures an earlier process has noted.
    """

    spec: Spec
    run_id: str
    folder: Path
    resumed_step: int
    tracked_step: int

    @property
    def name(self) -> str:
        """What people see: the name in the spec or that of the experiment, and the beginning of the identity."""
        return f"{self.spec.logging.run_name or self.spec.name}-{self.run_id[:8]}"


class Tracker(Protocol):
    """Takes figures by name, step after step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Note the figures of an optimizer step; a step can come more than once, with other figures."""

    def close(self, *, done: bool) -> None:
        """Write what is left; `done` says whether the run ended as it should."""


class TensorBoard:
    """Event files for TensorBoard, a folder for each run; a resumed run goes on in the same folder."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard forgets what it has of a run from this step on: the steps after the checkpoint come again.
        again = run.resumed_step + 1 if run.resumed_step else None
        folder = run.folder / "tensorboard" / run.name
        self._writer: Any = SummaryWriter(str(folder), purge_step=again)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, done: bool) -> None:  # noqa: ARG002 - TensorBoard knows no end
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose identity is ours; offline it is a folder that `wandb sync` sends later.

    It cannot forget a step. A resumed run computes the same figures again, so those that were sent are left out.
    """

    def __init__(self, run: Run) -> None:
        import wandb

        logging = run.spec.logging
        run.folder.mkdir(parents=True, exist_ok=True)
        self._sent = run.tracked_step
        self._run = wandb.init(
            id=run.run_id,
            project=logging.wandb_project,
            entity=logging.wandb_entity,
            name=run.name,
            mode=logging.wandb_mode,
            resume="allow" if logging.wandb_mode == "online" else None,  # offline there is nobody to ask
            dir=str(run.folder),  # it makes a folder `wandb` in there
            config=run.spec.to_dict(),
            # Figures alone: neither what is printed, nor the code, nor what else there is on this machine.
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if step > self._sent:
            self._run.log(dict(figures), step=step)

    def close(self, *, done: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if done else 1)


@dataclass(frozen=True)
class Kind:
    """A kind of tracker.

    Attributes:
        title: what people call it.
        package: that it needs.
        start: opens it.
    """

    title: str
    package: str
    start: Callable[[Run], Tracker]


KINDS: Mapping[str, Kind] = {  # setting of the section logging that switches it on → the tracker
    "use_tensorboard": Kind("TensorBoard", "tensorboard", TensorBoard),
    "use_wandb": Kind("Weights & Biases", "wandb", WeightsAndBiases),
}


class Trackers:
    """All trackers of a run, as one."""

    def __init__(self, started: Mapping[str, Tracker]) -> None:
        self._started = dict(started)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Give the figures of a step to each."""
        self._each(lambda tracker: tracker.log(step, figures))

    def close(self, *, done: bool) -> None:
        """Close each."""
        self._each(lambda tracker: tracker.close(done=done))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for title, tracker in list(self._started.items()):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001 - a library of others, at work while hours of training are at stake
                del self._started[title]
                console.warn(f"{title} failed and is left out from now on; training goes on: {_first_line(error)}")


@contextmanager
def tracking(run: Run | None) -> Iterator[Trackers]:
    """The trackers that a spec asks for, closed at the end of the block.

    Args:
        run: None tracks nothing, because another process of the run does.

    Raises:
        TrainingError: the package of one is not installed, or it cannot be started.
    """
    trackers = Trackers({} if run is None else _all_started(run))
    done = False
    try:
        yield trackers
        done = True
    finally:
        trackers.close(done=done)


def require_trackers(spec: Spec) -> None:
    """Insist on the packages of the trackers that a spec asks for.

    Raises:
        TrainingError: one is not installed.
    """
    for setting, kind in _asked_for(spec):
        if importlib.util.find_spec(kind.package) is None:
            message = f"logging.{setting} needs {kind.package}, which is not installed"
            hint = f"pip install 'model-foundry[track]', or set logging.{setting} to false"
            raise TrainingError(message, hint=hint)


def _asked_for(spec: Spec) -> list[tuple[str, Kind]]:
    return [(setting, kind) for setting, kind in KINDS.items() if spec.section("logging")[setting]]


def _all_started(run: Run) -> dict[str, Tracker]:
    return {kind.title: _started(setting, kind, run) for setting, kind in _asked_for(run.spec)}


def _started(setting: str, kind: Kind, run: Run) -> Tracker:
    try:
        return kind.start(run)
    except Exception as error:  # whatever a library of others raises
        message = f"{kind.title} cannot be started: {_first_line(error)}"
        raise TrainingError(message, hint=f"mend it, or set logging.{setting} to false") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
