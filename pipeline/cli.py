"""The `foundry` command: a group whose commands are imported only when they are named."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from pipeline import __version__, console
from pipeline.errors import ExitCode, FoundryError

# Each is a module in pipeline.commands (`_` for `-`) with a Click command called `command`; this is the order of
# `--help`, and what it says, so that listing them imports none.
COMMANDS = {
    "new": "Write a complete, commented spec from a preset or template.",
    "presets": "List presets and templates, or show one.",
    "check": "Check specs and show everything that is wrong with them.",
    "explain": "Explain a code that `foundry check` shows.",
    "schema": "Show what can stand in each kind of document.",
    "plan": "Predict what a spec will cost: parameters, steps, memory, disk, time.",
    "set": "Set values of a spec, keeping its comments.",
    "fmt": "Put specs into the one layout.",
    "diff": "Show how two specs differ and what that changes.",
    "why": "Explain a setting: its value, origin, meaning and effect.",
    "lock": "Print the settings that shape the result, and their hash.",
    "migrate": "Carry documents of earlier versions and systems over to today's schemas.",
    "run": "Build what the spec describes.",
    "generate": "Continue a text with the trained model.",
    "classify": "Say which class or labels a text or a picture has.",
    "tiers": "Examine a trained model, tier by tier.",
    "health": "Check an export again.",
    "compare": "Compare settings and results: commits, experiments, runs, this folder.",
    "runs": "List, show and compare the runs that are recorded.",
    "diff-runs": "Find where two trainings part, and why.",
    "ledger": "Check the ledger of a training.",
    "sweep": "Run an experiment with many values of some settings, and find the best.",
    "plots": "Draw the curves of a run into one HTML page.",
    "env": "Show what runs are executed with, and compare it.",
    "doctor": "Check everything that a run needs.",
    "models": "Register models, and say which one is in use.",
    "bundle": "Pack a run into one file, check one, repeat one.",
    "checkpoints": "Plan, list, verify and prune the checkpoints of training runs.",
    "prove-resume": "Kill a training run again and again and compare how it ends.",
}
_PIPE_CLOSED = 141  # 128 + SIGPIPE, what shells report for a writer whose reader has gone


class _Commands(click.Group):
    """Finds commands by name, so that one command's imports do not slow another."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pipeline.commands.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (`head`, a pager) has what it wanted. What is still buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_PIPE_CLOSED)
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def foundry() -> None:
    """Turn one versioned spec into a trained, validated and exported small model.

    Commands work on the project in the current folder: specs/experiment.yaml says what to build, `foundry run`
    builds it. Exit codes are listed in docs/exit-codes.md.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process as the exit code table says."""
    try:
        code = foundry.main(arguments, prog_name="foundry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.PREREQUISITES)  # not Click's own 2, which here means that the corpus stage failed
    except (click.Abort, KeyboardInterrupt):
        console.say("stopped by Ctrl-C")
        sys.exit(ExitCode.INTERRUPTED)
    except FoundryError as error:
        console.show_error(error)
        sys.exit(error.exit_code)
    sys.exit(code)
