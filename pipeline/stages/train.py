"""The train stage: trains the model of the spec, going on where an interrupted run of the same spec stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipeline import ranks
from pipeline.paths import DEFAULT_SPEC, work_dir
from pipeline.stages.door import StageCommand, stage
from pipeline.stages.launch import arrangement_of, launch


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=DEFAULT_SPEC, show_default=True)
@click.option("--keep-run", is_flag=True, help="Leave the checkpoints, and one of the last step: for proofs.")
@click.option(
    "--exact", is_flag=True, envvar="FOUNDRY_EXACT", help="Refuse to go on with a run that executed otherwise."
)
def main(spec_path: Path, keep_run: bool, exact: bool) -> None:
    """Train the model of a spec on the encoded corpus."""
    with stage("train", spec_path) as spec:
        # Beside the checkpoints, so that a resumed run finds its compiled kernels.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((work_dir() / "compiled").resolve()))
        if not ranks.is_rank() and (arrangement := arrangement_of(spec)).strategy != "single":
            launch(arrangement, sys.argv[1:], num_nodes=spec.hardware.num_nodes)
            return
        from pipeline.stages.train_run import build  # imports torch, which reads the above

        build(spec, keep_run=keep_run, exact=exact)


if __name__ == "__main__":
    main()
