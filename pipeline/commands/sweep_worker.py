"""A worker of a sweep: takes trials and runs them until none is left.

`python -m pipeline.commands.sweep_worker REQUEST`, where REQUEST is JSON: the `sweep` document, and until `when` trials
may start, in seconds since 1970 or null.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import console
from pipeline.commands.sweep_projects import Projects, pass_on
from pipeline.directions import direction
from pipeline.errors import ArtifactError, ExitCode, FoundryError, Interrupted, Preempted
from pipeline.files import canonical_json, read_artefact
from pipeline.paths import REPORTS, STAGES, status_file, work_dir
from pipeline.records.experiments import ExperimentDB, default_database
from pipeline.records.reports import metrics_of, parse_reports, reports_in
from pipeline.records.run_files import mark_pruned
from pipeline.records.unfinished import history_of, run_folder_of
from pipeline.spec.objectives import stage_of
from pipeline.stages.door import die_with_parent
from pipeline.sweeps.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.sweeps.study import Held, Sweep

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0  # between two looks at the losses of a training, or at workers elsewhere
_STOPPED = (ExitCode.PREEMPTED, ExitCode.INTERRUPTED)

Signals = list[int]
Ended = Literal["by itself", "pruned", "stopped", "lost"]


def open_sweep(document: Mapping[str, Any], *, create: bool = True) -> tuple[Sweep, Place]:
    """The trials of a sweep, and the place where its workers on this machine are seen.

    Args:
        document: the sweep, complete.
        create: begin the sweep if there is none.

    Raises:
        FoundryError: Optuna is not installed, or the storage cannot be used.
    """
    try:
        from pipeline.sweeps.storage import default_address
        from pipeline.sweeps.study import Sweep
    except ModuleNotFoundError as error:
        raise FoundryError("a sweep needs Optuna", hint="pip install 'model-foundry[sweep]'") from error

    place = Place(work_dir() / "sweeps")
    address = document["storage"] or default_address(place.folder, document["name"])
    return Sweep(document, address, place, create=create), place


class Worker:
    """Runs trials, one after the other.

    Args:
        sweep: the trials.
        place: where other workers of this machine are seen.
        received: the signals that asked for an end so far.
    """

    def __init__(self, sweep: Sweep, place: Place, received: Signals) -> None:
        self._sweep, self._place, self._received = sweep, place, received
        self._projects = Projects(sweep.name, Path(sweep.document["base"]), place)
        self._objective: str = sweep.document["objective"]
        self._prunes = sweep.document["pruning"]["pruner"] is not None

    def work(self, until: float | None) -> None:
        """Run trials until none is left.

        Args:
            until: when no more of them start, in seconds since 1970; None: never.
        """
        while not self._received and (until is None or time.time() < until):
            held = self._sweep.take()
            if held is not None:
                with held:
                    self._run(held)
            elif self._sweep.is_unclear():
                time.sleep(_LOOK_SECONDS)
            else:
                return

    def _run(self, held: Held) -> None:
        name = f"trial {held.number}"
        chosen = ", ".join(f"{path}={json.dumps(value)}" for path, value in held.values.items())
        console.say(f"{name}: {chosen}{' (goes on)' if held.kills else ''}")
        try:
            text = self._projects.spec_with(held.values)
        except FoundryError as error:
            held.refuse(str(error))
            console.say(f"{name}: refused: {error.message.strip()}")
            return
        with self._alone_with(held):
            if self._received:
                held.put_back()
                return
            folder = self._projects.make(held.number, text)
            ended, code, why = self._build(held, folder)
            console.say(f"{name}: {self._conclude(held, folder, ended, code, why)}")
        if ended != "lost":  # else the folder is another worker's by now
            shutil.rmtree(folder)

    @contextmanager
    def _alone_with(self, held: Held) -> Iterator[None]:
        """Wait while another trial with the same values goes on: what it makes then comes from the cache."""
        while True:
            with self._place.trying(self._sweep.sweep_id, canonical_json(dict(held.values))) as is_alone:
                if is_alone or self._received:
                    yield
                    return
            held.beat()
            time.sleep(_POLL_SECONDS)

    def _build(self, held: Held, folder: Path) -> tuple[Ended, int, str]:
        """Run the trial's stages; returns how that ended, the exit code, and why it was pruned if it was."""
        request = {
            "last": stage_of(self._objective),
            "run": held.run_id,
            "sweep_id": self._sweep.sweep_id,
            "values": dict(held.values),
        }
        with self._projects.start(folder, request, self._projects.log_of(held.number)) as process:
            ended, why = self._watch(process, held)
        return ended, process.returncode, why

    def _watch(self, process: subprocess.Popen[bytes], held: Held) -> tuple[Ended, str]:
        """Wait for the end of a trial; stop it where it is to be stopped, and say which way it ended and why."""
        ended: Ended = "by itself"
        looked = time.monotonic()
        told, why = 0, ""
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            told = pass_on(process, self._received, told)
            if told:
                ended = "stopped"
            elif ended == "by itself" and not held.beat():
                ended = "lost"
                process.terminate()
            elif ended == "by itself" and self._prunes and time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                losses = _losses(held.run_id)
                if held.should_be_pruned(losses):
                    ended = "pruned"
                    why = f"after {len(losses)} evaluations: validation loss {losses[-1]:.4f}, others were better"
                    process.terminate()
        return ended, why

    def _conclude(self, held: Held, folder: Path, ended: Ended, code: int, why: str) -> str:
        """Tell the storage how a trial has ended; returns it in words."""
        if ended == "lost":
            return "another worker runs it now"
        if code == ExitCode.OK:
            return self._complete(held, folder)
        if ended == "pruned" and code in _STOPPED:
            return self._prune(held, why)
        if ended == "stopped":
            held.put_back()
            return "stopped; it goes on from its last checkpoint with `foundry sweep resume`"
        if code < 0 or code in _STOPPED or _was_killed(folder):
            held.put_back(killed=True)
            return "its run was killed; it goes on from its last checkpoint"
        message = _message_of(held.run_id)
        held.fail(message, code=code)
        return f"failed ({code}): {message or self._projects.log_of(held.number)}"

    def _complete(self, held: Held, folder: Path) -> str:
        rows = metrics_of(parse_reports(reports_in(folder / REPORTS), f"{folder / REPORTS}/"))
        if self._prunes:
            held.tell([row["value"] for row in rows if row["metric_name"] == "val/loss"])
        value = objective_of(rows, self._objective)
        if value is None or not math.isfinite(value):
            message = f"its reports have no finite {self._objective}"
            held.fail(message, code=ExitCode.OK)
            return f"failed: {message}"
        held.complete(value)
        return f"{self._objective} {value:.6g}"

    def _prune(self, held: Held, why: str) -> str:
        message = f"pruned {why}"
        held.prune(message)
        try:
            with ExperimentDB() as database:
                mark_pruned(database, held.run_id, message)
        except FoundryError as error:
            console.warn(f"the run of trial {held.number} is not recorded as pruned: {error}")
        if checkpoints := run_folder_of(default_database(), held.run_id):
            shutil.rmtree(checkpoints)
        return message


def objective_of(rows: Sequence[Mapping[str, Any]], objective: str) -> float | None:
    """The figure that decides, in the figures of a run: of several the best, where its name says which that is."""
    values = [row["value"] for row in rows if row["metric_name"] == objective and row["value"] is not None]
    if not values:
        return None
    figure: float = {"min": min(values), "max": max(values), None: values[-1]}[direction(objective)]
    return figure


def _losses(run_id: str) -> list[float]:
    """The validation losses of a training that goes on."""
    try:
        rows = history_of(default_database(), run_id)
    except ArtifactError:  # it has just ended, and cleared its folder
        return []
    return [row["val_loss"] for row in rows if row["val_loss"] is not None]


def _was_killed(folder: Path) -> bool:
    """Whether a stage ended without saying how."""
    for stage in STAGES:
        path = folder / status_file(stage)
        if path.is_file() and read_artefact(path, "stage_status")["phase"] == "running":
            return True
    return False


def _message_of(run_id: str) -> str:
    try:
        with ExperimentDB() as database:
            return str(database.get_record(run_id)["message"])
    except FoundryError:  # the run goes on without its record, and so does the sweep
        return ""


@contextmanager
def signals() -> Iterator[Signals]:
    """Collect the signals that ask for an end instead of dying from them."""
    received: Signals = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def note(number: int, _frame: object) -> None:
        # A terminal that goes away (SIGHUP) is no different from being asked to stop.
        received.append(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    old = {number: signal.signal(number, note) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def stopped_by(number: int) -> FoundryError:
    """The error that a sweep ends with which was stopped by a signal."""
    kind, name = (Interrupted, "Ctrl-C") if number == signal.SIGINT else (Preempted, "SIGTERM")
    return kind(f"the sweep was stopped by {name}", hint="`foundry sweep resume` goes on with it")


def main() -> None:
    """Work on the sweep of the command line."""
    die_with_parent()
    request = json.loads(sys.argv[1])
    try:
        with signals() as received:
            sweep, place = open_sweep(request["sweep"])
            Worker(sweep, place, received).work(request["when"])
        if received:
            sys.exit(stopped_by(received[0]).exit_code)
    except FoundryError as error:
        console.show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
