"""The process between `foundry run` and the stages: it runs DVC's own command line and reports what DVC had to say.

`python -m pipeline.commands.repro PLAN` where PLAN is the JSON that `pipeline.commands.run` makes. A process of its own
because DVC holds locks and signal handlers for as long as it lives, and because it must die with `foundry run`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.console import say
from pipeline.files import write_artefact

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_CHUNK = 1 << 20
# What DVC says to people who drive it by hand; `foundry run` ends with a summary of its own.
_NOT_FOR_US = ("Use `dvc push`", "\nTo track", "To track", "Updating lock file", "Generating lock file", "Reproducing")


class _Errors(logging.Handler):
    """Keeps the errors that DVC logs, with their causes, instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        parts = [record.getMessage()]
        cause = record.exc_info[1] if record.exc_info else None
        while cause is not None:
            parts.append(str(cause))
            cause = cause.__cause__
        text = ": ".join(part.strip() for part in dict.fromkeys(parts) if part.strip())
        if text:
            self.messages.append(text)


def main() -> None:
    """Run every `dvc` command line of the plan until one fails, and write down how that went."""
    plan = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != plan["parent"]:
            sys.exit(1)  # `foundry run` died before the kernel was asked to tell us

    import dvc.cli

    errors = _Errors()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logger = logging.getLogger(name)
        for handler in logger.handlers:
            handler.addFilter(_is_news)
        logger.addHandler(errors)

    code = 0
    try:
        if plan["mend"]:
            mend_cache(plan["mend"])
        for arguments in plan["commands"]:
            code = dvc.cli.main(arguments)
            if code:
                break
    except KeyboardInterrupt:
        code = 252  # what DVC ends with after Ctrl-C
    outcome = {"format_version": 1, "run": plan["run"], "code": code, "errors": errors.messages}
    write_artefact(Path(plan["report"]), "dvc_outcome", outcome)
    sys.exit(1 if code else 0)


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR and not str(record.msg).startswith(_NOT_FOR_US)


def mend_cache(stages: list[str]) -> None:
    """Delete the damaged cache objects among the outputs of some stages.

    DVC trusts an object that is there: without this, a stage that makes the same content again would
    leave the damaged object in the cache, to be restored some other day.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        lock = Path(repo.root_dir) / "dvc.lock"
        if not lock.is_file():
            return
        outputs = locked_outputs(lock, stages)
        for path in damaged_objects(Path(repo.cache.local.path), outputs):
            say(f"removing a damaged object from the DVC cache: {path}")
            path.unlink()


def locked_outputs(lock: Path, stages: list[str]) -> list[str]:
    """The MD5 names (`….dir` for folders) that dvc.lock records for the outputs of some stages."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content: Any = YAML(typ="safe").load(lock)
        recorded = content["stages"]
        return [out["md5"] for stage in stages for out in recorded.get(stage, {}).get("outs", []) if "md5" in out]
    except (YAMLError, TypeError, KeyError):
        return []  # DVC itself says what is wrong with its file


def damaged_objects(cache: Path, names: list[str]) -> Iterator[Path]:
    """Find the objects, and members of folder objects, whose bytes do not have the MD5 they are filed under.

    Args:
        cache: the folder that holds two-letter folders of objects.
        names: MD5 names of objects; `.dir` ones list their members in JSON.
    """
    for name in names:
        path = object_path(cache, name)
        if not path.is_file():
            continue
        if _md5(path) != name.removesuffix(".dir"):
            yield path
        elif name.endswith(".dir"):
            members = {member["md5"] for member in json.loads(path.read_text(encoding="utf-8"))}
            yield from damaged_objects(cache, sorted(members))


def object_path(cache: Path, name: str) -> Path:
    """Where DVC keeps an object."""
    return cache / name[:2] / name[2:]


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # DVC's choice of name, not a defence
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
