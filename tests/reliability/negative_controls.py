"""Show that the proof of exact resume can fail: one thing is lost at a time, and each loss must be found and named.

    python tests/reliability/negative_controls.py [--write docs/reliability.md] [--only ITEM ...]

Trains a tiny model once undisturbed. Then, for each defect of `forgetful.py`, trains it with that defect, kills it
once, lets it go on, and compares as `foundry prove-resume` does. Prints a table; exits 1 if a defect was not caught by
name.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from forgetful import DEFECTS
from tables import publish, table

from pipeline.commands.proof import Ended, Proof
from pipeline.console import Progress
from pipeline.spec import Spec, load_spec

NAME = "negative controls"
# Everything that can be lost is in use: Muon beside AdamW, a running mean of the weights, dropout, a loss scale. After
# the first evaluation nothing counts as better, so that what is known of the best model must survive until the end.
SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 16, num_layers: 1, num_heads: 2, d_ff: 32, max_seq_len: 32, dropout: 0.1}
training: {epochs: 100, max_steps: 44, batch_size: 8, gradient_accumulation_steps: 2, ema_decay: 0.9,
  early_stopping_min_delta: 100}
optimizer: {optimizer_name: muon}
hardware: {num_threads: 1, precision: 16-mixed, compile_mode: null}
checkpointing: {save_every_n_epochs: null}
logging: {sample_prompts: []}
"""
SEED = 0  # kills after step 25 of 44: the checkpoint of step 22 is in the middle of the fifth epoch


def project(folder: Path) -> Path:
    """Make a project with an encoded corpus in an empty folder; its spec."""
    (folder / "specs").mkdir(parents=True)
    (folder / "specs/experiment.yaml").write_text(SPEC)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "wizards", "box"]
    draw = random.Random(1)
    (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(200)))
    for stage in ("corpus", "tokenizer"):
        subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=folder, check=True, capture_output=True)
    return folder / "specs/experiment.yaml"


def proof_with(item: str | None, spec: Spec, folder: Path) -> Proof:
    """A proof in which the train stage has a defect; None: none."""
    forgetful = (sys.executable, str(Path(__file__).with_name("forgetful.py")), item or "")
    stage = {} if item is None else {"stage": forgetful}
    return Proof(
        spec, folder / "artifacts/tokenizer", folder / "compiled", lambda label, n: Progress(label, n, "steps"), **stage
    )


def certificate_of(item: str, spec: Spec, folder: Path, straight: Ended, scratch: Path) -> dict[str, Any]:
    """The certificate of a proof in which one thing goes wrong."""
    proof = proof_with(item, spec, folder)
    killed = proof.kill_again_and_again(scratch, straight, kills=1, seed=SEED)
    assert killed.resumed, "the run that was killed went on from a checkpoint"
    return proof.certificate(straight, killed, seed=SEED, overrides={})


def unequal(certificate: dict[str, Any]) -> list[str]:
    """The items that a proof found unequal."""
    return [name for name, compared in certificate["items"].items() if not compared["equal"]]


def main() -> None:
    """Read the command line, try each defect, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document that has a place for the table")
    parser.add_argument("--only", nargs="+", choices=DEFECTS, default=list(DEFECTS), help="defects to try")
    chosen = parser.parse_args()
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        spec = load_spec(project(folder / "project"))
        straight = proof_with(None, spec, folder / "project").leave_alone(folder / "straight")
        for number, item in enumerate(chosen.only):
            found = unequal(certificate_of(item, spec, folder / "project", straight, folder / f"killed-{number}"))
            caught = DEFECTS[item].shows in found
            missed += not caught
            shows = f"{DEFECTS[item].shows} and {len(found) - 1} more" if len(found) > 1 else DEFECTS[item].shows
            rows.append((item, shows if caught else ", ".join(found) or "nothing", "yes" if caught else "**no**"))
            print(f"{item}: {rows[-1][1]}", file=sys.stderr, flush=True)
    text = table(("lost or wrong in the process that goes on", "found unequal", "caught"), rows)
    publish(NAME, text, chosen.write)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
