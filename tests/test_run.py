"""`foundry run` end to end: a tiny project of its own, with real stages, in real processes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
from ruamel.yaml import YAML

from pipeline.commands.run import plan
from pipeline.paths import STAGES

pytestmark = pytest.mark.e2e

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "wizards",
    "sing",
    "king",
    "winter",
]
# About 20,000 parameters: every stage takes little more than the import of its packages.
TINY = {
    "dataset.source": {"kind": "files", "paths": ["texts"], "format": "auto", "text_field": "text"},
    "dataset.cleaning.strip_markdown": False,
    "dataset.test_split": 0.0,
    "tokenizer.vocab_size": 320,
    "model.d_model": 32,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.d_ff": 48,
    "model.max_seq_len": 32,
    "training.batch_size": 8,
    "training.max_steps": 12,
    "hardware.precision": "32-true",
    "hardware.compile_mode": None,
    "hardware.num_threads": 1,
    "logging.log_every_n_steps": 4,
    "logging.sample_prompts": [],
    "validation.prompts": ["the"],
    "validation.max_new_tokens": 8,
    "export.formats": ["pytorch"],
    "export.generated_tokens": 4,
}
TOO_MANY_PIECES = {"tokenizer.vocab_size": 30_000}
COPIED = ("pipeline", "schemas", "specs", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore")


class Project:
    """A folder with a spec, in which commands are run as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = folder / "specs" / "experiment.yaml"

    def set(self, values: Mapping[str, Any]) -> None:
        """Change values of the spec, by dotted path."""
        yaml = YAML()
        content = yaml.load(self.spec)
        for path, value in values.items():
            *sections, name = path.split(".")
            section = content
            for key in sections:
                section = section[key]
            section[name] = value
        yaml.dump(content, self.spec)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code, standard output and standard error of a `foundry` command."""
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    def happened(self, *arguments: str) -> dict[str, str]:
        """Run the pipeline with success; for each stage: built, restored or unchanged."""
        code, out, err = self.run("run", *arguments)
        assert code == 0, err
        return dict(re.findall(r"^(\w+) +(built|restored|unchanged)\b", out, re.MULTILINE))

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def status(self, stage: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / ".work" / "status" / f"{stage}.json").read_text()))

    def wait_until_training(self) -> int:
        """Wait for the first step of the train stage to be behind us; its process id."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                status = self.status("train")
            except (OSError, ValueError):
                status = {}
            if status.get("phase") == "running" and any((self.folder / ".work").glob("runs/*/*")):
                time.sleep(1.5)  # imports and the first steps
                return int(status["pid"])
            time.sleep(0.05)
        pytest.fail("training never began")


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory) -> Project:
    """A project whose pipeline has run once; not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "project"
    folder.mkdir()
    for name in COPIED:
        source, target = checkout / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        draw = random.Random(number)
        lines = [" ".join(draw.choices(WORDS, k=10)).capitalize() + "." for _ in range(40)]
        (texts / f"{number}.txt").write_text("\n".join(lines) + "\n")
    project = Project(folder)
    project.set(TINY)
    project.git("init", "--quiet")
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "Start")

    assert project.happened() == dict.fromkeys(STAGES, "built")

    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "Run")
    return project


@pytest.fixture
def project(built, tmp_path) -> Iterator[Project]:
    """A copy of the built project, to do anything with."""
    folder = tmp_path / "project"
    shutil.copytree(built.folder, folder)
    yield Project(folder)
    shutil.rmtree(folder)


def test_a_run_leaves_every_artefact_and_report(built):
    for name in ("corpus", "tokenizer", "model", "validation", "export"):
        assert (built.folder / "artifacts" / name / "manifest.json").is_file()
    reports = {path.name for path in (built.folder / "reports").iterdir()}
    assert reports >= {
        "corpus.json",
        "tokenizer.json",
        "training_metrics.json",
        "history.csv",
        "validation.json",
        "health_report.json",
        "health_report.md",
    }


def test_a_second_run_does_nothing_in_seconds(project):
    started = time.monotonic()

    assert project.happened() == dict.fromkeys(STAGES, "unchanged")

    assert time.monotonic() - started < 10


def test_what_changes_no_result_runs_nothing(project):
    project.set({"logging.console_level": "warning", "checkpointing.save_every_n_steps": 7, "notes": "a note"})

    assert project.happened() == dict.fromkeys(STAGES, "unchanged")


def test_a_changed_export_runs_only_the_export(project):
    project.set({"export.generated_tokens": 3})

    assert project.happened() == {**dict.fromkeys(STAGES, "unchanged"), "export": "built"}


def test_a_changed_learning_rate_runs_training_onward_and_going_back_trains_nothing(project):
    report = project.folder / "reports" / "health_report.md"
    first = report.read_text()
    project.set({"training.learning_rate": 1.0e-3})
    changed = project.happened()
    compared = project.run("compare")
    project.set({"training.learning_rate": 2.0e-3})

    went_back = project.happened()

    after_training = ("train", "validate", "export")
    assert changed == {stage: "built" if stage in after_training else "unchanged" for stage in STAGES}
    assert went_back == {stage: "restored" if stage in after_training else "unchanged" for stage in STAGES}
    assert report.read_text() == first
    code, out, err = compared
    assert (code, err) == (0, "")
    assert re.search(r"^training\.learning_rate +0\.002 +0\.001$", out, re.MULTILINE)
    assert re.search(r"^best_val_loss .*(better|worse)$", out, re.MULTILINE)


def test_text_is_generated_the_same_for_the_same_seed(project):
    arguments = [
        "generate",
        "the king",
        "--max-new-tokens",
        "12",
        "--temperature",
        "1",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
    ]

    code, out, err = project.run(*arguments, "--seed", "3")

    assert (code, err) == (0, "")
    assert out.startswith("the king")
    assert project.run(*arguments, "--seed", "3")[1] == out


def test_a_text_that_has_gone_is_not_taken_for_unchanged(project):
    (project.folder / "texts").rename(project.folder / "elsewhere")

    code, out, err = project.run("run")

    assert code == 2
    assert "Running stage 'corpus'" in out
    assert err.count("error: ") == 1
    assert "texts" in err


def test_a_new_text_file_builds_the_corpus_again_although_dvc_cannot_see_it(project):
    (project.folder / "texts" / "new.txt").write_text("a new king sings of winter\n" * 3)
    project.set(TOO_MANY_PIECES)  # so that the run ends after what is looked at

    code, out, err = project.run("run")

    assert code == 3
    assert "texts/new.txt is not what the corpus was built from" in err
    assert "Running stage 'corpus'" in out


@pytest.mark.parametrize(
    ("values", "code", "stage", "words"),
    [
        ({"dataset.source": {"kind": "files", "paths": ["nowhere"]}}, 2, "corpus", "nowhere"),
        (TOO_MANY_PIECES, 3, "tokenizer", "too large"),
        ({"model.max_seq_len": 200_000}, 4, "train", "not enough memory"),
        ({"validation.budgets.val_loss": 0.001}, 5, "validate", "val_loss"),
    ],
)
def test_a_failed_stage_gives_its_code_and_one_message_with_a_hint(project, values, code, stage, words):
    project.set(values)

    ended, _out, err = project.run("run")

    assert ended == code
    assert err.count("error: ") == 1
    message, hint = err.rstrip().rsplit("error: ", 1)[1].split("\n", 1)
    assert message.startswith(f"{stage} stage: ")
    assert words in message
    assert hint.strip().startswith("hint: ")
    assert "Traceback" not in err


def test_a_wrong_spec_ends_with_1_before_anything_runs(project):
    project.set({"training.learning_rate": -1})

    code, out, err = project.run("run")

    assert code == 1
    assert "Running stage" not in out
    assert "learning_rate" in err


def test_an_invalid_dvc_yaml_is_one_clear_message(project):
    (project.folder / "dvc.yaml").write_text("stages: 3\n")

    code, _out, err = project.run("run")

    assert code == 1
    assert err.startswith("error: dvc: ")
    assert "git checkout dvc.yaml" in err


def test_another_dvc_at_work_is_one_clear_message(project):
    lock = zc.lockfile.LockFile(str(project.folder / ".dvc" / "tmp" / "lock"))
    try:
        code, _out, err = project.run("run", "--force")
    finally:
        lock.close()

    assert code == 1
    assert "another dvc command is at work here" in err


def test_a_damaged_artefact_is_mended_by_the_command_in_the_hint_down_to_the_cache(project):
    cached = next(
        path
        for path in (project.folder / ".dvc" / "cache" / "files").rglob("*")
        if path.is_file() and path.read_bytes().startswith(b'{"id":')
    )
    good = cached.read_bytes()
    cached.chmod(0o644)
    cached.write_bytes(good.replace(b"king", b"kong", 1))
    cached.chmod(0o444)  # what DVC made itself is read-only, and trusted for that
    shutil.rmtree(project.folder / "artifacts" / "corpus")
    project.set(TOO_MANY_PIECES)  # so that the tokenizer stage looks at its input, and no stage after it runs

    code, _out, err = project.run("run")
    command = re.search(r"foundry (run --from corpus --force)", err)
    assert (code, command is not None) == (3, True)
    _code, _out, mended = project.run(*command[1].split())

    assert "removing a damaged object from the DVC cache" in mended
    assert "too large" in mended
    assert cached.read_bytes() == good


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_run_stops_the_stage_which_saves_first(project, number, code):
    project.set({"training.max_steps": 100_000, "training.epochs": 100_000})
    process = project.start("run")
    stage = project.wait_until_training()

    process.send_signal(number)
    _out, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert project.status("train")["code"] == code
    assert any((project.folder / ".work" / "runs").rglob("manifest.json")), "a checkpoint was saved"
    assert err.rstrip().endswith("hint: run the same command again to go on")
    assert _gone(stage)


@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")
def test_killing_the_run_leaves_no_trainer_behind(project):
    project.set({"training.max_steps": 100_000, "training.epochs": 100_000})
    process = project.start("run")
    stage = project.wait_until_training()

    process.kill()
    process.communicate()

    assert _gone(stage)


def test_a_stage_that_was_killed_is_reported_with_its_code(project):
    project.set({"training.max_steps": 100_000, "training.epochs": 100_000})
    process = project.start("run")
    stage = project.wait_until_training()

    os.kill(stage, signal.SIGKILL)
    _out, err = process.communicate(timeout=60)

    assert process.returncode == 4
    assert "train stage: the process was killed" in err


def test_a_run_is_recorded_with_what_it_was_made_from_and_what_it_left(built):
    _code, out, _err = built.run("runs", "show", "--json")

    run = json.loads(out)
    assert (run["status"], run["exit_code"], run["message"], run["run_name"]) == (
        "completed",
        0,
        "",
        "shakespeare-tiny",
    )
    assert [(stage["stage"], stage["outcome"]) for stage in run["stages"]] == [(stage, "built") for stage in STAGES]
    assert run["seconds"] > sum(stage["seconds"] for stage in run["stages"]) > 0
    training = json.loads((built.folder / "reports/training_metrics.json").read_text())
    assert (run["training_run_id"], run["spec_hash"]) == (training["run_id"], training["spec_hash"])
    assert run["config"] == training["configuration"]
    assert len(run["git_commit"]) == 40
    assert "torch" in run["environment"]["packages"]
    left = {row["artifact_type"]: row["metadata"] for row in run["artifacts"]}
    assert left["model"]["inputs"]["tokenizer"] == left["tokenizer"]["sha256"]
    assert {row["metric_name"] for row in run["metrics"]} >= {"train/loss", "val/loss", "best_val_loss", "health_score"}


def test_beside_the_record_stand_the_hashes_that_the_outputs_have(built):
    (sums,) = (built.folder / ".work").glob("records/*/SHA256SUMS")

    assert "  artifacts/model/model.safetensors\n" in sums.read_text()
    subprocess.run(["sha256sum", "--quiet", "-c", sums], cwd=built.folder, check=True)
    said = built.run("runs", "show")[1]
    assert f"how to get its weights again: {sums.relative_to(built.folder).with_name('REPRODUCE.md')}" in said


def test_a_failed_run_is_recorded_with_its_code_and_without_the_reports_of_an_earlier_one(project):
    code = project.folder / "pipeline" / "errors.py"
    code.write_text(f"{code.read_text()}# a change that is not committed\n")
    project.set(TOO_MANY_PIECES)
    project.run("run")

    run = json.loads(project.run("runs", "show", "--json")[1])

    assert (run["status"], run["exit_code"]) == ("failed", 3)
    assert run["message"].startswith("tokenizer stage: ")
    assert [stage["outcome"] for stage in run["stages"]] == ["unchanged", "failed", *3 * ["not reached"]]
    assert [row["artifact_type"] for row in run["artifacts"]] == ["corpus"]
    assert run["metrics"] == []
    assert run["git_diff"].count("+# a change that is not committed\n") == 1


def test_a_killed_run_is_found_and_marked(project):
    project.set({"training.max_steps": 100_000, "training.epochs": 100_000})
    process = project.start("run")
    project.wait_until_training()
    while not any(path.read_text() for path in (project.folder / ".work").glob("runs/*/record.jsonl")):
        time.sleep(0.05)
    during = json.loads(project.run("runs", "list", "--json", "--limit", "1")[1])
    process.kill()
    process.communicate()

    _code, out, err = project.run("runs", "list", "--json", "--limit", "1")

    assert [run["status"] for run in during] == ["running"]
    assert [run["status"] for run in json.loads(out)] == ["killed"]
    assert "its process is gone" in err
    losses = [row for row in json.loads(project.run("runs", "show", "--json")[1])["metrics"] if row["step"] == 1]
    assert "train/loss" in {row["metric_name"] for row in losses}


def test_a_run_that_cannot_be_recorded_succeeds_says_so_and_is_taken_in_later(project):
    database = project.folder / ".work" / "experiments.db"
    database.unlink()
    database.mkdir()

    code, _out, err = project.run("run")
    database.rmdir()
    rebuilt = project.run("runs", "rebuild")

    assert code == 0
    assert "not recorded as it should be: .work/experiments.db: the database cannot be opened" in err
    assert "`foundry runs rebuild`" in err
    assert "2 runs from their files" in rebuilt[1]
    runs = json.loads(project.run("runs", "list", "--json")[1])
    assert [run["status"] for run in runs] == ["completed", "completed"]


@pytest.mark.slow
def test_training_that_starts_from_weights_runs_again_when_they_are_others_and_never_comes_from_the_cache(project):
    random_start = {"training.resume_from_checkpoint": None, "training.learning_rate": 2.0e-3}
    given_start = {"training.resume_from_checkpoint": "earlier", "training.learning_rate": 1.0e-3}
    model, earlier = project.folder / "artifacts/model", project.folder / "earlier"
    shutil.copytree(model, earlier)
    project.set(given_start)

    started = project.happened()
    again = project.happened()
    shutil.rmtree(earlier)
    shutil.copytree(model, earlier)
    others = project.happened()
    project.set(random_start)
    back = project.happened()
    project.set(given_start)
    once_more = project.happened()

    assert [run["train"] for run in (started, again, others, back, once_more)] == [
        "built", "unchanged", "built", "restored", "built",
    ]  # fmt: skip
    assert all(run["tokenizer"] == "unchanged" for run in (started, again, others, back, once_more))


@pytest.mark.slow
def test_experiments_run_and_show(project):
    dvc = [sys.executable, "-m", "dvc"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    change = "specs/experiment.yaml:training.learning_rate=1e-3"

    subprocess.run(
        [*dvc, "exp", "run", "-n", "fast-one", "-S", change], cwd=project.folder, env=environment, check=True
    )
    shown = subprocess.run(
        [*dvc, "exp", "show", "--csv"], cwd=project.folder, env=environment, check=True, capture_output=True, text=True
    )

    assert "0.001" in shown.stdout
    compared = json.loads(project.run("compare", "HEAD", "fast-one", "--json")[1])
    assert compared["settings"]["training.learning_rate"]["fast-one"] == 0.001
    assert "best_val_loss" in compared["metrics"]
    assert "# yaml-language-server" in project.spec.read_text()


def test_running_from_a_stage_brings_the_stages_before_it_up_to_date_and_mends_from_there():
    made = plan("train")

    assert made.commands == [["repro", "tokenizer"], ["repro", "--force", "--downstream", "train"]]
    assert made.mend == ["train", "validate", "export"]


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True  # dead, and waiting for its adopter to notice
        time.sleep(0.05)
    return False


def test_an_exact_run_tells_its_stages_so_without_another_command_line(checkout, tmp_path):
    for name in (".dvc/config", ".dvc/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(checkout / name, tmp_path / name)
    told = "exec python -c \"import os; print(os.environ.get('FOUNDRY_EXACT'), file=open('told', 'a'))\""
    (tmp_path / "dvc.yaml").write_text(f"stages: {{train: {{cmd: {json.dumps(told)}}}}}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    supervised = (
        "from pipeline.commands.run import Plan, supervise; supervise(Plan([['repro']], []), run='x', exact={})"
    )

    for exact in (True, False):
        subprocess.run([sys.executable, "-c", supervised.format(exact)], cwd=tmp_path, check=True, capture_output=True)

    assert (tmp_path / "told").read_text().split() == ["1", "None"]
