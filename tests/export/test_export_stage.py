"""The export stage as DVC runs it: a process, its folder, its reports, its exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.files import verify_manifest, write_manifest

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path, model_folder, data_folder, checkout):
    """A project in which training is done; only the PyTorch format is asked for, which is the quickest."""
    shutil.copytree(model_folder, tmp_path / "artifacts" / "model")
    shutil.copytree(data_folder, tmp_path / "artifacts" / "tokenizer")
    text = (checkout / "specs" / "experiment.yaml").read_text(encoding="utf-8")
    changed = re.sub(r"formats: \[.*\]", "formats: [pytorch]", text)
    assert changed != text
    (tmp_path / "experiment.yaml").write_text(changed, encoding="utf-8")
    return tmp_path


def _export(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.stages.export", "--spec", "experiment.yaml"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_the_stage_leaves_a_verified_folder_and_both_reports(project):
    made_by = 32 * "ab"
    write_manifest(project / "artifacts" / "model", stage="train", sections={}, inputs={}, spec_hash=made_by)

    done = _export(project)

    assert done.returncode == 0, done.stderr
    manifest = verify_manifest(project / "artifacts" / "export", rebuild="")
    assert "pytorch/model.safetensors" in manifest["files"]
    report = json.loads((project / "reports" / "health_report.json").read_text())
    assert report["all_passed"]
    assert report["spec_hash"] == manifest["spec_hash"] == made_by
    assert "sound" in (project / "reports" / "health_report.md").read_text()


def test_a_bundle_is_written_where_the_spec_asks_for_one(project):
    spec = project / "experiment.yaml"
    asked = spec.read_text().replace("formats: [pytorch]", "formats: [torchscript]")
    spec.write_text(asked.replace("export_bundle: false", "export_bundle: true"))

    done = _export(project)

    assert done.returncode == 0, done.stderr
    verify_manifest(project / "artifacts" / "export" / "bundle", rebuild="")
    files = verify_manifest(project / "artifacts" / "export", rebuild="")["files"]
    assert {"bundle/inference.py", "bundle/manifest.json", "model.torchscript.pt"} <= files.keys()


def test_a_model_that_computes_nonsense_ends_with_6_a_report_and_no_export(project):
    model = project / "artifacts" / "model"
    weights = load_file(model / "model.safetensors")
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], torch.nan)
    save_file(weights, model / "model.safetensors")
    write_manifest(model, stage="train", sections={}, inputs={})

    done = _export(project)

    assert done.returncode == 6
    assert "NaN or Infinity in norm.weight" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "artifacts" / "export").exists()
    report = json.loads((project / "reports" / "health_report.json").read_text())
    assert not report["all_passed"]
    status = json.loads((project / ".work" / "status" / "export.json").read_text())
    assert (status["phase"], status["code"]) == ("failed", 6)


def test_a_damaged_model_ends_with_6_and_the_command_that_rebuilds_it(project):
    weights = project / "artifacts" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    done = _export(project)

    assert done.returncode == 6
    assert "model.safetensors" in done.stderr
    assert "foundry run --from train --force" in done.stderr
