"""What inference takes: memory and latency of a model as it is served, which is without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import ValidationError
from pipeline.export import probe
from pipeline.export.onnx_files import write_cached, write_onnx
from pipeline.export.runner import GRAPH
from pipeline.export.source import Source, copy_beside
from pipeline.models.store import load_model
from pipeline.spec.carried import WRITES_TEXT

_OPSET = 18  # any: it changes neither memory nor speed


def measure_inference(model_folder: Path, prompt: str) -> dict[str, Any]:
    """Write a model as ONNX into a scratch folder, and measure inference in a fresh process. See `export.probe`.

    Args:
        model_folder: of the train stage.
        prompt: what is continued, where the model writes text or reads it.

    Raises:
        ValidationError: that process failed; the message ends with what it said last.
    """
    model, description = load_model(model_folder)
    source = Source(model, model_folder, _OPSET)
    with tempfile.TemporaryDirectory(prefix="foundry-inference-") as scratch:
        copy_beside(model_folder, Path(scratch))
        if description["task_type"] in WRITES_TEXT:
            write_cached(source, Path(scratch) / GRAPH)
        else:
            write_onnx(source, Path(scratch) / "model.onnx")
        command = [sys.executable, "-m", probe.__name__, scratch, prompt]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValidationError(
            f"using the model in a fresh process failed: {last}",
            where=str(model_folder),
            hint="train again with: foundry run --from train --force",
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
