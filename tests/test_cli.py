"""The command line: help, usage errors, checks, interruption, closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from pipeline import cli
from pipeline.errors import ExitCode

pytestmark = pytest.mark.integration

FOUNDRY = [sys.executable, "-m", "pipeline"]


def foundry(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FOUNDRY, *arguments], capture_output=True, text=True, check=False, **options)


def commands() -> list[tuple[str, click.Command]]:
    context = click.Context(cli.foundry)
    return [(name, cli.foundry.get_command(context, name)) for name in cli.COMMANDS]


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_and_every_option_is_explained(name, command):
    assert command.help
    assert command.short_help == cli.COMMANDS[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
        else:
            assert parameter.make_metavar(click.Context(command)).strip("[].").rstrip(".") in command.help


def test_the_help_lists_every_command():
    shown = CliRunner().invoke(cli.foundry, ["--help"]).output

    for name in cli.COMMANDS:
        assert f"\n  {name} " in shown


def test_the_help_comes_fast(checkout):
    fastest = min(_seconds_of_help(checkout) for _ in range(3))

    assert fastest < 0.4


def _seconds_of_help(checkout) -> float:
    started = time.perf_counter()
    foundry("--help", cwd=checkout)
    return time.perf_counter() - started


@pytest.mark.parametrize("arguments", [["bogus"], ["run", "--bogus"], ["run", "--from", "bogus"], ["generate"]])
def test_a_wrong_command_line_ends_with_1(arguments):
    done = foundry(*arguments)

    assert done.returncode == ExitCode.PREREQUISITES
    assert "Usage: foundry" in done.stderr


def test_a_right_spec_is_called_ok(checkout):
    done = foundry("check", cwd=checkout)

    assert (done.returncode, done.stdout) == (0, "specs/experiment.yaml: ok (shakespeare-tiny)\n")


def test_a_wrong_spec_shows_every_problem_with_its_place_and_ends_with_1(checkout, tmp_path):
    text = (checkout / "specs/experiment.yaml").read_text(encoding="utf-8")
    spec = tmp_path / "wrong.yaml"
    spec.write_text(text.replace("learning_rate:", "learning_rte:").replace("batch_size: 8", "batch_size: 0"))

    done = foundry("check", str(spec), cwd=checkout)

    assert done.returncode == ExitCode.PREREQUISITES
    assert "learning_rte" in done.stderr
    assert "learning_rate" in done.stderr
    assert "batch_size" in done.stderr
    assert "wrong.yaml:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spec_that_does_not_exist_ends_with_1(tmp_path):
    done = foundry("check", "nothing.yaml", cwd=tmp_path)

    assert done.returncode == ExitCode.PREREQUISITES
    assert "nothing.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_130_and_one_line(checkout):
    # `--from` a stage name is read before anything starts, so the process is caught while it imports or checks.
    script = (
        "import os, signal, pipeline.spec.survey\n"
        "pipeline.spec.survey.check_all = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "import pipeline.cli; pipeline.cli.main(['check'])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=checkout)

    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr.strip() == "stopped by Ctrl-C"


def test_a_reader_that_goes_away_is_no_error(checkout):
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*FOUNDRY, "check"], cwd=checkout, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )

    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


def test_generating_without_a_model_says_how_to_build_one(tmp_path):
    done = foundry("generate", "Hello", cwd=tmp_path)

    assert done.returncode == ExitCode.PREREQUISITES
    assert "artifacts/model" in done.stderr
    assert "foundry run --from train" in done.stderr


def test_the_version_is_that_of_the_package():
    assert foundry("--version").stdout == "foundry 0.1.0\n"
