"""Trackers: what they get to see of a run, what a restart does to it, and what happens when one fails."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import TrainingError
from pipeline.spec import Spec, load_spec
from pipeline.stages import trackers
from pipeline.stages.trackers import Kind, Run, Trackers, require_trackers, tracking
from pipeline.stages.train_record import Record, figures_of, last_step
from pipeline.training.events import EpochDone, StepDone

pytestmark = pytest.mark.integration

MINIMAL = "schema_version: 1\nname: tiny\ndataset: {source: {kind: files, paths: [corpus]}}\nlogging: {%s}\n"
MEMORY = {"rss_mb": 100.0, "cuda_allocated_mb": None, "cuda_reserved_mb": None, "cuda_peak_mb": None}


def spec_with(tmp_path: Path, logging: str) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(MINIMAL % logging)
    return load_spec(path)


def run_of(tmp_path: Path, logging: str, *, resumed: int = 0, tracked: int = 0) -> Run:
    return Run(spec_with(tmp_path, logging), "0123456789ab", tmp_path / "tracking", resumed, tracked)


def step(number: int, val_loss: float | None = None) -> StepDone:
    metrics = {} if val_loss is None else {"val_loss": val_loss, "bits_per_byte": 1.5}
    return StepDone(number, 10, 1, 2.0, 1e-3, 0.5, 1000.0, val_loss, improved=False, metrics=metrics)


class Listener:
    """A tracker that remembers; it can fail from a step on."""

    def __init__(self, fails_at: float = math.inf) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed: list[bool] = []
        self.fails_at = fails_at

    def log(self, step: int, figures: dict[str, float]) -> None:
        if step >= self.fails_at:
            raise ConnectionError("the service is gone\nwith details")
        self.seen.append((step, dict(figures)))

    def close(self, *, done: bool) -> None:
        self.closed.append(done)


def test_figures_have_the_names_that_trackers_are_used_to():
    assert figures_of(step(3), MEMORY) == {
        "train/loss": 2.0,
        "train/perplexity": math.exp(2.0),
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens_per_second": 1000.0,
        "memory/rss_mb": 100.0,
    }
    evaluated = figures_of(step(3, 1.0), MEMORY)
    assert (evaluated["val/loss"], evaluated["val/perplexity"], evaluated["val/bits_per_byte"]) == (1.0, math.e, 1.5)


def test_a_perplexity_is_a_number_whatever_the_loss():
    assert math.isfinite(figures_of(step(3, 1e6), MEMORY)["val/perplexity"])


def test_logged_steps_evaluations_and_epochs_reach_the_trackers(tmp_path):
    listener = Listener()
    record = Record(
        tmp_path / "record.jsonl",
        resumed_step=0,
        log_every_n_steps=5,
        sample=list,
        memory=lambda: MEMORY,
        trackers=Trackers({"a listener": listener}),
        shown=None,
    )

    for event in (step(1), step(2), step(3, 1.0), step(5), EpochDone(1, 2.0, 1.0, 1e-3, 12.5)):
        record(event)
    record.close()

    assert [number for number, _ in listener.seen] == [1, 3, 5, 5]
    assert listener.seen[-1][1] == {"epoch": 1, "epoch_duration": 12.5}
    assert last_step(tmp_path / "record.jsonl") == 5
    assert last_step(tmp_path / "none.jsonl") == 0


def test_a_tracker_that_fails_is_left_out_with_one_warning_and_the_others_go_on(capsys):
    good, bad = Listener(), Listener(fails_at=2)
    both = Trackers({"the good": good, "the bad": bad})

    for number in (1, 2, 3):
        both.log(number, {"train/loss": 1.0})
    both.close(done=True)

    assert [number for number, _ in good.seen] == [1, 2, 3]
    assert (good.closed, bad.closed) == ([True], [])
    said = capsys.readouterr().err
    assert said == "warning: the bad failed and is left out from now on; training goes on: the service is gone\n"


def test_a_package_that_is_not_there_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.KINDS, "use_wandb", Kind("Weights & Biases", "no_such_package", Listener))

    require_trackers(spec_with(tmp_path, ""))
    with pytest.raises(TrainingError, match="use_wandb needs no_such_package") as caught:
        require_trackers(spec_with(tmp_path, "use_wandb: true"))

    assert "pip install 'model-foundry[track]'" in caught.value.hint


def test_a_tracker_that_cannot_be_started_ends_the_run_before_it_begins(tmp_path, monkeypatch):
    def refuse(_run: Run) -> Listener:
        raise RuntimeError("no key")

    monkeypatch.setitem(trackers.KINDS, "use_wandb", Kind("Weights & Biases", "json", refuse))

    with pytest.raises(TrainingError, match="Weights & Biases cannot be started: no key") as caught:  # noqa: SIM117
        with tracking(run_of(tmp_path, "use_wandb: true")):
            pytest.fail("training began")

    assert "logging.use_wandb" in caught.value.hint


def test_trackers_are_told_whether_the_run_ended_as_it_should(tmp_path, monkeypatch):
    listener = Listener()
    monkeypatch.setitem(trackers.KINDS, "use_wandb", Kind("a listener", "json", lambda _run: listener))
    run = run_of(tmp_path, "use_wandb: true")

    with tracking(run):
        pass
    with pytest.raises(KeyError), tracking(run):
        raise KeyError

    assert listener.closed == [True, False]


def test_a_run_is_called_as_the_spec_says_or_by_its_identity(tmp_path):
    assert run_of(tmp_path, "").name == "tiny-01234567"
    assert run_of(tmp_path, "run_name: the first").name == "the first-01234567"


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    code = """
import sys
from pathlib import Path
from pipeline.spec import load_spec
from pipeline.stages.trackers import Run, tracking
folder, first, last, resumed = Path(sys.argv[1]), *map(int, sys.argv[2:])
spec = load_spec(folder / "spec.yaml")
with tracking(Run(spec, "0123456789ab", folder, resumed, 0)) as trackers:
    for step in range(first, last + 1):
        trackers.log(step, {"train/loss": step / 2 + (100 if step == 6 and not resumed else 0)})
"""
    spec_with(tmp_path, "use_tensorboard: true")
    for numbers in (("1", "7", "0"), ("5", "9", "4")):  # killed after step 7, with a checkpoint of step 4
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path, *numbers], check=True)

    assert list(scalars(tmp_path / "tensorboard/tiny-01234567")) == [(number, number / 2) for number in range(1, 10)]


def scalars(folder: Path) -> Iterator[tuple[int, float]]:
    """What TensorBoard shows of a folder."""
    code = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1]).Reload()
for event in read.Scalars("train/loss"):
    print(event.step, event.value)
"""
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, folder], check=True, capture_output=True, text=True
    )
    for line in shown.stdout.splitlines():
        number, value = line.split()
        yield int(number), float(value)


@pytest.mark.slow
def test_wandb_keeps_each_step_of_a_resumed_run_once_and_sends_nothing(tmp_path):
    pytest.importorskip("wandb")
    code = """
import sys
from pathlib import Path
from pipeline.spec import load_spec
from pipeline.stages.trackers import Run, tracking
folder, first, last, resumed, tracked = Path(sys.argv[1]), *map(int, sys.argv[2:])
spec = load_spec(folder / "spec.yaml")
with tracking(Run(spec, "0123456789ab", folder, resumed, tracked)) as trackers:
    for step in range(first, last + 1):
        trackers.log(step, {"train/loss": step / 2})
"""
    spec_with(tmp_path, "use_wandb: true, wandb_project: tests, run_name: one")
    nowhere = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    for numbers in (("1", "7", "0", "0"), ("5", "9", "4", "7")):
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path, *numbers], check=True, env=nowhere)

    found = sorted(pair for file in (tmp_path / "wandb").rglob("*.wandb") for pair in logged(file))

    assert found == [(number, number / 2) for number in range(1, 10)]


def logged(file: Path) -> list[tuple[int, float]]:
    """The steps and losses in a local file of Weights & Biases, whose records have LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = file.read_bytes(), 7, b"", []  # behind the file's own header
    while at + 7 <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        at += -at % 32768 if -at % 32768 < 7 else 0  # a block ends without room for another header
        if kind in {1, 4}:  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/loss" in items:
                found.append((record.history.step.num, float(items["train/loss"])))
    return found
