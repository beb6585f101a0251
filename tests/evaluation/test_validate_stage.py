"""The validate stage as DVC runs it: a process, its folder, its report, its exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files import verify_manifest, write_manifest

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path, trained, checkout):
    """A project in which training is done."""
    shutil.copytree(trained.model, tmp_path / "artifacts" / "model")
    shutil.copytree(trained.tokenizer, tmp_path / "artifacts" / "tokenizer")
    shutil.copyfile(checkout / "specs" / "experiment.yaml", tmp_path / "experiment.yaml")
    return tmp_path


def _validate(project: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    text = (project / "experiment.yaml").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert f"{old}: " in text
        text = "\n".join(
            f"{line.split(old)[0]}{old}: {new}" if line.strip().startswith(f"{old}: ") else line
            for line in text.splitlines()
        )
    (project / "experiment.yaml").write_text(text + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.stages.validate", "--spec", "experiment.yaml"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_a_missed_budget_ends_with_5_and_a_report_that_says_so(project):
    done = _validate(project, val_loss="0.5", rss_mb="1")

    assert done.returncode == 5
    assert "2 budgets are missed: val_loss" in done.stderr
    assert "rss_mb" in done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((project / "reports" / "validation.json").read_text())
    assert report["status"] == "fail"
    assert [budget["status"] for budget in report["budgets"][:2]] == ["fail", "fail"]
    assert json.loads((project / ".work" / "status" / "validate.json").read_text())["code"] == 5


def test_a_missed_budget_is_only_reported_when_the_spec_says_warn_and_the_folder_is_whole(project):
    made_by = 32 * "ab"
    write_manifest(project / "artifacts" / "model", stage="train", sections={}, inputs={}, spec_hash=made_by)

    done = _validate(project, val_loss="0.5", on_budget_failure="warn")

    assert done.returncode == 0, done.stderr
    assert "warning: a budget is missed: val_loss" in done.stderr
    folder = project / "artifacts" / "validation"
    manifest = verify_manifest(folder, rebuild="")
    assert set(manifest["files"]) == {"samples.json", "latencies.json"}
    assert set(manifest["inputs"]) == {"model", "tokenizer"}
    report = json.loads((project / "reports" / "validation.json").read_text())
    assert report["status"] == "fail"
    assert report["spec_hash"] == manifest["spec_hash"] == made_by
    assert report["samples"] == json.loads((folder / "samples.json").read_text())["samples"]
