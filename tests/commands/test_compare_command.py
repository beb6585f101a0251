"""`foundry compare`: commits, branches, tags, experiments, runs and this folder, in one table."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline.cli import foundry
from pipeline.commands.compare_states import State
from pipeline.commands.run_comparison import compared, comparison_markdown, comparison_text
from pipeline.errors import FoundryError
from pipeline.records.experiments import ExperimentDB

pytestmark = pytest.mark.integration

RUN = "a1" * 16


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def change(*, rate: float | None = None, **figures: float) -> None:
    """Change the learning rate of the spec and figures of the last run."""
    spec, report = Path("specs/experiment.yaml"), Path("reports/training_metrics.json")
    if rate is not None:
        spec.write_text(re.sub(r"(?m)^  learning_rate: \S+", f"  learning_rate: {rate}", spec.read_text(), count=1))
    content = json.loads(report.read_text())
    content["final_metrics"] |= figures
    report.write_text(json.dumps(content))


def commit(message: str) -> str:
    git("add", ".")
    git("commit", "--quiet", "-m", message)
    return git("rev-parse", "HEAD")


@pytest.fixture
def project(checkout, tmp_path, monkeypatch) -> Path:
    """A repository: the tag `one` and the branch `main` behind it, with a worse run; the folder differs from both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    shutil.copy(checkout / "specs/experiment.yaml", "specs")
    shutil.copytree(checkout / "reports", "reports")
    git("init", "--quiet", "--initial-branch=main")
    change(rate=0.001, best_val_loss=4.0, best_step=100)
    commit("one")
    git("tag", "one")
    change(rate=0.002, best_val_loss=5.0)
    commit("two | three")
    change(rate=0.004, best_val_loss=3.0)
    return tmp_path


def compare(*arguments: str) -> str:
    done = CliRunner().invoke(foundry, ["compare", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.split()[1:]


def record(**figures: float) -> None:
    """A run in the database."""
    with ExperimentDB() as database:
        database.log_run("by hand", {"training": {"learning_rate": 0.5}}, run_id=RUN)
        database.log_metrics(RUN, figures)


def test_one_revision_is_compared_with_this_folder_and_none_stands_for_head(project):
    shown = compare("one")

    assert row(shown, "setting") == ["one", "now"]
    assert row(shown, "training.learning_rate") == ["0.001", "0.004"]
    assert row(shown, "best_val_loss") == ["4", "3", "-1", "(-25.0%)", "better"]
    assert row(compare(), "best_val_loss") == ["5", "3", "-2", "(-40.0%)", "better"]


def test_tags_branches_commits_and_this_folder_stand_beside_each_other(project):
    shown = compare("one", "main", "now")

    assert row(shown, "training.learning_rate") == ["0.001", "0.002", "0.004"]
    assert row(shown, "best_val_loss") == ["4", "5", "+1", "(+25.0%)", "worse", "3", "-1", "(-25.0%)", "better"]
    assert "nothing differs" in compare("main", git("rev-parse", "HEAD"))


def test_a_run_stands_beside_commits_under_the_same_names(project):
    record(best_val_loss=2.0, **{"validation/loss": 4.5})

    shown = compare("main", RUN[:6])

    assert row(shown, "setting") == ["main", RUN[:8]]
    assert row(shown, "training.learning_rate") == ["0.002", "0.5"]
    assert row(shown, "best_val_loss") == ["5", "2", "-3", "(-60.0%)", "better"]
    assert row(shown, "validation/loss")[1] == "4.5"
    assert row(compare("latest", "now"), "best_val_loss")[:2] == ["2", "3"]


def test_an_experiment_of_dvc_is_found_by_its_name(project):
    change(best_val_loss=1.5)
    made = commit("as DVC does it")
    git("update-ref", f"refs/exps/{made[:2]}/{made[2:]}/fast-one", made)
    git("reset", "--quiet", "--hard", "HEAD~1")

    assert row(compare("main", "fast-one"), "best_val_loss")[:2] == ["5", "1.5"]


def test_figures_that_few_look_for_are_counted_and_shown_when_asked_for(project):
    report = Path("reports/corpus.json")
    report.write_text(report.read_text().replace('"removed_characters": 139', '"removed_characters": 140'))

    assert "1 more figure differs: --all shows them" in compare()
    assert row(compare("--all"), "corpus/cleaning.drop_duplicate_paragraphs.removed_characters")[:2] == ["139", "140"]


def test_markdown_has_the_headlines_at_once_and_the_rest_folded(project):
    report = Path("reports/corpus.json")
    report.write_text(report.read_text().replace('"removed_characters": 139', '"removed_characters": 140'))

    at_once, _, folded = compare("main", "--markdown").partition("<details>")

    assert at_once.startswith("### `now` compared with `main`\n\n| setting | main | now |\n| --- | ---: | ---: |\n")
    assert "| best_val_loss | 5 | 3 | -2 (-40.0%)  better |" in at_once
    assert "<summary>1 more figure differs</summary>\n\n| metric |" in folded
    assert folded.rstrip().endswith("</details>")


def test_a_cell_with_a_bar_stays_one_cell_in_markdown():
    states = [State(name, name, name, {"a": value}, []) for name, value in (("x", "1|2"), ("y", "3"))]

    assert "| a | 1&#124;2 | 3 |" in comparison_markdown(compared(states, everything=False))


def test_states_that_do_not_differ_say_so():
    same = compared([State(name, name, name, {"a": 1}, []) for name in "xy"], everything=False)

    assert comparison_text(same) == "nothing differs between x and y"
    assert "Nothing differs between x and y." in comparison_markdown(same)


def test_json_and_csv_have_a_value_for_each_that_is_compared(project):
    found = json.loads(compare("one", "main", "--json"))
    rows = {line["name"]: line for line in csv.DictReader(io.StringIO(compare("one", "main", "--csv")))}

    assert found["compared"] == ["one", "main"]
    assert found["settings"]["training.learning_rate"] == {"one": 0.001, "main": 0.002}
    assert found["metrics"]["best_val_loss"] == {
        "better": "lower",
        "values": {"one": 4.0, "main": 5.0},
        "changes": {"main": 1.0},
    }
    assert (rows["best_val_loss"]["kind"], rows["best_val_loss"]["main"]) == ("metric", "5.0")


def test_the_page_lays_the_curves_of_all_over_each_other_and_needs_no_network(project):
    pytest.importorskip("matplotlib")

    compare("one", "main", "now", "--html", "compared.html")

    page = Path("compared.html").read_text()
    assert page.count("<svg") == 1
    assert "two | three" in page
    assert "this folder" in page
    assert not re.search(r'(src|href)="(http|//)', page)


def test_a_page_of_states_without_history_has_no_picture(project):
    for report in Path("reports").glob("*.csv"):
        report.unlink()
    record(best_val_loss=1.0)

    compare("now", RUN, "--html", "compared.html")

    assert "<svg" not in Path("compared.html").read_text()


def test_a_spec_of_another_version_is_compared_as_it_was_written(project):
    spec = Path("specs/experiment.yaml")
    spec.write_text(spec.read_text() + "gone: {setting: 7}\n")

    shown = compare()

    assert row(shown, "gone.setting") == ["-", "7"]
    assert row(shown, "training.learning_rate") == ["0.002", "0.004"]


def test_a_report_that_cannot_be_read_is_named_and_the_others_are_compared(project):
    Path("reports/validation.json").write_text("{")

    done = CliRunner().invoke(foundry, ["compare"], catch_exceptions=False)

    assert "left out: reports/validation.json: not valid JSON" in done.stderr
    assert row(done.stdout, "best_val_loss")[:2] == ["5", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no revision, no experiment and no run"),
        (["--flag-like"], None),
        (["main", "main"], None),
        (["empty"], "neither specs/experiment.yaml nor reports are there"),
        (["--html", "x.html", "--curve", "nothing"], "none of them has the metric nothing by step"),
    ],
)
def test_what_cannot_be_compared_is_one_error_and_writes_nothing(project, arguments, message):
    git("checkout", "--quiet", "--orphan", "empty")
    git("rm", "--quiet", "-rf", ".")
    git("commit", "--quiet", "--allow-empty", "-m", "empty")
    git("checkout", "--quiet", "main")

    if message is None:
        assert CliRunner().invoke(foundry, ["compare", *arguments]).exit_code == 2  # Click's own; `foundry` ends with 1
    else:
        with pytest.raises(FoundryError, match=re.escape(message)):
            CliRunner().invoke(foundry, ["compare", *arguments], catch_exceptions=False)
    assert not Path("x.html").exists()


def test_a_name_of_a_commit_and_of_a_run_is_refused(project):
    with ExperimentDB() as database:
        database.log_run("by hand", {}, run_id=git("rev-parse", "HEAD")[:8])

    with pytest.raises(FoundryError, match="is a commit and a run"):
        compare(git("rev-parse", "HEAD")[:8])


def test_the_beginning_of_two_runs_is_refused(project):
    with ExperimentDB() as database:
        for last in "12":
            database.log_run("by hand", {}, run_id=f"zz{last}")

    with pytest.raises(FoundryError, match="2 runs begin with zz"):
        compare("zz")


def test_runs_are_compared_where_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExperimentDB() as database:
        for name, loss in (("x1", 2.0), ("x2", 1.0)):
            database.log_run(name, {}, run_id=name)
            database.log_metric(name, "val/loss", loss)

    assert row(compare("x1", "x2"), "val/loss") == ["2", "1", "-1", "(-50.0%)", "better"]


def test_make_compares_what_is_named(project, checkout):
    def asked(*variables: str) -> str:
        target = ["make", "--dry-run", "-s", "-C", str(checkout), "compare", f"READY={sys.executable}"]
        shown: Any = subprocess.run([*target, *variables], check=True, capture_output=True, text=True)
        return shown.stdout.strip().splitlines()[-1]

    assert asked() == "foundry compare"
    assert asked("REVS=main now") == "foundry compare main now"
    assert asked("REV=main") == "foundry compare main"


def test_the_page_uses_options_that_there_are_and_its_job_is_yaml(checkout):
    page = (checkout / "docs/comparing.md").read_text()
    options = {name for parameter in foundry.get_command(None, "compare").params for name in parameter.opts}

    (job,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)

    used = {name for line in re.findall(r"foundry compare .*", page) for name in re.findall(r"--\w+", line)}
    assert {"--markdown", "--html"} <= used <= options
    steps = YAML(typ="safe").load(job)["jobs"]["compare"]["steps"]
    assert not any("${{" in step.get("run", "") for step in steps)  # what a branch is called never becomes a script
