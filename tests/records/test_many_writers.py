"""Sixteen processes write a thousand runs each, writers are killed, ten thousand runs are listed: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.records.experiments import ExperimentDB

METRICS = 10
WRITER = textwrap.dedent("""
    import sys
    from pipeline.records.experiments import ExperimentDB
    path, name, runs, metrics = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with ExperimentDB(path) as database:
        for number in range(runs):
            run = database.log_run(name, {"training": {"learning_rate": number}}, run_id=f"{name}-{number}")
            for step in range(metrics):
                database.log_metric(run, "val/loss", number + 1 / (step + 1), step=step, epoch=1)
            database.update_run_status(run, "completed")
            print(run, flush=True)
""")


def start(path: Path, name: str, runs: int) -> subprocess.Popen[str]:
    """A process that logs runs, and says of each that it has been committed."""
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(runs), str(METRICS)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_at_once(path: Path, writers: int, runs: int) -> float:
    """Let processes log runs at the same time, each with no error; returns the seconds it took."""
    started = time.monotonic()
    processes = [start(path, f"writer-{number}", runs) for number in range(writers)]
    said = [process.communicate() for process in processes]
    seconds = time.monotonic() - started
    assert [err for _, err in said] == [""] * writers
    assert [len(out.splitlines()) for out, _ in said] == [runs] * writers
    return seconds


def require_whole(path: Path, runs: set[str]) -> None:
    """Insist that the database is sound, and that each of these runs is there with all its metrics."""
    with ExperimentDB(path) as database:
        assert database.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        query = """
            SELECT run_id, status, count(metric_id) AS metrics FROM runs JOIN metrics USING (run_id) GROUP BY run_id
        """
        kept = {row["run_id"]: (row["status"], row["metrics"]) for row in database.rows(query)}
    assert {run: kept.get(run) for run in runs} == dict.fromkeys(runs, ("completed", METRICS))


def kill_writers(path: Path, kills: int, *, longest: float) -> set[str]:
    """Start writers and kill each at a random moment; the runs that they said were committed."""
    acknowledged: set[str] = set()
    draw = random.Random(0)
    for kill in range(kills):
        writer = start(path, f"killed-{kill}", 1_000_000)
        assert writer.stdout is not None
        acknowledged.add(writer.stdout.readline().strip())
        time.sleep(draw.uniform(0, longest))
        os.kill(writer.pid, signal.SIGKILL)
        # A line that was cut off was not said.
        acknowledged |= {
            line.strip() for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")
        }
    return acknowledged


def list_runs(path: Path, *arguments: str) -> tuple[Any, float, float]:
    """What `foundry runs list --json` prints in a fresh process, its seconds and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    command = [sys.executable, "-m", "pipeline", "runs", "--db", str(path), "list", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(done.stdout), seconds, sum(after[:2]) - sum(before[:2])


@pytest.mark.integration
def test_processes_that_log_runs_at_once_lose_none(tmp_path):
    write_at_once(tmp_path / "experiments.db", writers=4, runs=10)

    require_whole(tmp_path / "experiments.db", {f"writer-{one}-{run}" for one in range(4) for run in range(10)})


@pytest.mark.integration
def test_a_killed_writer_loses_no_run_that_it_said_was_committed(tmp_path):
    require_whole(tmp_path / "experiments.db", kill_writers(tmp_path / "experiments.db", 3, longest=0.1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_processes_log_a_thousand_runs_each_and_lose_none(tmp_path):
    seconds = write_at_once(tmp_path / "experiments.db", writers=16, runs=1000)

    require_whole(tmp_path / "experiments.db", {f"writer-{one}-{run}" for one in range(16) for run in range(1000)})
    rate = 16 * 1000 * (METRICS + 2) / seconds
    print(f"\n16,000 runs with {METRICS} metrics each in {seconds:.1f} s: {rate:,.0f} transactions a second")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_killed_writers_lose_no_run_that_they_said_was_committed(tmp_path):
    acknowledged = kill_writers(tmp_path / "experiments.db", 200, longest=0.2)

    require_whole(tmp_path / "experiments.db", acknowledged)
    print(f"\n200 writers killed, {len(acknowledged)} runs acknowledged, 0 lost")


@pytest.mark.slow
def test_ten_thousand_runs_are_listed_within_half_a_second_of_processor_time(tmp_path, checkout):
    path = tmp_path / "experiments.db"
    config = json.loads((checkout / "reports" / "training_metrics.json").read_text())["configuration"]
    with ExperimentDB(path) as database:
        run = database.log_run("first", config, run_id="first")
        database.log_metrics(
            run, {f"metric_{number}": number for number in range(METRICS - 1)} | {"best_val_loss": 1.0}
        )
        record = database.get_record(run)
        for number in range(10_000):
            metrics = [{**row, "value": row["value"] + number} for row in record["metrics"]]
            database.register_run({**record, "run_id": f"run-{number}", "metrics": metrics})

    for arguments in ([], ["--sort", "best_val_loss"], ["--where", "training.learning_rate<1"]):
        found, seconds, processor = list_runs(path, *arguments)
        print(f"\nlist {' '.join(arguments)}: {seconds:.2f} s, of which {processor:.2f} s of processor")

        assert len(found) == 20
        assert processor < 0.5
