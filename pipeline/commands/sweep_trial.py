"""The process that builds the project of a trial: `python -m pipeline.commands.sweep_trial REQUEST`.

REQUEST is JSON: `folder` of the project, `last` stage to build, and, for a trial, `run`, `sweep_id` and `values`, under
which it is recorded. The current folder is the project that the sweep belongs to. A process of its own, because what
`foundry run` does belongs to the current folder and to the signals of one process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.commands.run import locked, outcomes, plan, supervise
from pipeline.errors import ExitCode, FoundryError
from pipeline.paths import STAGES
from pipeline.records.recording import recorded
from pipeline.stages.door import die_with_parent


def build(
    folder: str,
    last: str,
    run: str | None = None,
    sweep_id: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Build a project up to a stage.

    Args:
        folder: of the project.
        last: the stage.
        run: the identity of the run; None: it is not recorded.
        sweep_id: the sweep that it is a trial of.
        values: dotted setting → value that the sweep chose.

    Raises:
        FoundryError: a stage failed, or the run was stopped.
    """
    with contextlib.chdir(folder):
        before = locked()

    def became(_: ExitCode) -> list[dict[str, Any]]:
        with contextlib.chdir(folder):
            return outcomes(run or "", before)[: STAGES.index(last) + 1]

    record = (
        contextlib.nullcontext()
        if run is None
        else recorded(run, became, origin="foundry sweep", project=Path(folder), sweep_id=sweep_id, sweep_params=values)
    )
    with record, contextlib.chdir(folder):
        supervise(plan(None, last), run=run or uuid.uuid4().hex)


def main() -> None:
    """Build what the command line asks for, and end as `foundry run` does."""
    die_with_parent()
    try:
        build(**json.loads(sys.argv[1]))
    except FoundryError as error:
        console.show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
