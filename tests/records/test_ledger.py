"""The file of a ledger: written line by line, cut back, and refused when a byte of it is another one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import foundry
from pipeline.errors import ArtifactError
from pipeline.files import sha256_file, write_manifest
from pipeline.records.ledger import LEDGER, LedgerWriter, marks_of, read_ledger, verify_ledger, verify_ledger_of
from pipeline.records.ledger_difference import parting_of
from pipeline.records.trained import find_training

pytestmark = pytest.mark.unit

ENVIRONMENT = {
    "device": "cpu",
    "precision": "32-true",
    "compile_mode": None,
    "num_threads": 1,
    "torch": "2.0.0",
    "cpu_capability": "DEFAULT",
    "gpu": None,
    "arithmetic": None,
    "strategy": "single",
    "processes": 1,
    "devices": 1,
    "python": "3.11.0",
    "numpy": "2.0.0",
}
NAMES = ["embed", "norm"]
BEGIN = {"inputs": {}, "code": {}, "tensors": NAMES, "marked_every": 1, "weights": b"aaaabbbb"}


def step(number: int, **changes: Any) -> dict[str, Any]:
    """What a step came to."""
    known = {"step": number, "epoch": 1, "batch": number, "data": 16 * "0", "loss": number / 3, "gradient_norm": 0.1}
    return {**known, "gradients": b"g%07d" % number, "weights": b"w%07d" % number, **changes}


def writer(
    folder: Path, *, after_step: int = 0, head: str | None = None, environment: Mapping[str, Any] = ENVIRONMENT
) -> LedgerWriter:
    path = folder / "growing.jsonl"
    return LedgerWriter(path, begin=lambda: BEGIN, environment=environment, after_step=after_step, head=head)


def whole(folder: Path, *, steps: int = 5, **changes: Any) -> Path:
    """The ledger of a run in one go, in the folder of its model; `changes` are those of the third step."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    ledger = writer(folder)
    for number in range(1, steps + 1):
        ledger.append(step(number, **(changes if number == 3 else {})))
    ledger.finish(folder, steps=steps, weights=["model.safetensors"])
    (folder / "growing.jsonl").unlink()
    return folder / LEDGER


def refused(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        verify_ledger(path)
    return caught.value


def test_what_is_written_is_read_with_the_same_bits(tmp_path):
    ledger = verify_ledger_of(whole(tmp_path).parent)

    assert [row["step"] for row in ledger.steps] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in ledger.steps] == [number / 3 for number in range(1, 6)]
    assert marks_of(ledger.begin, "weights") == [b"aaaa", b"bbbb"]
    assert ledger.end["weights"] == {"model.safetensors": sha256_file(tmp_path / "model.safetensors")}


def test_a_step_that_was_not_taken_is_noted_with_its_flaw(tmp_path):
    ledger = verify_ledger(whole(tmp_path, loss=None, gradient_norm=None, flaw="loss"))

    assert [row.get("flaw") for row in ledger.steps] == [None, None, "loss", None, None]


def test_a_flipped_bit_is_refused_with_its_line(tmp_path):
    path = whole(tmp_path, steps=2)
    data = path.read_bytes()
    damaged = tmp_path / "damaged.jsonl"

    for at in range(0, len(data), 7):
        damaged.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ArtifactError) as caught:
            verify_ledger(damaged)
        line = data[:at].count(b"\n") + 1
        assert caught.value.where in {f"{damaged}:{line}", str(damaged)}, (at, caught.value)
        assert caught.value.where != str(damaged) or "UTF-8" in caught.value.message


@pytest.mark.parametrize(
    ("edit", "line", "words"),
    [
        (lambda lines: [*lines[:3], *lines[4:]], 4, "step 4 stands where step 3 belongs: lines are missing"),
        (
            lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
            3,
            "step 3 stands where step 2 .* moved",
        ),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "step 2 stands where step 3 .* there twice"),
        (lambda lines: [*lines[:6], lines[6][:-9]], 7, "the line is cut off"),
        (lambda lines: [*lines[:4], lines[4].replace('"epoch":1', '"epoch":2'), *lines[5:]], 5, "step 4 was changed"),
        (lambda lines: lines[1:], 1, "it does not fit its chain"),
        (lambda lines: lines[:6], None, "stops after step 5: the run has not ended, or lines are missing"),
        (lambda _lines: [], 1, "the file is empty"),
        (lambda lines: [*lines, lines[-1]], 7, "a line of the kind end does not belong here"),
    ],
    ids=["missing", "moved", "twice", "cut", "changed", "headless", "endless", "empty", "two ends"],
)
def test_lines_that_are_not_as_they_were_written_are_named(tmp_path, edit, line, words):
    path = whole(tmp_path)
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))

    error = refused(path)

    assert re.search(words, error.message)
    assert error.where == (str(path) if line is None else f"{path}:{line}")
    assert "foundry run --from train" in error.hint


def test_a_ledger_of_a_newer_version_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.records.ledger._FORMAT", 2)

    assert "2 is newer than 1" in refused(whole(tmp_path)).message


def test_a_ledger_that_says_less_steps_than_its_end_is_refused(tmp_path):
    ledger = writer(tmp_path)
    ledger.append(step(1))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    ledger.finish(tmp_path, steps=2, weights=["model.safetensors"])

    assert "ends after step 1, and the run after 2" in refused(tmp_path / LEDGER).message


def test_other_weights_than_those_at_the_end_are_refused(tmp_path):
    folder = whole(tmp_path).parent
    (folder / "model.safetensors").write_bytes(b"weightt")

    with pytest.raises(ArtifactError, match="not the weights that the ledger ends with") as caught:
        verify_ledger_of(folder)

    assert caught.value.where == str(folder / "model.safetensors")


def test_a_ledger_that_was_written_anew_as_a_whole_is_not_that_of_the_manifest(tmp_path):
    folder = whole(tmp_path).parent
    write_manifest(folder, stage="train", sections={}, inputs={})
    whole(folder, loss=0.5)

    with pytest.raises(ArtifactError, match="not the one its manifest describes"):
        verify_ledger_of(folder)


@pytest.mark.parametrize("lost", ["", '{"kind":"step","step":4', "\x00"])
def test_after_a_kill_the_file_becomes_that_of_a_run_in_one_go(tmp_path, lost):
    straight = whole(tmp_path / "straight")
    first = writer(tmp_path)
    for number in (1, 2):
        first.append(step(number))
    head = first.settle()
    for number in (3, 4):
        first.append(step(number, loss=99.0))  # what the checkpoint does not know of
    with (tmp_path / "growing.jsonl").open("a") as file:
        file.write(lost)

    second = writer(tmp_path, after_step=2, head=head)
    for number in (3, 4, 5):
        second.append(step(number))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    second.finish(tmp_path, steps=5, weights=["model.safetensors"])

    assert (tmp_path / LEDGER).read_bytes() == straight.read_bytes()


def test_a_run_that_goes_on_elsewhere_says_so_once(tmp_path):
    first = writer(tmp_path)
    first.append(step(1))
    elsewhere = {**ENVIRONMENT, "num_threads": 2}

    for _ in range(2):  # the second is killed before its first checkpoint
        second = writer(tmp_path, after_step=1, head=first.settle(), environment=elsewhere)
    second.append(step(2))

    ledger = read_ledger(tmp_path / "growing.jsonl")
    assert [row["environment"]["num_threads"] for row in ledger.environments] == [2]
    assert [row["step"] for row in ledger.steps] == [1, 2]


def test_a_damaged_ledger_stops_a_run_from_going_on_and_says_what_to_do(tmp_path):
    first = writer(tmp_path)
    first.append(step(1))
    path = tmp_path / "growing.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch":1', b'"epoch":2'))

    with pytest.raises(ArtifactError, match="every step that the checkpoint knows of") as caught:
        writer(tmp_path, after_step=1, head=first.settle())

    assert f"rm {path}" in caught.value.hint


def test_a_ledger_that_was_lost_begins_at_the_checkpoint_and_is_not_whole(tmp_path):
    second = writer(tmp_path, after_step=2, head=32 * "0")
    second.append(step(3))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    second.finish(tmp_path, steps=3, weights=["model.safetensors"])

    assert "begins after step 2" in refused(tmp_path / LEDGER).message


@pytest.mark.parametrize(
    ("changes", "what", "tensors"),
    [
        ({"data": 15 * "0" + "1"}, "data", ()),
        ({"loss": 1.0000000000000002}, "loss", ()),
        ({"gradients": b"g0000004"}, "gradients", ("norm",)),
        ({"gradients": None, "gradient_norm": 9.5, "weights": b"w0000004"}, "gradients", ("norm",)),
        ({"gradient_norm": 0.10000000000000002}, "gradient_norm", ()),
        ({"weights": b"w0010003"}, "weights", ("embed",)),
        ({"weights": b"w0010004"}, "weights", ("embed", "norm")),
        ({"flaw": "loss"}, "flaw", ()),
        ({"weights": None, "gradients": None}, None, ()),
    ],
)
def test_the_step_and_what_of_it_parts_are_found(tmp_path, changes, what, tensors):
    one, two = (read_ledger(path) for path in (whole(tmp_path / "one"), whole(tmp_path / "two", **changes)))

    found = parting_of(one, two)

    assert (found and (found.step, found.what, found.tensors, found.batch)) == (what and (3, what, tensors, 3))


def test_without_marks_of_gradients_other_weights_do_not_say_that_gradients_were_the_same(tmp_path):
    changes = {"gradients": None, "weights": b"w0010003"}
    one, two = (read_ledger(path) for path in (whole(tmp_path / "one"), whole(tmp_path / "two", **changes)))

    assert parting_of(one, two).says == "other weights after gradients of the same norm"


def test_runs_of_other_lengths_part_after_the_last_step_of_the_shorter(tmp_path):
    one, two = (read_ledger(whole(tmp_path / str(steps), steps=steps)) for steps in (3, 5))

    assert (parting_of(one, two).step, parting_of(one, two).what) == (3, "steps")
    assert parting_of(one, one) is None


def test_where_steps_are_marked_seldom_the_next_mark_names_the_tensors(tmp_path):
    paths = []
    for name, loss, mark in (("one", 0.5, b"w0000005"), ("two", 0.25, b"w0000009")):
        (tmp_path / name).mkdir()
        ledger = writer(tmp_path / name)
        for number in range(1, 6):
            unmarked = {"gradients": None, "weights": mark if number == 5 else None}
            ledger.append(step(number, loss=loss if number == 3 else 1.0, **unmarked))
        paths.append(tmp_path / name / "growing.jsonl")

    found = parting_of(*map(read_ledger, paths))

    assert (found.step, found.what, found.tensors, found.marked_step) == (3, "loss", ("norm",), 5)


def test_the_command_names_the_line_and_ends_with_1(tmp_path):
    path = whole(tmp_path)

    sound = CliRunner().invoke(foundry, ["ledger", "verify", str(path)])
    path.write_text(path.read_text().replace('"epoch":1', '"epoch":2'))
    with pytest.raises(ArtifactError) as caught:
        CliRunner().invoke(foundry, ["ledger", "verify", str(path)], catch_exceptions=False)

    assert sound.output == f"{path} is whole: 5 steps, 2 tensors\n"
    assert caught.value.where == f"{path}:2"
    assert caught.value.exit_code == 1


def test_a_model_without_a_ledger_is_said_to_be_of_an_earlier_version(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({}))
    write_manifest(tmp_path, stage="train", sections={}, inputs={})

    with pytest.raises(ArtifactError, match="an earlier version trained this model"):
        CliRunner().invoke(foundry, ["ledger", "verify", str(tmp_path)], catch_exceptions=False)
    assert find_training(str(tmp_path)).ledger is None
