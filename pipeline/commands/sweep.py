"""`foundry sweep`: run an experiment with many values of some settings, and find the best."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import console
from pipeline.errors import ExitCode, FoundryError
from pipeline.paths import REPORTS

if TYPE_CHECKING:
    from pipeline.sweeps.study import Sweep
    from pipeline.sweeps.trials import Trial

_POLL_SECONDS = 0.1
_HOPELESS_SECONDS = 1.0  # a worker that is killed sooner has not even begun: starting another one would be in vain

_SPEC = click.argument("spec", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="Run an experiment with many values of some settings, and find the best.")
def command() -> None:
    """Run an experiment with many values of some settings, and find the best.

    SPEC is a document of kind `sweep`, like specs/sweeps/learning-rate.yaml: what is tried, how, and what decides. Each
    trial is the base experiment with other values. It is checked first, then built by the same stages as `foundry
    run`, in a folder of its own, and recorded: `foundry runs list --where sweep_id=…`.
    """


@command.command("run")
@_SPEC
@click.option("--jobs", type=click.IntRange(min=1), help="Trials at once on this machine, instead of the document's.")
def run(spec: Path, jobs: int | None) -> None:
    """Run the trials of SPEC, or join others that run them.

    The same command on another machine joins through the storage, which must be a journal file or PostgreSQL for that.
    The trial of a worker that was killed goes on from its last checkpoint under its own number. Ctrl-C stops every
    trial with a checkpoint; `foundry sweep resume` goes on.

    Ends with 0 if at least one trial was completed, else as the first one that failed.
    """
    _run(spec, jobs, create=True)


@command.command("resume")
@_SPEC
@click.option("--jobs", type=click.IntRange(min=1), help="Trials at once on this machine, instead of the document's.")
def resume(spec: Path, jobs: int | None) -> None:
    """Go on with the sweep of SPEC, which has begun: like `run`, but never begins one."""
    _run(spec, jobs, create=False)


@command.command("status")
@_SPEC
@_JSON
def status(spec: Path, as_json: bool) -> None:
    """Show what became of each trial of SPEC."""
    sweep = _opened(spec)
    trials = sweep.trials()
    if as_json:
        click.echo(json.dumps({"sweep_id": sweep.sweep_id, "trials": [asdict(trial) for trial in trials]}, indent=2))
        return
    click.echo(_table(sweep, trials))
    click.echo(f"\n{_counted(sweep, trials)}")


@command.command("best")
@_SPEC
@click.option("--apply", is_flag=True, help="Write its values into the base experiment; comments stay.")
@_JSON
def best(spec: Path, apply: bool, as_json: bool) -> None:
    """Show the best trial of SPEC, and its run in the records.

    With --apply its values go into the base experiment, in the file that SPEC names. `foundry run` then takes its
    model from the cache.
    """
    sweep = _opened(spec)
    trial = sweep.best()
    if as_json:
        click.echo(json.dumps(asdict(trial), indent=2))
    else:
        click.echo(_described(sweep, trial))
    if apply:
        from pipeline.commands.set import set_values
        from pipeline.spec.edit import Assignment
        from pipeline.spec.write import inline

        wanted = [Assignment(tuple(path.split(".")), value, inline(value)) for path, value in trial.values.items()]
        set_values(Path(sweep.document["base"]), wanted)


@command.command("report")
@_SPEC
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page in Markdown; the one in HTML goes beside it.  [default: reports/sweeps/NAME.md]",
)
def report(spec: Path, output: Path | None) -> None:
    """Write what SPEC has found: best trials, importance of settings, parallel coordinates, history.

    As Markdown, and as one HTML page with pictures that needs no network.
    """
    from pipeline.commands.sweep_page import page
    from pipeline.files import write_atomic
    from pipeline.sweeps.report import markdown, summary

    sweep = _opened(spec)
    found = summary(sweep)
    target = output or REPORTS / "sweeps" / f"{sweep.name}.md"
    html = page(found)
    write_atomic(target, markdown(found))
    write_atomic(target.with_suffix(".html"), html)
    click.echo(f"{target}\n{target.with_suffix('.html')}")


def _document(spec: Path) -> dict[str, Any]:
    from pipeline.spec import load_spec

    return load_spec(spec, kind="sweep").to_dict()


def _opened(spec: Path) -> Sweep:
    from pipeline.commands.sweep_worker import open_sweep

    return open_sweep(_document(spec), create=False)[0]


def _run(spec: Path, jobs: int | None, *, create: bool) -> None:
    from pipeline.commands.prerequisites import require_all
    from pipeline.commands.sweep_projects import Projects
    from pipeline.commands.sweep_worker import open_sweep, signals, stopped_by

    document = _document(spec)
    require_all()
    sweep, place = open_sweep(document, create=create)
    jobs = jobs or int(document["parallel_jobs"])
    console.say(f"sweep {sweep.name} ({sweep.sweep_id}): {_counted(sweep, sweep.trials())}")
    minutes = document["budget"]["max_minutes"]
    when = None if minutes is None else time.time() + 60 * minutes
    with signals() as received:
        Projects(sweep.name, Path(document["base"]), place).prepare(received)
        if not received:
            _supervise({"sweep": document, "when": when}, jobs, received)
        if received:
            raise stopped_by(received[0])
    trials = sweep.trials()
    click.echo(f"{_table(sweep, trials)}\n\n{_counted(sweep, trials)}")
    if any(trial.state == "completed" for trial in trials):
        click.echo(_described(sweep, sweep.best()))
        return
    failed = next((trial for trial in trials if trial.exit_code), None)
    error = FoundryError("no trial was completed", hint="the messages above say why")
    error.exit_code = ExitCode.PREREQUISITES if failed is None else ExitCode(failed.exit_code or 0)
    raise error


def _supervise(request: Mapping[str, Any], jobs: int, received: Sequence[int]) -> None:
    """Keep workers at work until each of them finds nothing left to do, or a signal stops them."""
    workers = [_start(request) for _ in range(jobs)]
    told = 0
    failed: FoundryError | None = None
    while workers:
        time.sleep(_POLL_SECONDS)
        if len(received) > told:
            console.say("stopping: each trial saves what it has (once more to stop at once)")
            _tell(workers, received[told])
            told += 1
        for worker in [worker for worker in workers if worker.process.poll() is not None]:
            workers.remove(worker)
            code = worker.process.returncode
            if received or code == ExitCode.OK:
                continue
            if code < 0 and time.monotonic() - worker.began > _HOPELESS_SECONDS:
                console.warn(f"a worker was killed by signal {-code}; another one goes on with its trial")
                workers.append(_start(request))
            elif failed is None:
                failed = FoundryError(
                    f"a worker ended with {code}", hint="`foundry sweep resume` goes on with the sweep"
                )
                _tell(workers, signal.SIGTERM)
    if failed is not None:
        raise failed


class _Running:
    """A worker: its process, and when it began, by the monotonic clock."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.began = time.monotonic()


def _start(request: Mapping[str, Any]) -> _Running:
    # In a session of its own, Ctrl-C reaches `foundry sweep` alone, which passes it on exactly once.
    arguments = [sys.executable, "-m", "pipeline.commands.sweep_worker", json.dumps(request)]
    return _Running(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True))


def _tell(workers: Sequence[_Running], number: int) -> None:
    for worker in workers:
        worker.process.send_signal(number)


def _table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    from pipeline.commands.run_tables import aligned
    from pipeline.sweeps.report import values_of

    paths = list(sweep.document["space"])
    rows = [
        [
            str(trial.number),
            trial.state,
            "" if trial.objective is None else f"{trial.objective:.6g}",
            *values_of(trial, paths),
            "" if trial.seconds is None else console.duration(trial.seconds),
            trial.run_id[:8],
            trial.message.partition("\n")[0][:60],
        ]
        for trial in trials
    ]
    return aligned(["trial", "state", sweep.document["objective"], *paths, "took", "run", "why"], rows)


def _counted(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """How many trials there are in each state, and how many there will be."""
    from pipeline.sweeps.trials import STATES

    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    of = "" if sweep.size is None else f" of {sweep.size}"
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(trials)}{of} trials begun{f': {states}' if states else ''}"


def _described(sweep: Sweep, trial: Trial) -> str:
    from pipeline.sweeps.report import number_text

    lines = [f"best: trial {trial.number}, {sweep.document['objective']} {trial.objective:.6g}, run {trial.run_id[:8]}"]
    return "\n".join([*lines, *(f"  {path}: {number_text(value)}" for path, value in trial.values.items())])
