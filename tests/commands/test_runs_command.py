"""`foundry runs`: lists, shows, compares, exports and rebuilds."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.artefacts import check_artefact
from pipeline.cli import foundry
from pipeline.commands.runs import command
from pipeline.errors import FoundryError
from pipeline.records.experiments import STATUSES, ExperimentDB
from pipeline.records.queries import COLUMNS

pytestmark = pytest.mark.integration


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> Path:
    """A project with two runs of a script: a, and b, which is better and slower."""
    monkeypatch.chdir(tmp_path)
    with ExperimentDB() as database:
        for name, rate, losses, speed in (("a", 0.1, (3.0, 2.0), 50.0), ("b", 0.2, (2.5, 1.5), 25.0)):
            config = {"name": name, "training": {"learning_rate": rate, "epochs": 2}, "export": {"formats": [name]}}
            database.log_run(f"run <{name}>", config, run_id=name * 32)
            for step, loss in enumerate(losses, start=1):
                database.log_metrics(name * 32, {"train/loss": loss, "val/loss": loss + 1}, step=step, epoch=step)
            database.log_metrics(name * 32, {"best_val_loss": min(losses) + 1, "tokens_per_second": speed})
            database.update_run_status(name * 32, "completed")
    return tmp_path


def runs(*arguments: str) -> str:
    done = CliRunner().invoke(foundry, ["runs", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: str) -> FoundryError:
    with pytest.raises(FoundryError) as caught:
        CliRunner().invoke(foundry, ["runs", *arguments], catch_exceptions=False)
    return caught.value


def test_the_list_is_a_table_with_the_newest_run_first(recorded):
    lines = runs("list").splitlines()

    assert lines[0].split("  ")[0] == "run"
    assert [line.split()[0] for line in lines[2:]] == ["bbbbbbbb", "aaaaaaaa"]
    assert lines[2].endswith("2.5")


def test_the_list_is_sorted_by_what_is_better_and_filtered(recorded):
    def listed(*arguments: str) -> list[str]:
        return [run["run_id"][0] for run in json.loads(runs("list", "--json", *arguments))]

    assert listed("--sort", "best_val_loss") == ["b", "a"]
    assert listed("--sort", "best_val_loss", "--reverse") == ["a", "b"]
    assert listed("--sort", "tokens_per_second") == ["a", "b"]
    assert listed("--where", "training.learning_rate<0.2") == ["a"]
    assert listed("--where", "status=failed") == []
    assert listed("--limit", "1") == ["b"]


def test_the_list_as_csv_has_the_columns_that_were_asked_for(recorded):
    rows = list(csv.DictReader(io.StringIO(runs("list", "--csv", "--show", "training.learning_rate"))))

    assert [(row["run_id"][0], row["training.learning_rate"]) for row in rows] == [("b", "0.2"), ("a", "0.1")]


def test_the_help_shows_examples_as_they_are_typed(recorded):
    assert "\n  foundry runs list --where status=completed --sort best_val_loss\n" in runs("list", "--help")


def test_a_metric_that_no_run_has_is_refused(recorded):
    assert "no run has a metric loss" in refused("list", "--where", "loss<1").message


def test_without_a_database_every_reading_command_says_so_and_makes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for arguments in (["list"], ["show"], ["best"], ["export"], ["compare", "a", "b"]):
        assert "no run is recorded here yet" in refused(*arguments).message
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_shown_with_all_that_is_known_of_it(recorded):
    shown = runs("show", "aaaa")

    assert re.search(r"^name +run <a>$", shown, re.MULTILINE)
    assert re.search(r"^val/loss +2 +3$", shown, re.MULTILINE)
    assert json.loads(runs("show", "--json"))["run_id"] == "b" * 32


def test_runs_are_compared_with_the_first(recorded):
    shown = runs("compare", "a", "b")

    assert re.search(r"^training\.learning_rate +0\.1 +0\.2$", shown, re.MULTILINE)
    assert re.search(r'^export\.formats +\["a"\] +\["b"\]$', shown, re.MULTILINE)
    assert "epochs" not in shown
    assert re.search(r"^best_val_loss +3 +2\.5 +-0\.5 \(-16\.7%\)  better$", shown, re.MULTILINE)
    assert re.search(r"^tokens_per_second +50 +25 .*worse$", shown, re.MULTILINE)


def test_a_comparison_as_json_has_changes_and_what_is_better(recorded):
    compared = json.loads(runs("compare", "a", "b", "--json"))

    assert compared["metrics"]["val/loss"] == {
        "better": "lower",
        "values": {"a" * 32: 3.0, "b" * 32: 2.5},
        "changes": {"b" * 32: -0.5},
    }
    assert compared["development"]["a" * 32]["best_epoch"] == 2
    rows = list(csv.DictReader(io.StringIO(runs("compare", "a", "b", "--csv"))))
    assert rows[0] == {"kind": "setting", "name": "training.learning_rate", "a" * 32: "0.1", "b" * 32: "0.2"}


def test_a_comparison_with_a_note_is_kept(recorded):
    runs("compare", "a", "b", "--note", "twice the rate")

    assert "compared with aaaaaaaa → bbbbbbbb: twice the rate" in runs("show", "b")


def test_curves_are_drawn_and_a_page_needs_no_network(recorded):
    runs("compare", "a", "b", "--image", "curves.png", "--html", "page.html")

    page = Path("page.html").read_text()
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("<svg") == 1
    assert "run &lt;a&gt;" in page
    assert not re.search(r'(src|href)="(http|//)', page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "curves.xyz"], "xyz"),
        (["--image", "curves.png", "--curve", "nothing"], "none of them has the metric nothing"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(recorded, arguments, message):
    assert message in refused("compare", "a", "b", *arguments).message
    assert not list(recorded.glob("curves.*"))


@pytest.mark.parametrize("names", [["a"], ["a", "aa"]])
def test_one_run_is_not_compared_with_itself(recorded, names):
    done = CliRunner().invoke(foundry, ["runs", "compare", *names])

    assert done.exit_code == 2  # Click's own; `foundry` ends with 1
    assert "Usage" in done.output


def test_the_best_run_is_found_in_the_direction_of_the_metric(recorded):
    assert runs("best").startswith("b" * 32)
    assert runs("best", "tokens_per_second").startswith("a" * 32)
    assert runs("best", "best_val_loss", "--mode", "max").startswith("a" * 32)
    assert "add --mode" in refused("best", "learning_rate").hint


def test_what_is_exported_is_what_the_schema_says(recorded):
    lines = runs("export").splitlines()
    table = list(csv.DictReader(io.StringIO(runs("export", "b", "--csv"))))
    runs("export", "a", "-o", "one.jsonl")

    assert [json.loads(line)["run_id"][0] for line in lines] == ["a", "b"]
    for line in lines:
        check_artefact("run_record", json.loads(line), "the line")
    assert len(table) == 6
    assert Path("one.jsonl").read_text() == f"{lines[0]}\n"


def test_the_page_names_every_command_column_and_status(checkout):
    page = (checkout / "docs" / "records.md").read_text(encoding="utf-8")

    assert all(f"foundry runs {name}" in page for name in command.commands)
    assert all(re.search(rf"[`\s]{name}[`\s]", page) for name in COLUMNS)
    assert all(f"`{status}`" in page for status in STATUSES)


def test_rebuilding_says_what_it_found(tmp_path, monkeypatch, checkout):
    monkeypatch.chdir(tmp_path)
    Path("reports").symlink_to(checkout / "reports")

    assert "1 from reports and git, 0 were known" in runs("rebuild")
    assert "shakespeare-tiny" in runs("list")
