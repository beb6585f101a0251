"""`foundry plan` in processes of its own: what it reads, what it says, and how near it comes to real runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from pipeline.commands.plan import page
from pipeline.commands.plan_text import text_of
from pipeline.paths import SCHEMAS, SPECS
from pipeline.spec import load_spec
from pipeline.spec.estimate import plan
from pipeline.spec.presets import PRESETS, expand, names, read_preset

pytestmark = pytest.mark.e2e

VALIDATOR = Draft202012Validator(json.loads((SCHEMAS / "v1/artefact/plan.json").read_text(encoding="utf-8")))
TINY = {
    "schema_version": 1,
    "name": "tiny",
    "dataset": {"source": {"kind": "files", "paths": ["text.txt"]}, "split_method": "contiguous"},
    "tokenizer": {"vocab_size": 300},
    "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "max_seq_len": 16},
    "training": {"epochs": 3, "batch_size": 4},
    "hardware": {"num_threads": 1, "precision": "32-true", "compile_mode": None},
    "logging": {"sample_prompts": ["the"], "sample_max_new_tokens": 3},
}


class Project:
    """A folder with a spec and a text."""

    def __init__(self, folder: Path, spec: dict[str, Any], *, lines: int = 400) -> None:
        self.folder = folder
        (folder / "specs").mkdir(parents=True)
        self.write(spec)
        words = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905
        draw = random.Random(1)
        (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(lines)))

    def write(self, spec: dict[str, Any]) -> None:
        (self.folder / "specs/experiment.yaml").write_text(yaml.safe_dump(spec))

    def run(self, *arguments: str, threads: str = "1") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def stage(self, name: str, threads: str = "1") -> None:
        done = self.run(f"pipeline.stages.{name}", threads=threads)
        assert done.returncode == 0, done.stderr

    def plan(self, *arguments: str, threads: str = "1") -> dict[str, Any]:
        done = self.run("pipeline", "plan", "--json", *arguments, threads=threads)
        assert done.returncode == 0, done.stderr
        planned: dict[str, Any] = json.loads(done.stdout)
        VALIDATOR.validate(planned)
        return planned

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*"))


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project", TINY)


def test_a_plan_is_measured_and_writes_nothing(project):
    project.write({**TINY, "hardware": {**TINY["hardware"], "device": "cpu"}})
    before = project.files()

    planned = project.plan()

    assert project.files() == before
    assert planned["execution"] == {"device": "cpu", "precision": "32-true", "compiled": False, "measured": True}
    assert planned["pace"]["measured"] == "steps of this spec"
    assert planned["pace"]["num_threads"] == 1
    assert planned["seconds"]["total"] > planned["seconds"]["steps"] > 0
    assert {row["name"]: row["status"] for row in planned["budgets"]}["training_minutes"] == "keeps"


def test_the_schema_refuses_a_plan_with_a_figure_too_many(project):
    planned = project.plan("--no-calibrate")

    assert VALIDATOR.is_valid(planned)
    assert not VALIDATOR.is_valid({**planned, "more": 1})
    assert not VALIDATOR.is_valid({name: value for name, value in planned.items() if name != "model"})


def test_without_a_calibration_torch_is_not_loaded_and_no_model_is_made(project):
    script = (
        "import sys, pipeline.cli\n"
        "try: pipeline.cli.main(['plan', 'distributed', '--no-calibrate'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )

    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project.folder, capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started

    assert done.stdout.splitlines()[-1] == "None False False"
    assert "354,036,736 parameters" in done.stdout
    assert "training would need about" in done.stdout
    assert " GB" in done.stdout
    assert seconds < 0.5 * 8  # half a second when nothing else is running; the machine may be shared


@pytest.mark.parametrize("name", names(PRESETS))
def test_a_preset_has_a_plan_of_one_page(name):
    spec = expand(read_preset(name))
    if spec.model.model_type == "cnn":
        pytest.skip("pictures have a plan of their own, tested beside it")

    planned = plan(spec.to_dict(), text_of(spec), None)

    VALIDATOR.validate(planned)
    lines = list(page(planned))
    assert len(lines) < 40
    assert max(map(len, lines)) <= 200


def test_tokens_are_estimated_until_they_are_counted(project):
    guessed = project.plan("--no-calibrate")["text"]
    project.stage("corpus")
    project.stage("tokenizer")
    counted = project.plan("--no-calibrate")["text"]

    assert (guessed["known"], guessed["source"]) == ("estimated", "the size of the source files")
    assert (counted["known"], counted["source"]) == ("counted", "artifacts/tokenizer")
    facts = json.loads((project.folder / "artifacts/tokenizer/tokenizer.json").read_text())
    assert counted["train_tokens"] == facts["splits"]["train"]["tokens"]


@pytest.mark.parametrize("changed", [{"tokenizer": {"vocab_size": 310}}, {"dataset": {"validation_split": 0.2}}])
def test_counts_of_other_settings_are_not_taken(project, changed):
    project.stage("corpus")
    project.stage("tokenizer")
    project.write({**TINY, **{name: {**TINY[name], **values} for name, values in changed.items()}})

    assert project.plan("--no-calibrate")["text"]["known"] == "estimated"


def test_reports_of_an_earlier_run_stand_in_for_its_artifacts(tmp_path, checkout, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkout / "reports", "reports")
    shipped = load_spec(SPECS / "experiment.yaml")

    counted = text_of(shipped)
    (tmp_path / "reports/tokenizer.json").unlink()
    estimated = text_of(shipped)
    (tmp_path / "reports/corpus.json").unlink()
    unknown = text_of(shipped)

    assert [(text.known, text.source.split(",")[0]) for text in (counted, estimated, unknown)] == [
        ("counted", "reports/tokenizer.json"),
        ("estimated", "reports/corpus.json"),
        ("unknown", "nothing here says how much text there is"),
    ]
    assert estimated.train_tokens == pytest.approx(counted.train_tokens, rel=0.05)
    assert unknown.train_tokens == 1_000_000


def test_a_report_that_is_no_json_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/corpus.json").write_text("{")

    assert text_of(load_spec(SPECS / "experiment.yaml")).known == "unknown"


def test_a_missed_budget_is_said_with_what_would_fit(project):
    project.write({**TINY, "model": {**TINY["model"], "d_model": 512, "d_ff": 2048, "num_layers": 6}})

    done = project.run("pipeline", "plan", "--no-calibrate")

    assert done.returncode == 0
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("model_mb is expected"))
    assert "model.d_model" in said
    assert said.endswith("would fit")


def test_a_model_too_large_to_time_is_measured_in_part(project):
    project.write(
        {**TINY, "model": {**TINY["model"], "d_model": 1024, "d_ff": 4096, "num_layers": 8, "max_seq_len": 512}}
    )

    planned = project.plan()

    assert planned["pace"]["measured"].startswith("1 of 4 sequences and ")
    assert planned["pace"]["measured"].endswith(" of 8 layers, scaled by operations")


def test_a_model_that_does_not_fit_into_memory_is_not_made(project):
    project.write({**TINY, "model": {**TINY["model"], "max_seq_len": 1048576}})

    planned = project.plan()

    assert planned["pace"] is None
    assert "of memory" in planned["notes"][0]


def test_a_spec_that_asks_for_what_cannot_be_done_has_no_times(project):
    project.write({**TINY, "task": {"task_type": "classification"}})

    planned = project.plan()

    assert planned["pace"] is None
    assert "task.task_type" in planned["notes"][0]


def test_a_wrong_spec_and_a_name_of_nothing_end_with_1(project):
    project.write({**TINY, "model": {"d_modle": 1}})

    wrong, nothing = project.run("pipeline", "plan"), project.run("pipeline", "plan", "quick_prototyp")

    assert (wrong.returncode, nothing.returncode) == (1, 1)
    assert "d_modle" in wrong.stderr
    assert "quick_prototype" in nothing.stderr
    assert "Traceback" not in wrong.stderr + nothing.stderr


SIZES = {
    "small": {"d_model": 128, "num_layers": 2, "num_heads": 4, "d_ff": 256, "max_seq_len": 128},
    "shipped": {"d_model": 192, "num_layers": 4, "num_heads": 3, "d_ff": 480, "max_seq_len": 256},
    "wide": {"d_model": 384, "num_layers": 4, "num_heads": 6, "d_ff": 960, "max_seq_len": 128},
}
STEPS = {"small": (32, 120), "shipped": (8, 70), "wide": (8, 70)}  # batch size and steps: some 20 s each on two cores


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("compile_mode", [None, "default"])
@pytest.mark.parametrize("name", SIZES)
def test_a_real_run_stays_within_the_bounds(tmp_path, name, compile_mode):
    """Peak memory and seconds of the train stage, in a process of its own, against the plan made just before."""
    batch_size, steps = STEPS[name]
    hardware = {"precision": "32-true", "compile_mode": compile_mode}
    training = {"batch_size": batch_size, "max_steps": steps}
    spec = {**TINY, "tokenizer": {"vocab_size": 4096}, "model": SIZES[name], "training": training, "hardware": hardware}
    project = Project(tmp_path / "project", spec)
    draw = random.Random(2)
    pieces = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(9000)]
    text = (" ".join(draw.choices(pieces, k=12)) for _ in range(12_000))
    (project.folder / "text.txt").write_text("\n".join(text))
    threads = str(os.cpu_count())
    project.stage("corpus")
    project.stage("tokenizer")

    planned = project.plan(threads=threads)
    project.stage("train", threads=threads)

    final = json.loads((project.folder / "reports/training_metrics.json").read_text())["final_metrics"]
    peak, seconds = planned["memory_mb"]["peak_rss"], planned["seconds"]["total"]
    real_peak, real_seconds = final["peak_rss_mb"], final["training_seconds"]
    print(
        f"\n{name}, {'compiled' if compile_mode else 'not compiled'}: {final['parameters']:,} parameters; "
        f"memory planned {peak:,.0f} MB, real {real_peak:,.0f} ({peak / real_peak - 1:+.0%}); "
        f"time planned {seconds:.1f} s, real {real_seconds:.1f} ({seconds / real_seconds - 1:+.0%})"
    )
    assert planned["model"]["parameters"]["total"] == final["parameters"]
    assert planned["training"]["steps"] == final["total_steps"]
    assert peak == pytest.approx(real_peak, rel=planned["bounds"]["memory"])
    assert seconds == pytest.approx(real_seconds, rel=planned["bounds"]["time"])
