"""Trains a small model in one process and in two, kills ranks, changes their number, and compares the weights.

    python tests/reliability/ranks.py

Works in clones of the checkout, through `foundry run`; prints the table of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from safetensors.torch import load_file

from pipeline.files import sha256_file
from pipeline.spec import load_spec

SPEC = """\
schema_version: 1
name: ranks
dataset: {{source: {{kind: files, paths: [text.txt]}}, split_method: contiguous}}
tokenizer: {{vocab_size: 300}}
task: {{task_type: lm}}
model: {{d_model: 64, num_layers: 2, num_heads: 2, d_ff: 160, max_seq_len: 64}}
training: {{epochs: 2, batch_size: {rows}, gradient_accumulation_steps: 2}}
hardware: {{precision: 32-true, compile_mode: null, num_threads: 1, strategy: {strategy}, devices: {devices}}}
checkpointing: {{save_every_n_steps: 10, save_every_n_epochs: null, keep_best_only: false}}
logging: {{log_every_n_steps: 1, sample_prompts: ["the"], sample_max_new_tokens: 5, sample_temperature: 0.7}}
validation: {{budgets: {{val_loss: null}}}}
export: {{formats: [pytorch]}}
"""
_WORDS = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905
_WAIT_SECONDS = 600  # for a step to come; starting two processes on a busy machine takes a while


@dataclass
class Row:
    """One line of the table."""

    what: str
    ended: list[int]  # exit codes, in order
    sha256: str
    apart: float  # from the run that it is compared with
    like: str


class Project:
    """A clone with a spec of its own."""

    def __init__(self, checkout: Path, folder: Path, *, strategy: str, devices: int, rows: int) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", str(checkout), str(folder)], check=True)
        draw = random.Random(1)
        text = "\n".join(" ".join(draw.choices(_WORDS, k=8)) for _ in range(3000))
        (folder / "text.txt").write_text(text)
        spec = folder / "specs/experiment.yaml"
        spec.write_text(SPEC.format(strategy=strategy, devices=devices, rows=rows))
        spec.write_text(json.dumps(load_spec(spec).to_dict()))  # complete, as DVC wants it; JSON is YAML
        self.ended: list[int] = []

    def run(self, *, torchrun: int | None = None) -> subprocess.Popen[bytes]:
        """Start `foundry run`, or the train stage by torchrun."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(torchrun)]
        what = [*launcher, "-m", "pipeline.stages.train"] if torchrun else ["-m", "pipeline", "run"]
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            return subprocess.Popen([sys.executable, *what], cwd=self.folder, stdout=log, stderr=log)

    def finish(self) -> None:
        """Run to the end."""
        code = self.run().wait()
        self.ended.append(code)
        if code:
            raise SystemExit(f"foundry run ended with {code}: see {self.folder}.log")

    def stop_one(self, number: int, *, after: int, torchrun: int | None = None) -> None:
        """Start, wait for a step, and send a signal to the last rank."""
        process = self.run(torchrun=torchrun)
        deadline = time.monotonic() + _WAIT_SECONDS
        while self.step() < after:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"step {after} was never reached: see {self.folder}.log")
            time.sleep(0.01)
        ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "RANK" in child.environ()]
        max(ranks, key=lambda rank: int(rank.environ()["RANK"])).send_signal(number)
        self.ended.append(process.wait())

    def step(self) -> int:
        """The last step that the run has recorded."""
        for record in self.folder.glob(".work/runs/*/record.jsonl"):
            whole = [line for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]
            return int(json.loads(whole[-1])["step"]) if whole else 0
        return 0

    def row(self, what: str, other: Project, like: str) -> Row:
        """What came out, beside another run."""
        mine, theirs = (load_file(project.folder / "artifacts/model/final.safetensors") for project in (self, other))
        apart = max((mine[name] - theirs[name]).abs().max().item() for name in mine)
        return Row(what, self.ended, sha256_file(self.folder / "artifacts/model/final.safetensors"), apart, like)


def prove(checkout: Path, scratch: Path) -> list[Row]:
    """Run everything; see the top of the file."""

    def make(name: str, strategy: str, devices: int = 2, rows: int = 4) -> Project:
        return Project(checkout, scratch / name, strategy=strategy, devices=devices, rows=rows)

    one = make("one", "auto", 1, 8)
    one.finish()
    rows = [one.row("one process, 8 rows", one, "itself")]
    for strategy in ("ddp", "fsdp"):
        straight, killed, elastic = (make(f"{strategy}-{name}", strategy) for name in ("left", "killed", "elastic"))
        straight.finish()
        rows.append(straight.row(f"{strategy}, 2 ranks of 4 rows", one, "one process"))

        killed.stop_one(signal.SIGKILL, after=25)
        killed.stop_one(signal.SIGTERM, after=45)
        killed.finish()
        alone = f"{strategy} left alone"
        rows.append(killed.row(f"{strategy}, a rank killed at step 25, another stopped at 45", straight, alone))

        elastic.stop_one(signal.SIGTERM, after=25)
        elastic.stop_one(signal.SIGTERM, after=55, torchrun=1)
        elastic.finish()
        rows.append(elastic.row(f"{strategy}, 2 ranks, then 1, then 2", straight, alone))
    return rows


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| run | ended with | SHA-256 of the last weights | largest difference |", "|---|---|---|---|"]
    for row in rows:
        codes = ", then ".join(map(str, row.ended))
        difference = "0" if row.apart == 0 else f"{row.apart:.1e}"
        lines.append(f"| {row.what} | {codes} | `{row.sha256[:16]}…` | {difference} from {row.like} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run the proof, print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path(), help="a git checkout of a project (default: here)")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    chosen = parser.parse_args()
    scratch = chosen.keep or Path(tempfile.mkdtemp())
    scratch.mkdir(parents=True, exist_ok=True)
    rows = prove(chosen.project.resolve(), scratch.resolve())
    print(table(rows))
    if chosen.keep is None:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
