"""What a run leaves in the records: a row in the database and a file, when it begins and when it ends.

Recording never fails or stops a run: what goes wrong in it is a warning, and the run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pipeline import __version__, console
from pipeline.errors import ExitCode, FoundryError
from pipeline.files import MANIFEST, manifest_hash, read_artefact, sha256_bytes
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS, work_dir
from pipeline.revision import changes, revision
from pipeline.spec import load_spec

from .environment import environment
from .experiments import ExperimentDB
from .rebuild import about
from .reports import KINDS, metrics_of, parse_reports, reports_in
from .reproduce import can_be_reproduced, write_instructions
from .run_files import folder_of, held, mark_killed, write_record
from .store import now
from .unfinished import history_of

Origin = Literal["foundry run", "foundry sweep", "foundry tiers", "stage"]
Stage = Mapping[str, Any]

_STOPPED = (ExitCode.PREEMPTED, ExitCode.INTERRUPTED)
_THERE = ("built", "restored", "unchanged")  # outcomes after which the output of a stage is that of the run


@dataclass
class Ending:
    """How a run ends, for the block to say where it does not raise.

    Attributes:
        code: what the process is going to end with.
        message: what went wrong; empty if nothing did.
    """

    code: ExitCode = ExitCode.OK
    message: str = ""


@contextmanager
def recorded(
    run: str,
    stages: Callable[[ExitCode], Sequence[Stage]],
    *,
    origin: Origin = "foundry run",
    spec: Path = DEFAULT_SPEC,
    project: Path = Path(),
    reports: Sequence[str] = tuple(KINDS),
    only_its_own: bool = False,
    code_of: Callable[[FoundryError], ExitCode] = attrgetter("exit_code"),
    sweep_id: str | None = None,
    sweep_params: Mapping[str, Any] | None = None,
) -> Iterator[Ending]:
    """Record what the block does. The record is in the work folder of this process: `paths.work_dir`.

    Args:
        run: the identity of the run. A stage that belongs to it must find it in the variable FOUNDRY_RUN, and is then
            not recorded by itself.
        stages: what the block will end with → what became of each stage so far: `stage`, `outcome`, `seconds` and
            `exit_code`.
        origin: who records.
        spec: the file of the experiment, seen from `project`.
        project: the folder whose reports and outputs are those of the run. The code is that of the current folder.
        reports: names of the reports that the run writes.
        only_its_own: leave out reports that were there before the run began, also where it succeeds: it does not
            stand for all stages.
        code_of: what the process ends with when the block raises an error.
        sweep_id: the sweep that the run is a trial of.
        sweep_params: dotted setting → value that the sweep chose.
    """
    began = time.time()
    record: dict[str, Any] = {}
    lock = ExitStack()
    with _warned():
        lock.enter_context(held(folder_of(_database()), run))
        trial = {"sweep_id": sweep_id, "sweep_params": None if sweep_params is None else dict(sweep_params)}
        record = {**_beginning(project / spec), "run_id": run, "origin": origin, **trial}
        _keep(record)
    ending = Ending()
    try:
        yield ending
    except FoundryError as error:
        ending = Ending(code_of(error), str(error))
        raise
    except BaseException as error:
        code = ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.PREREQUISITES
        ending = Ending(code, f"{type(error).__name__}: {error}")
        raise
    finally:
        with _warned(), lock:
            if record:
                became = _reached(stages(ending.code), failed=ending.code != ExitCode.OK)
                left: dict[str, Any] = {}
                with _warned():  # a damaged report must not hide how the run ended
                    # A run that failed has made some of the reports; the others are those of an earlier one.
                    since = began if only_its_own or ending.code != ExitCode.OK else 0.0
                    left = _left(run, became, project, reports, since=since)
                ended = _ended(record, became, ending, left, began=began)
                _keep(ended)
                if can_be_reproduced(ended):
                    write_instructions(folder_of(_database()) / run, ended)


@contextmanager
def _warned() -> Iterator[None]:
    """Turn any failure of the block into a warning: a run is worth more than its record."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the run must not fail for it
        reason = str(error) or type(error).__name__
        console.warn(f"the run goes on, but is not recorded as it should be: {reason}")
        hint = getattr(error, "hint", "")
        console.say(f"  hint: {f'{hint}; ' if hint else ''}`foundry runs rebuild` takes in what is left of it")


def _database() -> Path:
    return work_dir() / "experiments.db"


def _keep(record: dict[str, Any]) -> None:
    """Write the file of the run, then the database, which may be the one that fails."""
    write_record(folder_of(_database()), record)
    with ExperimentDB() as database:
        database.register_run(record)
        mark_killed(database)


def _beginning(path: Path) -> dict[str, Any]:
    """The record of a run of a spec that has just begun."""
    spec = load_spec(path)
    config = spec.to_dict()
    state = revision(Path()) or {"commit": None, "dirty": None}
    started = now()
    return {
        **about(config),
        "run_name": spec.logging.run_name or spec.name,
        "created_at": started,
        "updated_at": started,
        "status": "running",
        "config": config,
        "toolkit_version": __version__,
        "spec_hash": spec.hash(),
        "git_commit": state["commit"],
        "git_dirty": state["dirty"],
        "git_diff": changes(Path(), leave_out=("reports", "dvc.lock")) if state["dirty"] else "",
        "environment": environment(),
    }


def _ended(
    record: Mapping[str, Any], stages: Sequence[Stage], ending: Ending, left: Mapping[str, Any], *, began: float
) -> dict[str, Any]:
    """The record of a run that has ended: what it left and how good that is."""
    finished = now()
    succeeded = ending.code == ExitCode.OK
    return {
        **record,
        "updated_at": finished,
        "finished_at": finished,
        "status": "completed" if succeeded else "interrupted" if ending.code in _STOPPED else "failed",
        "seconds": round(time.time() - began, 3),
        "exit_code": int(ending.code),
        "message": ending.message,
        "stages": [dict(stage) for stage in stages],
        **left,
        "environment": {**record["environment"], **left.get("environment", {})},
    }


def _left(run: str, stages: Sequence[Stage], project: Path, names: Sequence[str], *, since: float) -> dict[str, Any]:
    """What the run left and how good that is, as a part of its record.

    Args:
        run: its identity.
        stages: what became of each stage.
        project: where its outputs and reports are.
        names: of the reports.
        since: when the oldest report of the run was written, in seconds since 1970.
    """
    texts = reports_in(project / REPORTS, names, since=since)
    reports = parse_reports(texts, f"{project / REPORTS}/")
    if "history.csv" not in reports and (history := history_of(_database(), run)):
        reports["history.csv"] = history  # of a training that did not end
    training = reports.get("training_metrics.json", {})
    artifacts = [*_outputs(stages, project), *_reports(texts)]
    return {
        "training_run_id": training.get("run_id"),
        "environment": {"execution": training.get("execution", {})},
        "artifact_paths": {row["artifact_type"]: row["filepath"] for row in artifacts},
        "artifacts": artifacts,
        "metrics": metrics_of(reports),
    }


def _reached(stages: Sequence[Stage], *, failed: bool) -> Sequence[Stage]:
    """What became of each stage; where DVC itself failed, those that did not run were not reached."""
    if not failed or any(stage["outcome"] == "failed" for stage in stages):
        return stages
    return [{**stage, "outcome": "not reached"} if stage["exit_code"] is None else stage for stage in stages]


def _outputs(stages: Sequence[Stage], project: Path) -> Iterator[dict[str, Any]]:
    """The output folders of the run: the hashes of the manifest, of each file, and of what it was made from."""
    for stage in stages:
        name = OUTPUT_OF[stage["stage"]]
        folder = project / name
        if stage["outcome"] in _THERE and (folder / MANIFEST).is_file():
            manifest = read_artefact(folder / MANIFEST, "manifest")
            about = {
                "sha256": manifest_hash(folder),
                "bytes": sum(file["bytes"] for file in manifest["files"].values()),
                "inputs": manifest["inputs"],
                "files": {path: file["sha256"] for path, file in manifest["files"].items()},
            }
            yield {"artifact_type": name.name, "filepath": str(name), "metadata": about}


def _reports(texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, text in texts.items():
        about = {"sha256": sha256_bytes(text.encode()), "bytes": len(text.encode())}
        yield {"artifact_type": f"reports/{name}", "filepath": str(REPORTS / name), "metadata": about}
