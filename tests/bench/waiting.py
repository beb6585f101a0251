"""Measures how long threads should spin before they sleep: tokens a second of training, alone and beside other work.

python tests/bench/waiting.py                              to the screen
python tests/bench/waiting.py --write docs/performance.md  and put the table into the document
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bench_report
import click
from bench_parts import random_tokens
from bench_process import Child
from run import settings_of

from pipeline import console, paths
from pipeline.spec import load_spec
from pipeline.stages import WAITING

# Way of waiting → what the environment of a training says of it.
WAYS: Mapping[str, Mapping[str, str]] = {
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"{count:,} turns": {**WAITING, "GOMP_SPINCOUNT": str(count)} for count in (1_000, 2_000, 4_000, 10_000)},
    "as PyTorch by itself": {},
}
# Neither is compiled. Operations of the small one take a fifth as long, so that threads meet five times as often.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "the shipped model": {},
    "a small model": {"d_model": 128, "num_heads": 4, "num_kv_heads": None, "max_seq_len": 128, "vocab_size": 65},
}
COMPANY = (0, 1)  # processes beside the training that never rest
_NEVER_RESTS = "while True: sum(range(10_000))"

Row = dict[str, float]  # way of waiting → tokens a second


def measure(model: str, *, company: int, rounds: int, seconds: float, quick: bool = False) -> Row:
    """Tokens a second with each way of waiting, in turns: the median over the rounds."""
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch, ExitStack() as stack:
        settings = settings_of(load_spec(paths.SPECS / "experiment.yaml"), Path(scratch), quick=quick)
        shape = settings["model"] | MODELS[model]
        tokens = Path(scratch) / "small.bin"
        random_tokens(tokens, count=200_000, vocab_size=shape["vocab_size"], dtype="uint16")
        settings |= {"model": shape, "tokens": str(tokens), "dtype": "uint16", "precision": "32-true", "compile": None}
        trainings = {}
        for way, environment in WAYS.items():
            trainings[way] = stack.enter_context(Child("bench_contenders:foundry", settings, dict(environment)))
            trainings[way].answer()
        for _ in range(company):
            stack.enter_context(_busy())
        figures: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, training in trainings.items():
                figures[way].append(training.ask({"seconds": seconds})["tokens_per_second"])
    return {way: statistics.median(each) for way, each in figures.items()}


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _NEVER_RESTS])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def table_of(rows: Mapping[tuple[str, int], Row]) -> str:
    """The figures in Markdown; those beside the first way as ratios to it."""
    body = []
    for (model, company), row in rows.items():
        first, *others = row.values()
        beside = "alone" if not company else f"beside {company} that never rests"
        body.append((f"{model}, {beside}", f"{first:,.0f}", *(f"{figure / first:.2f}" for figure in others)))
    first, *others = WAYS
    return bench_report.table(("Tokens/s", first, *others), body, right=range(1, len(WAYS) + 1))


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--write", "document", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--seconds", type=float, default=4.0, show_default=True, help="Of each way in each round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(document: Path | None, seconds: float, rounds: int) -> None:
    """Run the command."""
    load, rows = os.getloadavg()[0], {}
    for model in MODELS:
        for company in COMPANY:
            console.say(f"training {model} beside {company} other processes")
            rows[model, company] = measure(model, company=company, rounds=rounds, seconds=seconds)
    bench_report.publish(table_of(rows), "waiting", document, load=load)


if __name__ == "__main__":
    main()
