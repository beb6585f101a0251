"""What inference takes is measured in a process of its own, without PyTorch, for every kind of model."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import ValidationError
from pipeline.export import probe
from pipeline.export.measured import measure_inference
from pipeline.files import write_manifest

pytestmark = pytest.mark.integration


def test_memory_is_that_of_the_inference_process_and_not_of_the_one_that_asks(model_folder):
    ballast = np.ones(30_000_000)  # 240 MB in this process, which has loaded PyTorch as well

    measured = measure_inference(model_folder, "the")

    assert 20e6 < measured["rss_bytes"] <= measured["peak_bytes"] < ballast.nbytes
    assert len(measured["latencies_ms"]) == probe.MEASURED_ANSWERS
    assert min(measured["latencies_ms"]) > 0
    assert measured["threads"] == 1


def test_the_process_that_is_measured_imports_no_torch():
    code = "import sys, pipeline.export.probe; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_a_prompt_longer_than_the_longest_text_is_measured(model_folder):
    assert measure_inference(model_folder, "the quick brown fox " * 20)["latencies_ms"]


def test_a_model_that_cannot_be_used_is_reported_with_the_last_words_of_the_process(model_folder, tmp_path):
    copied = shutil.copytree(model_folder, tmp_path / "model")
    (copied / "tokenizer.model").write_bytes(b"not a tokenizer")
    write_manifest(copied, stage="train", sections={}, inputs={})

    with pytest.raises(ValidationError, match="using the model in a fresh process failed: ") as caught:
        measure_inference(copied, "the")

    assert caught.value.where == str(copied)
