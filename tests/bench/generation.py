"""Measures how an exported model generates: 100 tokens by each way, in processes of their own, side by side.

python tests/bench/generation.py                    the export in artifacts/export, to the screen
python tests/bench/generation.py --write docs/formats.md

Every way has its turn in every round, so that a busy machine slows all of them. Figures are medians over rounds.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from generation_child import TOKENS, WAYS

from pipeline.paths import OUTPUT_OF
from pipeline.stages import WAITING

_CHILD = Path(__file__).with_name("generation_child.py")
_ONE_THREAD = ("runner", "runner, int8")  # what the runner does unless it is told otherwise
_STARTS = 3  # processes of each way whose start is timed
BEGIN, END = "<!-- generation: begin -->", "<!-- generation: end -->"


@dataclass
class Measured:
    """What one way took."""

    starts: list[float] = field(default_factory=list)  # s, from the start of its process to its first token
    rounds: list[list[float]] = field(default_factory=list)  # s of each token
    rss: int = 0  # KiB
    peak: int = 0

    def row(self) -> dict[str, float]:
        """Its figures in the units of the table."""
        totals = [sum(seconds) for seconds in self.rounds]
        p95 = [statistics.quantiles(seconds, n=20)[-1] for seconds in self.rounds]
        return {
            "total": 1000 * statistics.median(totals),
            "p50": 1000 * statistics.median([value for seconds in self.rounds for value in seconds]),
            "p95": 1000 * statistics.median(p95),
            "speed": TOKENS / statistics.median(totals),
            "start": statistics.median(self.starts),
            "rss": self.rss / 1000 * 1.024,  # KiB → MB
            "peak": self.peak / 1000 * 1.024,
        }


class _Child:
    def __init__(self, way: str, folder: Path, threads: int) -> None:
        started = time.perf_counter()
        command = [sys.executable, str(_CHILD), way, str(folder), str(1 if way in _ONE_THREAD else threads)]
        waiting = {**os.environ, **WAITING}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=waiting)
        self._answer()
        self.start = time.perf_counter() - started

    def round(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("a way to generate ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate()


def measure(folder: Path, *, rounds: int, threads: int, starts: int = _STARTS) -> dict[str, Measured]:
    """Way → what it took, for every way that the export has the files of."""
    found = {way: Measured() for way in WAYS if way != "runner, int8" or (folder / "model.int8.onnx").is_file()}
    for _ in range(starts):
        for way, one in found.items():
            child = _Child(way, folder, threads)
            one.starts.append(child.start)
            child.close()
    children = {way: _Child(way, folder, threads) for way in found}
    for way in found:
        children[way].round()  # warm
    for _ in range(rounds):
        for way, one in found.items():
            answer = children[way].round()
            one.rounds.append(answer["seconds"])
            one.rss, one.peak = answer["rss"], answer["peak"]
    for child in children.values():
        child.close()
    return found


def table(found: dict[str, Measured], *, threads: int, rounds: int) -> str:
    """The figures in Markdown."""
    rows = {way: one.row() for way, one in found.items()}
    slowest = rows["ONNX without cache"]["total"]
    lines = [
        (
            f"{TOKENS} greedy tokens on {platform.machine()}, {rounds} rounds, medians; the runner on one thread "
            f"unless the row says otherwise, all others on {threads}."
        ),
        "",
        (
            "| | 100 tokens, ms | p50 per token, ms | p95, ms | tokens/s | times as fast as ONNX without cache "
            "| cold start to first token, s | RSS, MB | peak, MB |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        lines.append(
            f"| {way} | {row['total']:.0f} | {row['p50']:.2f} | {row['p95']:.2f} | {row['speed']:.0f} "
            f"| {slowest / row['total']:.1f} | {row['start']:.2f} | {row['rss']:.0f} | {row['peak']:.0f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--export", "folder", type=click.Path(path_type=Path), default=OUTPUT_OF["export"], show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of the ways but the runner.")
@click.option("--write", "page", type=click.Path(path_type=Path), help="Put the table into this page.")
def main(folder: Path, rounds: int, threads: int, page: Path | None) -> None:
    """Measure how the export in FOLDER generates."""
    missing = [name for name in ("runner.py", "model.onnx", "pytorch") if not (folder / name).exists()]
    if missing:
        raise click.ClickException(f"{folder} has no {missing[0]}: export onnx, onnx_cache and pytorch first")
    text = table(measure(folder, rounds=rounds, threads=threads), threads=threads, rounds=rounds)
    if page is None:
        click.echo(text)
        return
    whole = page.read_text(encoding="utf-8")
    page.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text}\n{END}", whole, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
