"""`foundry set`, `fmt`, `diff`, `why` and `lock` as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline.cli import foundry
from pipeline.errors import FoundryError
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration

SPEC = """\
schema_version: 1
name: small # the name
dataset:
  source: {kind: files, paths: [corpus]}

training:
  learning_rate: 1e-3 # as before
  epochs: 3
export:
  formats: [onnx, pytorch]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with a spec in it, where commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "specs/experiment.yaml").write_text(SPEC)
    (tmp_path / "a.yaml").write_text(SPEC)
    return tmp_path


def run(*arguments, stdin=None):
    """What a command prints."""
    done = CliRunner().invoke(foundry, arguments, input=stdin, catch_exceptions=False)
    return done.output


def refused(*arguments):
    """What a command says when it refuses."""
    with pytest.raises(FoundryError) as caught:
        CliRunner().invoke(foundry, arguments, catch_exceptions=False)
    return f"{caught.value}\n{caught.value.hint}"


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments], check=True, capture_output=True)


# set


def test_set_shows_what_changes_what_that_changes_and_what_runs_again(project):
    shown = run(
        "set", "a.yaml", "training.learning_rate=2e-3", "export.formats=[onnx]", "logging.console_level=warning"
    )

    assert (
        shown
        == """\
a.yaml: written
changes the result:
  training
    learning_rate: 1e-3 → 2e-3
changes only output:
  export
    formats
      - pytorch
changes nothing:
  logging
    console_level: info → warning
changes the result: training starts afresh (training.learning_rate)
stages that run again: train, validate, export
"""
    )
    expected = SPEC.replace("1e-3", "2e-3").replace(", pytorch]", "]")
    assert (project / "a.yaml").read_text() == expected.replace(
        "export:", "\nlogging:\n  console_level: warning\nexport:"
    )


def test_a_dry_run_writes_nothing(project):
    shown = run("set", "--dry-run", "a.yaml", "training.epochs=4")

    assert "nothing written" in shown
    assert "epochs: 3 → 4" in shown
    assert (project / "a.yaml").read_text() == SPEC


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epochs=0", "`training.epochs` must be at least 1"),
        ("training.epochs=four", "must be a whole number"),
        ("model.num_heads=5", "does not divide"),
        ("dataset.source.url=https://x", "is a key of kind `url`"),
        ("training.epoch=4", "did you mean `training.epochs`"),
    ],
)
def test_set_refuses_what_the_checker_refuses_and_leaves_the_file(project, assignment, message):
    said = refused("set", "a.yaml", "training.learning_rate=2e-3", assignment)

    assert message in said
    assert (project / "a.yaml").read_text() == SPEC
    assert [path.name for path in project.iterdir() if path.name.startswith(".")] == []


def test_set_mends_a_wrong_file(project):
    (project / "a.yaml").write_text(SPEC.replace("epochs: 3", "epochs: 0"))

    assert "it was wrong before and is right now" in run("set", "a.yaml", "training.epochs=3")
    assert (project / "a.yaml").read_text() == SPEC


def test_set_says_when_only_the_spelling_changes(project):
    assert "it says the same as before" in run("set", "a.yaml", "training.learning_rate=0.001")
    assert "0.001 # as before" in (project / "a.yaml").read_text()


def test_set_keeps_a_byte_order_mark(project):
    (project / "a.yaml").write_bytes(b"\xef\xbb\xbf" + SPEC.encode())

    run("set", "a.yaml", "training.epochs=4")

    assert (project / "a.yaml").read_bytes() == b"\xef\xbb\xbf" + SPEC.replace("epochs: 3", "epochs: 4").encode()


def test_set_shows_new_warnings_only(project):
    once = run("set", "a.yaml", "training.learning_rate=0.5")
    again = run("set", "a.yaml", "training.epochs=4")

    assert "warning[W0101]" in once
    assert "warning[W0101]" not in again


# fmt


def test_fmt_writes_the_layout_once(project):
    assert run("fmt", "a.yaml") == "a.yaml: formatted\n"
    assert run("fmt", "a.yaml") == "nothing to format\n"
    assert "learning_rate: 0.001 # as before" in (project / "a.yaml").read_text()


def test_fmt_check_shows_the_difference_and_writes_nothing(project):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "fmt", "--check", "specs"],
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
    )

    assert done.returncode == 1
    assert "-  learning_rate: 1e-3 # as before\n+  learning_rate: 0.001 # as before\n" in done.stdout
    assert "1 file not formatted" in done.stderr
    assert (project / "specs/experiment.yaml").read_text() == SPEC


def test_fmt_writes_no_file_when_one_of_them_is_wrong(project):
    (project / "specs/other.yaml").write_text(SPEC.replace("epochs: 3", "epochs: 0"))

    assert "E0303" in refused("fmt", "specs")
    assert (project / "specs/experiment.yaml").read_text() == SPEC


def test_fmt_check_names_line_ends_that_no_line_shows(project):
    run("fmt", "a.yaml")
    (project / "a.yaml").write_bytes((project / "a.yaml").read_bytes().replace(b"\n", b"\r\n"))

    done = CliRunner().invoke(foundry, ["fmt", "--check", "a.yaml"])

    assert "other line ends" in done.output
    assert done.exit_code == 1


def test_the_shipped_experiment_is_formatted(checkout):
    assert run("fmt", "--check", str(checkout / "specs/experiment.yaml")) == "nothing to format\n"


# diff


def test_specs_that_say_the_same_do_not_differ(project):
    run("fmt", "a.yaml")

    assert run("diff", "a.yaml", "specs/experiment.yaml") == "a.yaml and specs/experiment.yaml say the same\n"


@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        ("logging.console_level=warning", "safe: a run under way goes on with it\nno stage runs again"),
        ("export.opset=19", "safe: a run under way goes on with it\nstages that run again: export"),
        ("training.epochs=5", "changes the result: training starts afresh (training.epochs)"),
        ("tokenizer.vocab_size=500", "impossible: another text, vocabulary or architecture"),
        ("model.d_model=96", "impossible: another text, vocabulary or architecture"),
    ],
)
def test_diff_says_what_a_change_means_for_a_run(project, setting, verdict):
    run("set", "a.yaml", setting)

    assert verdict in run("diff", "specs/experiment.yaml", "a.yaml")


def test_diff_reads_files_revisions_and_standard_input(project):
    git("init", "-q")
    git("add", "specs")
    git("commit", "-qm", "first")
    run("set", "specs/experiment.yaml", "training.epochs=4")
    git("commit", "-qam", "second")

    changed = "    epochs: 3 → 4\n"
    assert changed in run("diff", "HEAD~1", "HEAD")
    assert changed in run("diff", "HEAD~1:specs/experiment.yaml", "specs/experiment.yaml")
    assert changed in run("diff", "a.yaml", "-", stdin=(project / "specs/experiment.yaml").read_text())
    assert "say the same" in run("diff", "HEAD~1", "a.yaml")


def test_a_revision_means_the_spec_of_the_folder_one_is_in(project, monkeypatch):
    inner = project / "inner"
    (inner / "specs").mkdir(parents=True)
    (inner / "specs/experiment.yaml").write_text(SPEC.replace("epochs: 3", "epochs: 7"))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")

    monkeypatch.chdir(inner)

    assert "epochs: 3 → 7" in run("diff", "../a.yaml", "HEAD")


def test_diff_reads_the_run_of_a_report(checkout, monkeypatch):
    monkeypatch.chdir(checkout)

    report = json.loads(run("diff", "--json", "reports/training_metrics.json", "HEAD:reports/training_metrics.json"))

    assert report["differences"] == []


def test_diff_finds_a_run_by_its_id_here_and_in_the_history(project):
    report = project / "reports/training_metrics.json"
    report.parent.mkdir()
    git("init", "-q")
    configuration = load_spec(project / "specs/experiment.yaml").to_dict()
    for run_id, rate in (("0a1b2c3d-0000-4000-8000-000000000001", 0.5), ("0a1b2c3d-0000-4000-8000-000000000002", 0.25)):
        configuration["training"]["learning_rate"] = rate
        report.write_text(json.dumps({"run_id": run_id, "configuration": configuration}))
        git("add", "reports")
        git("commit", "-qm", run_id)

    old = run("diff", "0a1b2c3d-0000-4000-8000-000000000001", "specs/experiment.yaml")
    both = run("diff", "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-")  # the newest that begins so

    assert "learning_rate: 0.5 →" in old
    assert "learning_rate: 0.5 → 0.25" in both
    assert "no report is of the run ffffffff-" in refused("diff", "ffffffff-", "specs/experiment.yaml")


def test_diff_reads_presets(project):
    assert "batch_size: 4 → 8" in run("diff", "baseline", "production")


def test_diff_as_json_says_all_of_it(project):
    run("set", "a.yaml", "dataset.source={kind: url, url: 'https://x/y'}", "export.formats=[onnx]")

    report = json.loads(run("diff", "--json", "specs/experiment.yaml", "a.yaml"))

    found = {each["path"]: each for each in report["differences"]}
    assert found["dataset.source.url"]["new"] == "https://x/y"
    assert "old" not in found["dataset.source.url"]
    assert found["export.formats"] == {
        "path": "export.formats",
        "effect": "output",
        "stages": ["export"],
        "old": ["onnx", "pytorch"],
        "new": ["onnx"],
    }
    assert report["change"]["verdict"] == "impossible"
    assert report["stages"] == ["corpus", "tokenizer", "train", "validate", "export"]
    assert report["old"]["hash"] != report["new"]["hash"]


def test_the_exit_code_of_diff_tells_a_difference_only_when_asked(project):
    run("set", "a.yaml", "training.epochs=4")

    codes = [
        CliRunner().invoke(foundry, ["diff", *options, "specs/experiment.yaml", other]).exit_code
        for options in ([], ["--exit-code"])
        for other in ("a.yaml", "specs/experiment.yaml")
    ]

    assert codes == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.yaml", "nothing"), "no file here, no preset and no git revision"),
        (("a.yaml", "basline"), "did you mean baseline"),
        (("a.yaml", "b.yaml"), "did you mean a.yaml"),
        (("a.yaml", "specs"), "this is a folder"),
        (("-", "-"), "both sides are standard input"),
        (("HEAD:nothing", "a.yaml"), "git does not have"),
        (("--output=x:y", "a.yaml"), "no git revision"),
    ],
)
def test_diff_names_what_it_cannot_read(project, names, message):
    git("init", "-q")
    git("add", "specs")
    git("commit", "-qm", "first")

    assert message in refused("diff", "--", *names)


def test_documents_of_two_kinds_cannot_be_compared(project, checkout):
    sweep = next((checkout / "tests/cases/sweep/valid").glob("*.yaml"))

    assert "of kind experiment" in refused("diff", "a.yaml", str(sweep))


# why


def test_why_tells_everything_about_a_setting(project):
    shown = run("why", "a.yaml", "training.learning_rate")

    assert shown.startswith("training.learning_rate: 0.001\n  written   1e-3\n  from      a.yaml:7:18\n")
    for part in ("a number above 0", "reached after warmup", "changes   the result", "read by   train", "W0101"):
        assert part in shown


def test_why_names_defaults_aliases_and_what_makes_a_setting_idle(project):
    (project / "a.yaml").write_text(
        f"{SPEC}model: {{num_heads: &n 4, num_layers: *n}}\nscheduler: {{decay_ratio: 0.3}}\n"
    )

    assert "from      default of the schema" in run("why", "a.yaml", "training.batch_size")
    assert "from      a.yaml:11:20, repeated by an alias at a.yaml:11:26" in run("why", "a.yaml", "model.num_layers")
    assert "idle      scheduler_type is not wsd" in run("why", "a.yaml", "scheduler.decay_ratio")
    assert "from      preset baseline:" in run("why", "baseline", "training.batch_size")
    assert "filled in where the preset says nothing" in run("why", "baseline", "dataset.source.package")


def test_why_without_a_path_lists_every_setting(project):
    from pipeline.spec import load_spec

    lines = run("why", "a.yaml").splitlines()

    assert [line.split()[0] for line in lines] == load_spec("a.yaml").leaves()
    assert lines[2].endswith("  a.yaml:2:7")


def test_why_of_a_section_lists_its_settings(project):
    lines = run("why", "a.yaml", "dataset.source").splitlines()

    assert [line.split()[0] for line in lines][:2] == ["dataset.source.kind", "dataset.source.paths"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("training.lr", "did you mean `training.learning_rate`"),
        ("trainig", "did you mean `training`"),
        ("dataset.source.url", "only kind url takes it"),
        ("training..x", "not the path of a setting"),
    ],
)
def test_why_answers_an_unknown_path_with_the_nearest(project, path, message):
    assert message in refused("why", "a.yaml", path)


# lock


def test_a_lock_holds_until_a_setting_that_shapes_the_result_changes(project):
    run("lock", "a.yaml", "-o", "a.lock.json")
    run("set", "a.yaml", "name=other", "export.opset=19")
    assert "holds" in run("lock", "a.yaml", "--check", "a.lock.json")

    run("set", "a.yaml", "training.epochs=4")

    assert "training.epochs 3 → 4" in refused("lock", "a.yaml", "--check", "a.lock.json")


def test_a_lock_is_printed(project):
    content = json.loads(run("lock"))

    assert content["settings"]["training.learning_rate"] == 0.001
    assert len(content["hash"]) == 64


def test_a_lock_that_is_not_there_is_named(project):
    assert "none.lock.json: the file is missing" in refused("lock", "--check", "none.lock.json")
