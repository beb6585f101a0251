"""The runner: an export in a fresh process, what it answers, and how it fails."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ExportError
from pipeline.export.compare import Difference, Greedy, compare_greedy, continuation, random_inputs, worst
from pipeline.export.formats import FORMATS
from pipeline.export.opening import Process
from pipeline.models.store import load_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def onnx_runner(export_folder):
    with Process("onnx", threads=1).open(export_folder / "model.onnx") as runner:
        yield runner


def test_an_onnx_file_runs_in_a_process_without_torch(onnx_runner):
    assert onnx_runner.uses_torch is False


def test_logits_come_back_from_the_other_process_unchanged(onnx_runner, export_folder, model_folder):
    ids = random_inputs(load_model(model_folder)[0], 2, 9)

    logits = onnx_runner.logits(ids)

    np.testing.assert_array_equal(logits, FORMATS["onnx"].open(export_folder / "model.onnx", 1)(ids))


def test_greedy_tokens_are_those_of_the_model_with_its_cache(onnx_runner, model_folder):
    model, _ = load_model(model_folder)

    found = compare_greedy(model, onnx_runner, [1, 5, 9], continuation(model, [1, 5, 9], 100))

    assert found.ours == found.theirs
    assert len(found.ours) == model.max_seq_len - 3  # as many as fit
    assert math.isinf(found.gap)


def test_timing_gives_one_figure_for_each_run(onnx_runner, model_folder):
    ids = random_inputs(load_model(model_folder)[0], 1, 4)

    seconds = onnx_runner.seconds(ids, warm_ups=1, runs=7)

    assert len(seconds) == 7
    assert min(seconds) > 0


def test_a_file_that_does_not_open_is_reported_with_the_reason(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"To be, or not to be")

    with pytest.raises(ExportError, match=r"fresh process: .*Protobuf parsing failed") as caught:
        Process("onnx", threads=1).open(tmp_path / "model.onnx")

    assert caught.value.where == str(tmp_path / "model.onnx")


def test_a_request_that_the_runtime_refuses_is_reported_and_the_process_is_gone(export_folder):
    with Process("onnx", threads=1).open(export_folder / "model.onnx") as runner:
        too_long = np.zeros((1, 25), dtype=np.int64)

        with pytest.raises(ExportError, match="does not run in a fresh process"):
            runner.logits(too_long)
        with pytest.raises(ExportError, match="does not run in a fresh process"):
            runner.greedy([1], 1)


def test_a_process_imports_before_it_is_given_a_file_and_holds_no_weights_yet(model_folder):
    process = Process("pytorch", threads=1)
    process.wait()
    at_rest = _resident(process._process.pid)

    with process.open(model_folder) as runner:
        assert runner.uses_torch
        assert _resident(process._process.pid) > at_rest
    assert at_rest > 100_000_000  # PyTorch is there


def _resident(pid):
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_left_of_a_closed_runner(export_folder):
    process = Process("onnx", threads=1)
    runner = process.open(export_folder / "model.onnx")
    scratch, child = process.folder, process._process

    runner.close()

    assert not scratch.exists()
    assert child.poll() is not None


def test_a_difference_that_is_not_a_number_is_the_worst_and_not_within_any_limit():
    found = [Difference(1, 1, 0.5, 0.5), Difference(2, 1, math.nan, 0.0), Difference(7, 1, 3.0, 1.0)]

    assert worst(found) is found[1]
    assert not found[1].within(math.inf)


def test_a_difference_names_the_shape_and_pictures_have_no_length():
    assert str(Difference(2, 13, 1e-6, 1.0)) == "1e-06 at batch 2 x length 13"
    assert str(Difference(2, None, 1e-6, 1.0)) == "1e-06 at batch 2"


def test_equal_counts_the_tokens_before_the_first_that_differs():
    assert Greedy([1, 2, 3, 4], [1, 2, 9, 4], 0.1).equal == 2
    assert Greedy([1, 2], [1, 2], math.inf).equal == 2


def test_where_greedy_tokens_part_the_gap_is_that_of_the_model(onnx_runner, make_model):
    other = make_model(num_kv_heads=4)  # not the model that was exported

    found = compare_greedy(other, onnx_runner, [1, 5], continuation(other, [1, 5], 8))

    at = found.equal
    with torch.inference_mode():
        logits = other(torch.tensor([[1, 5, *found.ours[:at]]]))[0, -1]
    assert at < 8
    assert found.gap == pytest.approx(float(logits.max() - logits[found.theirs[at]]))
    assert found.gap > 0
