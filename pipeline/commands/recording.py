"""What `foundry run` leaves in the records: a row in the database and a file, when it begins and when it ends.

Recording never fails or stops a run: what goes wrong in it is a warning, and the run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline import __version__, console
from pipeline.errors import ExitCode, FoundryError
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS

_STOPPED = (ExitCode.PREEMPTED, ExitCode.INTERRUPTED)
_THERE = ("built", "restored", "unchanged")  # outcomes after which the output of a stage is that of the run

Stage = Mapping[str, Any]


@contextmanager
def recorded(run: str, stages: Callable[[], Sequence[Stage]]) -> Iterator[None]:
    """Record what the block does.

    Args:
        run: the identity of this `foundry run`.
        stages: what became of each stage so far: `stage`, `outcome`, `seconds` and `exit_code`.
    """
    from pipeline.records.experiments import default_database
    from pipeline.records.run_files import folder_of, held

    began = time.time()
    record: dict[str, Any] = {}
    lock = ExitStack()
    with _warned():
        lock.enter_context(held(folder_of(default_database()), run))
        record = _beginning(run)
        _keep(record)
    code, message = ExitCode.OK, ""
    try:
        yield
    except FoundryError as error:
        code, message = error.exit_code, str(error)
        raise
    except BaseException as error:
        code = ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.PREREQUISITES
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        with _warned(), lock:
            if record:
                _keep(_ended(record, stages(), code=code, message=message, began=began))


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


def _keep(record: dict[str, Any]) -> None:
    """Write the file of the run, then the database, which may be the one that fails."""
    from pipeline.records.experiments import ExperimentDB, default_database
    from pipeline.records.run_files import folder_of, mark_killed, write_record

    write_record(folder_of(default_database()), record)
    with ExperimentDB() as database:
        database.register_run(record)
        mark_killed(database)


def _beginning(run: str) -> dict[str, Any]:
    """The record of a run that has just begun."""
    from pipeline.records.environment import environment
    from pipeline.records.rebuild import about
    from pipeline.records.store import now
    from pipeline.revision import changes, revision
    from pipeline.spec import load_spec

    spec = load_spec(DEFAULT_SPEC)
    config = spec.to_dict()
    state = revision(Path()) or {"commit": None, "dirty": None}
    started = now()
    return {
        **about(config),
        "run_id": run,
        "run_name": spec.logging.run_name or spec.name,
        "created_at": started,
        "updated_at": started,
        "status": "running",
        "config": config,
        "origin": "foundry run",
        "toolkit_version": __version__,
        "spec_hash": spec.hash(),
        "git_commit": state["commit"],
        "git_dirty": state["dirty"],
        "git_diff": changes(Path(), leave_out=("reports", "dvc.lock")) if state["dirty"] else "",
        "environment": environment(),
    }


def _ended(
    record: Mapping[str, Any], stages: Sequence[Stage], *, code: ExitCode, message: str, began: float
) -> dict[str, Any]:
    """The record of a run that has ended: what it left and how good that is."""
    from pipeline.records.store import now

    finished = now()
    stages = _reached(stages, failed=code != ExitCode.OK)
    left: dict[str, Any] = {}
    with _warned():  # a damaged report must not hide how the run ended
        # A run that failed has made some of the reports; the others are those of an earlier one.
        left = _left(stages, since=0.0 if code == ExitCode.OK else began)
    return {
        **record,
        "updated_at": finished,
        "finished_at": finished,
        "status": "completed" if code == ExitCode.OK else "interrupted" if code in _STOPPED else "failed",
        "seconds": round(time.time() - began, 3),
        "exit_code": int(code),
        "message": message,
        "stages": [dict(stage) for stage in stages],
        **left,
        "environment": {**record["environment"], **left.get("environment", {})},
    }


def _left(stages: Sequence[Stage], *, since: float) -> dict[str, Any]:
    """What the run left and how good that is, as a part of its record.

    Args:
        stages: what became of each stage.
        since: when the oldest report of the run was written, in seconds since 1970.
    """
    from pipeline.records.reports import metrics_of, parse_reports, reports_in

    texts = reports_in(since=since)
    reports = parse_reports(texts, f"{REPORTS}/")
    training = reports.get("training_metrics.json", {})
    artifacts = [*_outputs(stages), *_reports(texts)]
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


def _outputs(stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """The output folders of the run: the hash of the manifest, and the hashes of what each was made from."""
    from pipeline.files import MANIFEST, manifest_hash, read_artefact

    for stage in stages:
        folder = OUTPUT_OF[stage["stage"]]
        if stage["outcome"] in _THERE and (folder / MANIFEST).is_file():
            manifest = read_artefact(folder / MANIFEST, "manifest")
            about = {
                "sha256": manifest_hash(folder),
                "bytes": sum(file["bytes"] for file in manifest["files"].values()),
                "inputs": manifest["inputs"],
            }
            yield {"artifact_type": folder.name, "filepath": str(folder), "metadata": about}


def _reports(texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    from pipeline.files import sha256_bytes

    for name, text in texts.items():
        about = {"sha256": sha256_bytes(text.encode()), "bytes": len(text.encode())}
        yield {"artifact_type": f"reports/{name}", "filepath": str(REPORTS / name), "metadata": about}
