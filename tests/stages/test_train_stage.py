"""The train stage in processes of its own: what it writes, how it stops, how it goes on."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from train_project import SPEC, Project, encoded_project

from pipeline.files import sha256_file
from pipeline.models.store import load_model
from pipeline.paths import SCHEMAS
from pipeline.records.experiments import ExperimentDB
from pipeline.records.ledger import verify_ledger_of
from pipeline.spec import load_spec
from pipeline.spec.lock import lock_of
from pipeline.training.marks import mark

pytestmark = pytest.mark.e2e
OUTPUTS = ("corpus", "tokenizer", "model")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """A folder in which everything before training is done."""
    return encoded_project(tmp_path_factory.mktemp("encoded")).folder


@pytest.fixture(scope="module")
def trained(encoded, tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(encoded, folder)
    project = Project(folder)
    assert project.run("train") == (0, "")
    return project


@pytest.fixture
def project(encoded, tmp_path) -> Project:
    shutil.copytree(encoded, tmp_path / "project")
    return Project(tmp_path / "project")


def marks_at_the_end(project: Project) -> list[bytes]:
    """Of the last weights, in the order of the ledger."""
    model, _ = load_model(project.folder / "artifacts/model", "final.safetensors")
    return [mark(parameter) for parameter in model.parameters()]


def test_a_run_leaves_a_model_folder_that_opens_and_reports_that_fit_their_schema(trained):
    model, description = load_model(trained.folder / "artifacts/model")
    metrics = json.loads((trained.folder / "reports/training_metrics.json").read_text())
    rows = list(csv.DictReader((trained.folder / "reports/history.csv").read_text().splitlines()))

    schema = json.loads((SCHEMAS / "v1/artefact/training_metrics.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(metrics)
    final = metrics["final_metrics"]
    assert final["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert final["total_epochs"] == len(metrics["epoch_history"]) == 3
    assert final["best_val_loss"] == min(epoch["val_loss"] for epoch in metrics["epoch_history"])
    assert final["final_train_loss"] < metrics["epoch_history"][0]["train_loss"]
    assert [sample["epoch"] for sample in metrics["samples"]] == [1, 2, 3]
    assert description["training"]["run_id"] == metrics["run_id"]
    assert [int(row["step"]) for row in rows if int(row["step"]) % 5 == 0] == list(
        range(5, final["total_steps"] + 1, 5)
    )
    assert sum(bool(row["val_loss"]) for row in rows) == 3
    ledger = verify_ledger_of(trained.folder / "artifacts/model")
    assert len(ledger.steps) == final["total_steps"]
    assert ledger.steps[-1]["weights"] == base64.b64encode(b"".join(marks_at_the_end(trained))).decode()
    assert not list(trained.folder.glob(".work/runs/*"))


@pytest.mark.parametrize(
    ("number", "code", "words", "stops"),
    [(signal.SIGTERM, 75, "SIGTERM", [7]), (signal.SIGINT, 130, "Ctrl-C", [14]), (signal.SIGKILL, -9, "", [7, 21])],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(project, trained, number, code, words, stops):
    for step in stops:
        process = project.start("train")
        project.wait_for_checkpoint(process, step=step)
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert words in err
        assert not (project.folder / "artifacts/model").exists()

    assert project.run("train") == (0, "")
    assert project.weights() == trained.weights()
    assert project.ledger() == trained.ledger()
    metrics, straight = (
        json.loads((folder / "reports/training_metrics.json").read_text())
        for folder in (project.folder, trained.folder)
    )
    assert metrics["epoch_history"] == straight["epoch_history"]
    assert metrics["samples"] == straight["samples"]
    histories = [(folder / "reports/history.csv").read_text() for folder in (project.folder, trained.folder)]
    kept = [[line.split(",")[:5] + line.split(",")[6:7] for line in text.splitlines()] for text in histories]
    assert kept[0] == kept[1]  # all but throughput and memory
    ended = "killed" if code < 0 else "interrupted"
    assert recorded(project.folder) == [(ended, True)] * len(stops) + [("completed", True)]


def recorded(folder: Path) -> list[tuple[str, bool]]:
    """How each start of the train stage ended, the first one first, and whether the steps it got to are known."""
    with ExperimentDB(folder / ".work/experiments.db") as database:
        records = [database.get_record(run["run_id"]) for run in reversed(database.list_runs())]
    trainings = records[2:]  # after corpus and tokenizer
    assert {record["origin"] for record in records} == {"stage"}
    return [
        (record["status"], any((row["metric_name"], row["step"]) == ("train/loss", 5) for row in record["metrics"]))
        for record in trainings
    ]


def test_a_killed_run_with_muon_and_a_mean_of_the_weights_ends_like_one_that_was_not(encoded, tmp_path):
    changed = SPEC.replace(
        "dropout: 0.1",
        "dropout: 0.1, qk_norm: true, activation: relu2, zero_init: true, short_conv: 4, separate_documents: true",
    )
    changed = changed.replace("epochs: 3", "epochs: 3, ema_decay: 0.9")
    changed += "optimizer: {optimizer_name: muon, muon_method: polar_express}\n"
    straight, killed = (Project(tmp_path / name) for name in ("straight", "killed"))
    for each in (straight, killed):
        shutil.copytree(encoded, each.folder)
        (each.folder / "specs/experiment.yaml").write_text(changed)

    process = killed.start("train")
    killed.wait_for_checkpoint(process, step=14)
    process.kill()
    process.communicate()

    assert straight.run("train") == killed.run("train") == (0, "")
    assert killed.weights() == straight.weights()
    assert killed.record() == straight.record()
    assert killed.ledger() == straight.ledger()
    model, _ = load_model(straight.folder / "artifacts/model")
    assert model.layers[0].self_attn.q_norm.weight.shape == (8,)
    assert bool((model.layers[0].mlp_conv.weight != 0).all())


def test_with_other_kernels_an_exact_run_is_refused_and_any_other_goes_on_with_a_warning(project, monkeypatch):
    process = project.start("train")
    project.wait_for_checkpoint(process, step=7)
    process.kill()
    process.communicate()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")

    monkeypatch.setenv("FOUNDRY_EXACT", "1")
    code, message = project.run("train")
    monkeypatch.delenv("FOUNDRY_EXACT")
    process = project.start("train")
    _, said = process.communicate()

    assert code == 4
    assert "cpu_capability: " in message
    assert " → DEFAULT" in message
    assert "; arithmetic: " in message  # the same first batch came to other bits
    assert process.returncode == 0
    assert "resuming after step " in said  # its checkpoints are still there
    assert "warning: this process executes differently" in said
    assert "→ DEFAULT" in said


def test_a_second_trainer_is_refused_and_the_first_goes_on(project, trained):
    first = project.start("train")
    project.wait_for_checkpoint(first, step=7)
    first.send_signal(signal.SIGSTOP)  # it cannot finish before the second has tried
    code, message = project.run("train")
    first.send_signal(signal.SIGCONT)
    first.communicate()

    assert (code, first.returncode) == (4, 0)
    assert f"process {first.pid} is already training" in message
    assert project.weights() == trained.weights()


def test_another_learning_rate_does_not_resume_and_the_old_checkpoints_stay(project, trained):
    process = project.start("train")
    project.wait_for_checkpoint(process, step=7)
    process.kill()
    process.communicate()
    spec = project.folder / "specs/experiment.yaml"
    spec.write_text(SPEC.replace("epochs: 3", "epochs: 3, learning_rate: 0.01"))

    process = project.start("train")
    _, said = process.communicate()
    [earlier] = {path.parent.name for path in project.folder.glob(".work/runs/*/checkpoint-*")}

    assert process.returncode == 0
    reason = "starting afresh: training.learning_rate 0.001 → 0.01 changes the result"
    assert f"{reason}; the earlier run stays under .work/runs/{earlier}\n" in said
    assert project.weights() != trained.weights()

    spec.write_text(SPEC)
    assert project.run("train") == (0, "")
    assert project.weights() == trained.weights()


def test_the_hash_of_the_spec_stands_in_what_was_made_from_it(trained):
    spec = load_spec(trained.folder / "specs/experiment.yaml")
    read = [json.loads((trained.folder / f"artifacts/{name}/manifest.json").read_text()) for name in OUTPUTS]
    metrics = json.loads((trained.folder / "reports/training_metrics.json").read_text())

    assert [manifest["spec_hash"] for manifest in read] == [
        lock_of(spec, stage).hash for stage in ("corpus", "tokenizer", "train")
    ]
    assert read[-1]["spec_hash"] == metrics["spec_hash"] == spec.hash()


def test_what_changes_no_weights_changes_no_weights(project, trained):
    changed = SPEC.replace("save_every_n_steps: 7", "save_every_n_steps: null, keep_last_n: 1")
    changed = changed.replace('log_every_n_steps: 5, sample_prompts: ["the"]', "console_level: warning")
    (project.folder / "specs/experiment.yaml").write_text(changed)

    assert project.run("train") == (0, "")
    assert project.weights() == trained.weights()
    assert project.ledger() == trained.ledger()


@pytest.mark.slow
@pytest.mark.parametrize(("tracker", "package"), [("use_tensorboard", "tensorboard"), ("use_wandb", "wandb")])
def test_a_tracker_changes_no_weights_and_follows_a_run_that_was_killed(project, trained, tracker, package):
    pytest.importorskip(package)
    (project.folder / "specs/experiment.yaml").write_text(SPEC.replace("logging: {", f"logging: {{{tracker}: true, "))

    process = project.start("train")
    project.wait_for_checkpoint(process, step=7)
    process.kill()
    process.communicate()

    assert project.run("train") == (0, "")
    assert project.weights() == trained.weights()
    folders = {path.parent for path in project.folder.glob(".work/tracking/*/**/*tfevents*")}
    runs = {path.stem for path in project.folder.glob(".work/tracking/wandb/*/*.wandb")}
    assert len(folders) + len(runs) == 1  # one run, by two processes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true"])
def test_a_run_in_any_precision_that_was_killed_ends_with_the_weights_of_one_that_was_not(encoded, tmp_path, precision):
    projects = [Project(tmp_path / name) for name in ("straight", "killed")]
    for project in projects:
        shutil.copytree(encoded, project.folder)
        changed = SPEC.replace("precision: 32-true", f"precision: {precision}")
        changed += "optimizer: {adam_epsilon: 1.0e-6}\n"
        (project.folder / "specs/experiment.yaml").write_text(changed)
    straight, killed = projects

    assert straight.run("train") == (0, "")
    process = killed.start("train")
    killed.wait_for_checkpoint(process, step=14)
    process.kill()
    process.communicate()

    assert killed.run("train") == (0, "")
    assert killed.weights() == straight.weights()


def test_a_learning_rate_that_explodes_ends_with_4_and_saves_nothing_that_is_not_finite(project):
    exploding = SPEC.replace("epochs: 3", "epochs: 3, learning_rate: 1.0e+30, max_grad_norm: null")
    (project.folder / "specs/experiment.yaml").write_text(exploding)

    code, message = project.run("train")

    assert code == 4
    assert "not a finite number" in message or "not finite" in message
    assert not (project.folder / "artifacts/model").exists()


def test_memory_that_is_not_enough_for_one_row_ends_with_4_and_what_it_would_take(project):
    spec = project.folder / "specs/experiment.yaml"
    spec.write_text(spec.read_text().replace("hardware: {", "hardware: {device: cpu, "))
    # Every attempt at a step runs out of memory.
    code = "from pipeline.training.step import Stepper; Stepper._attempt = lambda *_: None\n"
    code += "from pipeline.stages.train import main; main([])"

    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True, check=False)

    assert done.returncode == 4
    assert "error: there is not enough memory for a single row: with micro-batches of one row" in done.stderr
    assert re.search(r"MB \(process \d+, weights 0, gradients 0, optimizer 0, activations 0", done.stderr)
    assert "lower model.max_seq_len" in done.stderr
    assert "`foundry plan specs/experiment.yaml`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_flipped_byte_in_the_tokens_is_refused_by_name(project):
    path = project.folder / "artifacts/tokenizer/train.bin"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)

    code, message = project.run("train")

    assert code == 4
    assert "artifacts/tokenizer/train.bin" in message


def test_the_best_weights_can_be_kept_alone(project, trained):
    spec = project.folder / "specs/experiment.yaml"
    spec.write_text(spec.read_text().replace("save_every_n_steps: 7", "keep_best_only: true"))

    code, _ = project.run("train")

    model = project.folder / "artifacts/model"
    assert code == 0
    assert not (model / "final.safetensors").exists()
    assert sha256_file(model / "model.safetensors") == trained.weights()[0]


def test_what_this_version_cannot_do_is_refused_before_any_work(project):
    spec = project.folder / "specs/experiment.yaml"
    spec.write_text(spec.read_text() + "task: {task_type: classification}\n")

    process = project.start("train")
    _, err = process.communicate()

    assert process.returncode == 1
    assert "`task.task_type` asks for what this version cannot do" in err
    assert not (project.folder / "artifacts/model").exists()
