"""`foundry env`: shows what a run is executed with, and compares it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.artefacts import check_artefact
from pipeline.cli import foundry
from pipeline.commands.env import command
from pipeline.errors import FoundryError
from pipeline.records.experiments import ExperimentDB

pytestmark = pytest.mark.integration

OLD = Path(__file__).parents[1] / "records" / "old" / "experiments-0003.db"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def env(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(foundry, ["env", *arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def test_what_is_shown_as_json_is_read_again_and_equals_this_environment(folder):
    Path("mine.json").write_text(env("show", "--json"))

    check_artefact("environment", json.loads(Path("mine.json").read_text()), "mine.json")
    assert env("compare", "mine.json") == "of what is known of mine.json and here, nothing differs\n"
    assert json.loads(env("compare", "mine.json", "here", "--json"))["differences"] == []


def test_threads_torch_and_processor_are_shown(folder):
    shown = env("show")

    assert re.search(r"^execution\.num_threads +\d+$", shown, re.MULTILINE)
    assert re.search(r"^execution\.cpu_capability +\S+$", shown, re.MULTILINE)
    assert re.search(r"^torch +\d", shown, re.MULTILINE)


def test_what_may_change_the_weights_stands_first_and_gives_an_exit_code_when_asked(folder):
    taken = json.loads(env("show", "--json"))
    taken["execution"]["num_threads"] += 1
    taken["packages"]["rich"] = "1.0"
    Path("other.json").write_text(json.dumps(taken))

    may, rest = env("compare", "other.json", "--exit-code", code=1).split("\n\n")

    assert re.search(r"execution\.num_threads +\d+ +\d+ +set hardware\.num_threads to \d+", may)
    assert re.search(r"packages\.rich +1\.0 ", rest)
    taken["execution"]["num_threads"] -= 1
    Path("other.json").write_text(json.dumps(taken))
    assert "nothing of this changes the weights" in env("compare", "other.json", "--exit-code")


def test_requirements_are_lines_for_pip(folder):
    lines = env("show", "--requirements").splitlines()

    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    assert not [line for line in lines if line.startswith("model-foundry")]


def test_a_run_and_a_project_stand_for_what_they_were_executed_with(folder):
    (folder / ".work").mkdir()
    shutil.copy(OLD, ".work/experiments.db")
    with ExperimentDB() as database:
        record = database.get_record("a" * 32)
        database.register_run({**record, "environment": {"packages": {"torch": "1.0"}, "execution": {"torch": "1.0"}}})

    for name in ("aaaa", "."):
        compared = env("compare", name)
        assert re.search(r"execution\.torch +1\.0 +2", compared)
        assert re.search(r"packages\.torch +1\.0 ", compared)


def test_a_project_without_records_stands_for_its_reports(folder, checkout):
    shutil.copytree(checkout / "reports", "project/reports")

    report = json.loads((checkout / "reports/training_metrics.json").read_text())
    shown = json.loads(env("show", "project", "--json"))
    assert shown["execution"] == report["execution"]
    assert shown["packages"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "nothing is no file, no folder and no run"),
        (["compare", "empty"], "nothing was trained in this folder"),
        (["show", "broken.json"], "not valid JSON"),
        (["show", "other.json"], "`execution` is missing"),
        (["show", "project", "--requirements"], "which packages project has is not known"),
    ],
)
def test_what_has_no_environment_is_one_error(folder, checkout, arguments, message):
    Path("empty").mkdir()
    Path("broken.json").write_text("{")
    Path("other.json").write_text("{}")
    shutil.copytree(checkout / "reports", "project/reports")

    with pytest.raises(FoundryError) as caught:
        CliRunner().invoke(foundry, ["env", *arguments], catch_exceptions=False)

    assert message in str(caught.value)


def test_a_run_that_is_not_there_is_one_error_where_others_are(folder):
    (folder / ".work").mkdir()
    shutil.copy(OLD, ".work/experiments.db")

    with pytest.raises(FoundryError, match="cccc is no file, no folder and no run"):
        env("show", "cccc")


def test_two_forms_of_one_answer_are_refused(folder):
    assert CliRunner().invoke(foundry, ["env", "show", "--json", "--requirements"]).exit_code == 2  # Click's own


def test_the_page_names_every_command(checkout):
    page = (checkout / "docs" / "records.md").read_text(encoding="utf-8")

    assert all(f"foundry env {name}" in page for name in command.commands)
