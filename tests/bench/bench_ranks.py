"""Tokens per second of one process with two threads, and of two processes with one thread each: the same steps.

    python tests/bench/bench_ranks.py

Runs the train stage on made-up text, the contenders in turns, and prints medians. The model has the shape of the
default experiment, not compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SPEC = """\
schema_version: 1
name: bench
dataset: {source: {kind: files, paths: [text.txt]}, split_method: contiguous, validation_split: 0.01}
tokenizer: {vocab_size: 300}
model: {d_model: 192, num_layers: 4, num_heads: 3, d_ff: 480, max_seq_len: 256}
training: {max_steps: STEPS, batch_size: ROWS}
hardware: {precision: 32-true, compile_mode: null, num_threads: THREADS, strategy: STRATEGY, devices: DEVICES}
checkpointing: {save_every_n_steps: null, save_every_n_epochs: null}
logging: {sample_prompts: []}
"""
# name → (strategy, devices, rows of each, threads of each)
CONTENDERS = {
    "one process, two threads": ("auto", 1, 8, 2),
    "two processes, one thread each (ddp)": ("ddp", 2, 4, 1),
    "two processes, one thread each (fsdp)": ("fsdp", 2, 4, 1),
}
_WORDS = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905


def run(folder: Path, stage: str) -> None:
    """Run a stage in a folder."""
    command = [sys.executable, "-m", f"pipeline.stages.{stage}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the {stage} stage ended with {done.returncode}:\n{done.stderr}")


def ask(folder: Path, name: str, steps: int) -> None:
    """Write the spec of a contender."""
    strategy, devices, rows, threads = CONTENDERS[name]
    text = SPEC
    values = {"STEPS": steps, "ROWS": rows, "THREADS": threads, "STRATEGY": strategy, "DEVICES": devices}
    for word, value in values.items():
        text = text.replace(word, str(value))
    (folder / "specs/experiment.yaml").write_text(text)


def measure(folder: Path) -> float:
    """Tokens per second of a run."""
    run(folder, "train")
    metrics = json.loads((folder / "reports/training_metrics.json").read_text())
    return float(metrics["final_metrics"]["tokens_per_second"])


def main() -> None:
    """Read the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of a run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "specs").mkdir()
        draw = random.Random(1)
        (folder / "text.txt").write_text("\n".join(" ".join(draw.choices(_WORDS, k=8)) for _ in range(20000)))
        ask(folder, next(iter(CONTENDERS)), chosen.steps)
        run(folder, "corpus")
        run(folder, "tokenizer")
        found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(chosen.rounds):
            for name, speeds in found.items():
                ask(folder, name, chosen.steps)
                speeds.append(measure(folder))
    first = statistics.median(next(iter(found.values())))
    print("| contender | tokens/s, median (lowest to highest) | of the first |\n|---|--:|--:|")
    for name, speeds in found.items():
        median = statistics.median(speeds)
        print(f"| {name} | {median:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) | {median / first:.0%} |")


if __name__ == "__main__":
    main()
