"""`foundry schema`: the kinds, their schemas, and what editors and hooks are given."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from pipeline import cli
from pipeline.commands.schema import command
from pipeline.paths import SPECS
from pipeline.spec.bundle import bundle_path
from pipeline.spec.schema import kinds

pytestmark = pytest.mark.integration


def run(*arguments):
    return CliRunner().invoke(command, arguments)


def test_the_list_has_every_kind_with_what_it_is_for():
    lines = run("list").output.splitlines()

    assert [line.split()[0] for line in lines] == list(kinds())
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize("kind", kinds())
def test_a_schema_is_shown_whole(kind):
    schema = json.loads(run("show", kind).output)

    Draft202012Validator.check_schema(schema)
    assert "$ref" not in json.dumps(schema)


def test_a_kind_that_does_not_exist_is_one_clear_error(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["schema", "show", "experimnt"])

    assert ended.value.code == 1
    assert "there is no kind of document called experimnt" in capsys.readouterr().err


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in sorted(SPECS.rglob("*.yaml"))])
def test_a_shipped_document_names_the_schema_of_its_kind_for_editors(path):
    text = path.read_text(encoding="utf-8")

    [named] = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", text, re.MULTILINE)
    kind = yaml.safe_load(text).get("kind", "experiment")
    assert (path.parent / named).resolve() == bundle_path(kind).resolve()


def test_the_settings_of_the_editor_name_files_that_exist(checkout):
    settings = json.loads((checkout / ".vscode" / "settings.json").read_text(encoding="utf-8"))

    for schema, patterns in settings["yaml.schemas"].items():
        assert (checkout / schema).is_file()
        assert any(list(checkout.glob(pattern)) for pattern in patterns)


def test_the_hook_runs_a_command_that_exists_on_the_files_of_specs(checkout):
    [hook] = yaml.safe_load((checkout / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    program, name = hook["entry"].split()

    assert (program, name in cli.COMMANDS, hook["language"]) == ("foundry", True, "python")
    chosen = re.compile(hook["files"])
    files = [path.relative_to(checkout).as_posix() for path in SPECS.rglob("*.yaml")]
    assert files
    assert all(chosen.search(file) for file in files)
    assert not any(map(chosen.search, ("dvc.yaml", "docs/specs.md", "tests/x.yaml", "myspecs/a.yaml")))
    done = CliRunner().invoke(cli.foundry, [name, *(str(checkout / Path(file)) for file in files)])
    assert done.exit_code == 0, done.output
