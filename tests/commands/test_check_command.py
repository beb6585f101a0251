"""`foundry check`: what it looks at, what it says in each format, and what it ends with."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from jsonschema import Draft4Validator, Draft202012Validator

from pipeline.commands.check import command
from pipeline.paths import SCHEMAS

pytestmark = pytest.mark.integration
GOOD = "schema_version: 1\nname: good\ndataset: {source: {kind: files, paths: [corpus]}}\n"
BAD = f"{GOOD}training: {{lr: 1, batch_size: 0}}\n"
ODD = f"{GOOD}model: {{dropout: 0.6}}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with three specs, two foreign files and a hidden one."""
    monkeypatch.chdir(tmp_path)
    files = {
        "specs/a-good.yaml": GOOD,
        "specs/b-bad.yml": BAD,
        "specs/deep/c-odd.json": json.dumps({"schema_version": 1, "name": "c", "model": {"dropout": 0.6},
                                             "dataset": {"source": {"kind": "files", "paths": ["x"]}}}),
        "specs/dvc.yaml": "stages: {}\n",
        "specs/schema.json": '{"$schema": "x", "properties": {"schema_version": {}}}',
        "specs/.hidden/d.yaml": "schema_version: [\n",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def check(*arguments, **options):
    return CliRunner().invoke(command, arguments, **options)


# What is asked for holds on a machine that does nothing else. Time of the processor grows beside other work too, but
# far less than time on the wall.
BESIDE_OTHER_WORK = 2


def processor_seconds(*arguments, folder):
    """What a Python process with these arguments takes of the processor, and what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def codes(output):
    return re.findall(r"\[([EW]\d{4})\]", output)


def test_a_folder_is_searched_for_documents_of_ours(project):
    done = check("specs")

    assert done.exit_code == 1
    assert done.stdout == "3 files: 1 ok, 2 with 2 errors and 1 warning\n"
    assert codes(done.stderr) == ["E0201", "E0303", "W0101"]


def test_a_pipe_in_a_folder_keeps_nobody_waiting(project):
    os.mkfifo(project / "specs/pipe.yaml")

    assert check("specs").stdout.startswith("3 files")


def test_what_is_skipped_is_said_when_asked(project):
    done = check("-v", "specs")

    assert "specs/dvc.yaml: skipped, it names no `schema_version`" in done.stderr
    assert "specs/schema.json: skipped" in done.stderr
    assert "hidden" not in done.output
    assert "specs/a-good.yaml: ok (good)" in done.stdout


def test_a_broken_file_in_a_folder_is_still_ours(project):
    (project / "specs" / "broken.json").write_text('{"schema_version": 1,')
    (project / "specs" / "broken.yaml").write_text("schema_version: 1\nname: [\n")

    assert codes(check("specs").stderr).count("E0104") == 2


def test_a_folder_with_nothing_to_check_is_not_called_right(project):
    (project / "empty").mkdir()

    done = check("empty")

    assert (done.exit_code, codes(done.stderr)) == (1, ["E0101"])


@pytest.mark.parametrize(
    ("text", "options", "code"), [(GOOD, [], 0), (ODD, [], 0), (ODD, ["--warnings-as-errors"], 1), (BAD, [], 1)]
)
def test_standard_input_is_checked_like_a_file(text, options, code):
    done = check("-", *options, input=text)

    assert done.exit_code == code
    assert done.stdout.startswith("<stdin>: ")


def test_a_shipped_preset_is_found_by_its_name(project):
    done = check("baseline")

    assert done.exit_code == 0
    assert done.stdout.endswith("baseline.yaml: ok (baseline)\n")


def test_a_slip_of_a_preset_is_answered_with_its_name(project):
    done = check("baselin")

    assert done.exit_code == 1
    assert "help: did you mean baseline?" in done.stderr


def test_a_file_that_is_missing_does_not_keep_others_from_being_checked(project):
    done = check("nothing.yaml", "specs/b-bad.yml", "specs/a-good.yaml")

    assert codes(done.stderr) == ["E0101", "E0201", "E0303"]
    assert done.stdout == "3 files: 1 ok, 2 with 3 errors\n"


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (["a-good.yaml"], "specs/a-good.yaml: ok (good)"),
        (["b-bad.yml"], "specs/b-bad.yml: 2 errors"),
        (["deep/c-odd.json"], "specs/deep/c-odd.json: 1 warning"),
        (["a-good.yaml", "a-good.yaml"], "2 files: 2 ok"),
        (["b-bad.yml", "deep/c-odd.json"], "2 files: 2 with 2 errors and 1 warning"),
    ],
)
def test_the_last_line_counts(project, files, line):
    assert check(*(f"specs/{name}" for name in files)).stdout.splitlines()[-1] == line


def test_json_is_what_its_schema_says_and_holds_every_problem(project):
    done = check("--format", "json", "specs", "nothing.yaml")

    report = json.loads(done.stdout)
    Draft202012Validator(json.loads((SCHEMAS / "v1/artefact/check_report.json").read_text())).validate(report)
    assert done.exit_code == 1
    assert report["summary"] == {"files": 4, "ok": 1, "errors": 3, "warnings": 1}
    problem = report["files"][1]["problems"][0]
    assert (problem["code"], problem["line"], problem["column"], problem["length"]) == ("E0201", 4, 12, 2)
    assert problem["hint"] == "did you mean `learning_rate`?"


def test_sarif_is_what_the_schema_of_version_2_1_0_says(project):
    schema = json.loads((Path(__file__).parent / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    Draft4Validator.check_schema(schema)
    (project / "specs" / "b-bad.yml").rename(project / "specs" / "b ä.yml")

    log = json.loads(check("--format", "sarif", "specs").stdout)

    Draft4Validator(schema).validate(log)
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert (log["version"], run["tool"]["driver"]["name"]) == ("2.1.0", "foundry check")
    assert len(run["results"]) == 3
    for result in run["results"]:
        [place] = result["locations"]
        region = place["physicalLocation"]["region"]
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        assert region["startLine"] >= 1
        assert region["endColumn"] > region["startColumn"] >= 1
    uri = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.isascii()
    assert unquote(uri) == "specs/b ä.yml"


def test_sarif_without_problems_has_an_empty_list_of_results(project):
    [run] = json.loads(check("--format", "sarif", "specs/a-good.yaml").stdout)["runs"]

    assert run["results"] == []


def test_workflow_commands_stand_on_one_line_each_with_their_signs_escaped(project):
    (project / "specs" / "50%, a:b.yaml").write_text(f'{GOOD}"x\\ny,%": 1\n')

    done = check("--format", "github", "specs/50%, a:b.yaml")

    [line] = done.stdout.splitlines()
    properties, _, message = line.removeprefix("::error ").partition("::")
    assert properties.split(",")[0] == "file=specs/50%25%2C a%3Ab.yaml"
    assert "line=4,col=1,endColumn=9" in properties
    assert "%25" in message
    assert "::" not in message


def test_a_report_that_was_changed_is_an_error_that_names_the_command_that_makes_it(project, checkout):
    (project / "reports").mkdir()
    report = json.loads((checkout / "reports" / "tokenizer.json").read_text())
    (project / "reports" / "tokenizer.json").write_text(json.dumps(report | {"vocab_size": "many"}))

    done = check("reports")

    assert (done.exit_code, codes(done.stderr)) == (1, ["E0308"])
    assert "foundry run --from tokenizer" in done.stderr


def test_a_thousand_specs_take_seconds(checkout, tmp_path):
    text = (checkout / "specs" / "experiment.yaml").read_text(encoding="utf-8")
    for number in range(1000):
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")

    seconds, said = processor_seconds("-m", "pipeline", "check", str(tmp_path), folder=checkout)

    assert said == "1000 files: 1000 ok\n"
    assert seconds < 5 * BESIDE_OTHER_WORK


def test_one_spec_takes_a_moment(checkout):
    found = [processor_seconds("-m", "pipeline", "check", folder=checkout)[0] for _ in range(3)]

    assert min(found) < 0.4 * BESIDE_OTHER_WORK


def test_the_room_of_specs_is_open_at_once(checkout):
    found = [processor_seconds("-c", "import pipeline.spec", folder=checkout)[0] for _ in range(3)]

    assert min(found) < 0.15 * BESIDE_OTHER_WORK


def test_the_spec_room_comes_without_torch(checkout):
    script = "import sys, pipeline.spec; sys.exit('torch' in sys.modules or 'jsonschema' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], cwd=checkout, check=False).returncode == 0


@pytest.mark.parametrize(
    ("storage", "shown"),
    [("postgresql://me:s3:c@ret@host/sweeps", "W0212"), ("mysql://me:s3:c@ret@host/sweeps", "E0305")],
)
@pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
def test_no_format_shows_the_password_of_an_address(project, storage, shown, form):
    head = "schema_version: 1\nkind: sweep\nname: x\nmethod: grid\nspace: {training.epochs: [1]}\n"
    text = f"{head}storage: {storage}\n"
    (project / "specs" / "sweep.yaml").write_text(text)

    done = check("--format", form, "specs/sweep.yaml")

    assert shown in done.output
    assert "ret@" not in done.output
