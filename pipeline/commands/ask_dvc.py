"""Asking DVC: run one of its commands and read the JSON it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from pipeline.errors import FoundryError


def ask(*arguments: str) -> str:
    """Run `dvc` with these arguments and return what it prints.

    Raises:
        FoundryError: DVC failed; the message is what it said.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        message = "; ".join(said) or done.stderr.strip() or f"it ended with {done.returncode}"
        raise FoundryError(f"dvc: {message}", hint=f"`dvc {' '.join(arguments)} --verbose` shows more")
    return done.stdout


def ask_json(*arguments: str) -> Any:
    """Run `dvc` with these arguments and `--json`, and return the value it prints."""
    printed = ask(*arguments, "--json")
    return json.loads(printed) if printed.strip() else {}
