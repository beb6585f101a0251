"""`foundry tiers` as people run it: what it prints, writes and ends with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import cli
from pipeline.files import read_artefact, write_manifest
from pipeline.records.experiments import ExperimentDB
from pipeline.spec import load_spec
from pipeline.spec.lock import lock_of

pytestmark = pytest.mark.e2e

TIERS = """\
schema_version: 1
kind: tiers
name: mine
memory: {batch_sizes: [1, 2]}
speed: {timed_runs: 3}
"""


@pytest.fixture
def project(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "project")


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tiers(project, monkeypatch, capsys):
    """(*arguments) → how `foundry tiers` ends in the project, in this process: torch takes a second to import."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main(["tiers", *arguments])
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


def report(project: Path) -> dict[str, object]:
    return read_artefact(project / "reports/tiers/report.json", "tiers_report")


def test_a_sound_model_ends_with_0_and_a_report_with_pictures(project):
    pytest.importorskip("matplotlib")

    command = [sys.executable, "-m", "pipeline", "tiers", "mine.yaml", "--tiers", "1,2,4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (project / "mine.yaml").write_text(TIERS)

    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    assert "tier 1  passed      causal_isolation: logits before tokens 1, 12, 23 do not change" in done.stdout
    found = report(project)
    assert found["tiers"] == [1, 2, 4]
    assert found["tier4"]["formats"]["pytorch"]["status"] == "ok"
    assert {check["check"] for check in found["checks"] if check["status"] == "not_judged"} == {
        "inference_speed",
        "packing_isolation",
    }
    page = (project / "reports/tiers/report.md").read_text()
    for name in ("attention_patterns.png", "attribution.png", "robustness.png"):
        assert f"({name})" in page
        assert (project / "reports/tiers" / name).read_bytes().startswith(b"\x89PNG")


def test_a_check_that_fails_ends_with_5_and_says_why_and_what_to_do(project, tiers):
    (project / "mine.yaml").write_text(f"{TIERS}gradient_flow: {{explosion_norm: 0.001}}\n")

    done = tiers("mine.yaml", "--json")

    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert found == report(project)
    assert found["status"] == "failed"
    (failed,) = [check for check in found["checks"] if check["status"] == "failed"]
    assert failed["check"] == "gradient_flow"
    assert failed["limit"] == "each norm from 1e-07 to 0.001"
    assert failed["why"]
    assert "model.init_std" in failed["advice"]
    assert "export" not in found


def test_a_warning_ends_with_0_and_with_5_where_it_counts(project, tiers):
    (project / "mine.yaml").write_text(f"{TIERS}gradient_flow: {{vanishing_norm: 0.01}}\n")

    calm, strict = tiers("mine.yaml"), tiers("--config", "mine.yaml", "--tier", "1", "--strict")

    assert (calm.returncode, strict.returncode) == (0, 5)
    with ExperimentDB() as database:
        one, two = (database.get_record(run["run_id"]) for run in reversed(database.list_runs()))
    assert [(run["origin"], run["status"], run["exit_code"]) for run in (one, two)] == [
        ("foundry tiers", "completed", 0),
        ("foundry tiers", "failed", 5),
    ]
    assert [row["value"] for row in two["metrics"] if row["metric_name"] == "tiers/warnings"] == [1.0]
    assert one["config"] == read_artefact(project / "artifacts/model/spec.json", "spec")
    assert "    what to do: look for a detached or unused layer" in calm.stdout


def test_an_experiment_stands_for_the_model_that_it_made(project, tiers, checkout):
    spec = project / "experiment.yaml"
    shutil.copyfile(checkout / "specs/experiment.yaml", spec)
    made_by = lock_of(load_spec(spec), "train").hash
    write_manifest(project / "artifacts/model", stage="train", sections={}, inputs={}, spec_hash=made_by)

    done = tiers("experiment.yaml", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiers"] == [1]
    assert "packing_isolation: not_judged" in done.stderr


def test_held_out_text_that_was_learned_fails_the_audit(project, tiers, encode, tmp_path):
    text = "a text that stands in both splits, long enough to be worth a passage of sixty-four characters"
    data = encode(tmp_path / "leaked", {"train": [text, "another"], "validation": [text], "test": []})

    done = tiers("--data", str(data), "--json")

    audit = next(check for check in json.loads(done.stdout)["checks"] if check["check"] == "leakage_audit")
    assert (done.returncode, audit["status"]) == (5, "failed")
    assert audit["measured"].startswith("validation: 1 whole documents, 100.00% of its characters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiers", "1,7"], "is not a list of 1, 2, 3 and 4"),
        (["slip.yaml", "--config", "slip.yaml"], "SPEC and --config are the same: give one"),
        (["--model", "nowhere"], "nowhere"),
        (["monitoring.yaml"], "this is a document of kind monitoring, but one of kind tiers is needed here"),
        (["five.yaml"], "tier 5 does not examine a model by itself"),
        (["experiment.yaml"], "the model in artifacts/model was not made by this spec"),
        (["slip.yaml"], "explosion_nrom"),
    ],
)
def test_what_cannot_be_done_is_one_error_and_nothing_is_written(project, tiers, checkout, arguments, message):
    (project / "monitoring.yaml").write_text("schema_version: 1\nkind: monitoring\nname: x\n")
    (project / "five.yaml").write_text(f"{TIERS}tiers: [1, 5]\n")
    (project / "slip.yaml").write_text(f"{TIERS}gradient_flow: {{explosion_nrom: 1}}\n")
    shutil.copyfile(checkout / "specs/experiment.yaml", project / "experiment.yaml")

    done = tiers(*arguments)

    assert done.returncode in (1, 5)
    assert message in done.stderr
    assert not (project / "reports/tiers").exists()


def test_without_matplotlib_the_report_comes_without_pictures_and_says_so(project, tiers, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python marks what cannot be imported

    done = tiers("--tiers", "2")

    assert done.returncode == 0, done.stderr
    assert "warning: no pictures are drawn without matplotlib: pip install 'model-foundry[plots]'" in done.stderr
    assert not list((project / "reports/tiers").glob("*.png"))
