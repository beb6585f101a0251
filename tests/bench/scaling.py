"""Measures training by the size of the model, beside what `foundry plan` foretells: 1M to 124M parameters.

python tests/bench/scaling.py                                  to the screen, in five minutes or so
python tests/bench/scaling.py --write docs/performance.md      and put the table into the document

Models have the shape of the shipped experiment's, are not compiled, and learn random tokens.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_report
import click
from bench_parts import random_tokens
from bench_process import Child, Clock, in_child
from run import settings_of

from pipeline import console, paths
from pipeline.models.table import arguments_of
from pipeline.spec import Spec, load_spec
from pipeline.spec.estimate import Text, times
from pipeline.spec.estimate_memory import training_memory
from pipeline.spec.estimate_model import Shape, count, shape_of
from pipeline.stages import WAITING

_STEPS = 100  # of the run that is planned: its evaluations and checkpoints are left out
# Name → vocabulary, rows of a batch, and what differs from the model of the shipped experiment.
SIZES: Mapping[str, tuple[int, int, dict[str, int]]] = {
    "1M": (2048, 8, {"d_model": 128, "num_layers": 4, "num_heads": 2, "d_ff": 320, "max_seq_len": 256}),
    "10M": (8192, 8, {"d_model": 320, "num_layers": 6, "num_heads": 5, "d_ff": 800, "max_seq_len": 256}),
    "50M": (16384, 4, {"d_model": 640, "num_layers": 9, "num_heads": 10, "d_ff": 1728, "max_seq_len": 512}),
    "124M": (50257, 2, {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048, "max_seq_len": 1024}),
}


def planned(settings: dict[str, Any], clock: Clock) -> None:
    """Time the machine at a model as `foundry plan` does, and foretell the speed of its training."""
    from pipeline.commands.calibrate import calibrate
    from pipeline.spec.estimate import Pace

    values = settings["values"]
    size, rows, length = settings["vocab_size"], settings["rows"], values["model"]["max_seq_len"]
    shape = shape_of(values["model"], size)
    pace = calibrate(values, shape)
    assert isinstance(pace, Pace), pace
    tokens = _STEPS * rows * length
    text = Text("counted", "random tokens", size, tokens, 0, tokens, tokens)
    clock.report({"tokens_per_second": tokens / times(values, shape, text, pace)["steps"]})


def measure(name: str, spec: Spec, *, seconds: float, sizes: Mapping[str, Any] = SIZES) -> dict[str, Any]:
    """What training a model of a size takes, and what was foretold."""
    vocab_size, rows, model = sizes[name]
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        common = settings_of(spec, Path(scratch), quick=True)
        values = _values(spec, model, rows)
        shape = shape_of(values["model"], vocab_size)
        length = shape.max_seq_len
        path = Path(scratch) / "tokens"
        random_tokens(path, count=_STEPS * rows * length, vocab_size=vocab_size, dtype="uint16")
        asked = {
            **common,
            "model": arguments_of(values["model"], {"vocab_size": vocab_size}),
            "batch_size": rows,
            "tokens": str(path),
            "dtype": "uint16",
            "run_tokens": _STEPS * rows * length,
            "compile": None,
        }
        with Child("bench_contenders:foundry", asked, WAITING) as child:
            facts = child.answer()
            found = child.ask({"seconds": seconds})
        ahead = in_child("scaling:planned", {"values": values, "vocab_size": vocab_size, "rows": rows}, WAITING)
    return {
        "parameters": facts["parameters"],
        "precision": facts["precision"],
        "rows": rows,
        "length": length,
        "tokens_per_second": found["tokens_per_second"],
        "gflops": found["tokens_per_second"] * facts["flops_per_token"] / 1e9,
        "mb": found["peak_rss_mb"],
        "planned_tokens_per_second": ahead["tokens_per_second"],
        "planned_mb": _planned_mb(shape, rows, facts["precision"]),
        "planned_parameters": count(shape),
    }


def _values(spec: Spec, model: Mapping[str, int], rows: int) -> dict[str, Any]:
    """The sections of an experiment with another model and batch, not compiled and for one epoch."""
    values = spec.to_dict()
    values["model"] |= {"num_kv_heads": None, **model}
    values["training"] |= {"batch_size": rows, "epochs": 1, "max_steps": None, "gradient_accumulation_steps": 1}
    values["hardware"] |= {"compile_mode": None}
    return values


def _planned_mb(shape: Shape, rows: int, precision: str) -> float:
    return training_memory(shape, batch_size=rows, precision=precision, compiled=False)["peak_rss"]


def table_of(rows: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    heading = ("Parameters", "Batch", "Tokens/s", "Foretold", "GFLOP/s", "Peak RSS", "Foretold")
    return bench_report.table(
        heading,
        [
            (
                f"{row['parameters']:,}",
                f"{row['rows']} x {row['length']}, {row['precision']}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['planned_tokens_per_second'] / row['tokens_per_second'] - 1:+.0%}",
                f"{row['gflops']:.0f}",
                f"{row['mb']:,.0f} MB",
                f"{row['planned_mb'] / row['mb'] - 1:+.0%}",
            )
            for row in rows
        ],
    )


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--write", "document", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Of steps, for each size.")
@click.option("--size", "names", type=click.Choice(list(SIZES)), multiple=True, help="Only these.")
def main(document: Path | None, seconds: float, names: tuple[str, ...]) -> None:
    """Run the command."""
    load, spec, rows = os.getloadavg()[0], load_spec(paths.SPECS / "experiment.yaml"), []
    for name in names or SIZES:
        console.say(f"training {name} parameters")
        rows.append(measure(name, spec, seconds=seconds))
    bench_report.publish(table_of(rows), "scaling", document, load=load)


if __name__ == "__main__":
    main()
