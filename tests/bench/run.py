"""Measures how fast the toolkit is on this machine, beside others that do the same work.

python tests/bench/run.py                                  everything, to the screen
python tests/bench/run.py --part tokenizer                 one part
python tests/bench/run.py --device cuda --batch-size 64    training on a GPU
python tests/bench/run.py --write docs/performance.md      and put the tables into the document
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bench_report
import click
from bench_contenders import CONTENDERS, FP32, OURS
from bench_parts import random_tokens
from bench_process import Child, WorkFailedError, in_child

from pipeline import console, paths
from pipeline.files import read_json
from pipeline.models.table import arguments_of
from pipeline.spec import Spec, load_spec
from pipeline.stages import WAITING
from pipeline.training.hardware import usable_processors

_FULL = {
    "contenders": list(CONTENDERS),
    "rounds": 3,
    "seconds": 6.0,  # of each contender in each round: a dozen or two steps
    "steps": 20,
    "repeats": 3,
    "command_repeats": 7,
    "checked_specs": 1000,
    "latency_rounds": 5,
    "latency_runs": 20,
    "matmul_sizes": [1024, 2048],
    "matmul_seconds": 0.7,  # of each shape and type; the best counts
    "text_bytes": 4_000_000,
    "train_tokens": 2_000_000,  # when there is no encoded corpus
    "run_tokens": 4_500_000,  # of a whole run, about what the shipped experiment has: decides whether to compile
}
_QUICK = _FULL | {
    "contenders": [OURS, "plain-fp32"],
    "rounds": 1,
    "seconds": 0.05,
    "steps": 2,
    "repeats": 1,
    "command_repeats": 1,
    "checked_specs": 20,
    "latency_rounds": 1,
    "latency_runs": 2,
    "matmul_sizes": [64],
    "matmul_seconds": 0.0,
    "text_bytes": 60_000,
    "train_tokens": 5_000,
    "run_tokens": 1,
}
_QUICK_MODEL = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": None, "d_ff": 40, "max_seq_len": 32}
_QUICK_VOCABULARY = 500  # the byte pieces alone are 256


def settings_of(spec: Spec, scratch: Path, *, quick: bool) -> dict[str, Any]:
    """What every part needs to know, as plain values."""
    shape = arguments_of(spec.section("model"), {})
    tokenizer = spec.section("tokenizer")
    settings: dict[str, Any] = {
        **(_QUICK if quick else _FULL),
        "device": "cpu",
        "tf32": spec.hardware.use_tf32,
        "threads": spec.hardware.num_threads or usable_processors(),
        "deterministic": spec.reproducibility.deterministic,
        "batch_size": 2 if quick else spec.training.batch_size,
        "optimizer": {
            "learning_rate": spec.training.learning_rate,
            "beta1": spec.optimizer.adam_beta1,
            "beta2": spec.optimizer.adam_beta2,
            "epsilon": spec.optimizer.adam_epsilon,
            "weight_decay": spec.optimizer.weight_decay,
        },
        "opset": spec.export.opset,
        "spec": str(paths.SPECS / "experiment.yaml"),
        "compile": "auto",
        "tokenizer": tokenizer | {"vocab_size": _QUICK_VOCABULARY} if quick else tokenizer,
        "model": shape | _QUICK_MODEL | {"vocab_size": _QUICK_VOCABULARY} if quick else shape,
    }
    made = {stage: (folder / "manifest.json").exists() and not quick for stage, folder in paths.OUTPUT_OF.items()}
    settings["corpus"] = str(paths.OUTPUT_OF["corpus"] / "train.jsonl") if made["corpus"] else None
    settings["trained"] = (
        made["train"] and made["export"] and (paths.OUTPUT_OF["export"] / "model.onnx").exists()
    )  # the spec may leave ONNX out
    if made["tokenizer"]:
        source = paths.OUTPUT_OF["tokenizer"]
        facts = read_json(source / "tokenizer.json")
        settings["model"] = shape | {"vocab_size": facts["vocab_size"]}
        return settings | {"tokens": str(source / "train.bin"), "dtype": facts["dtype"], "text": "tokens of the corpus"}
    settings["model"].setdefault("vocab_size", tokenizer["vocab_size"])
    path = scratch / "tokens.bin"
    size = settings["model"]["vocab_size"]
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    random_tokens(path, count=settings["train_tokens"], vocab_size=size, dtype=dtype)
    return settings | {"tokens": str(path), "dtype": dtype, "text": "random tokens"}


def measure_training(settings: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Throughput of every contender in turns, and the fastest matrix products before and after."""
    products = [in_child("bench_parts:matmul", settings, environment)]
    rows: dict[str, dict[str, Any]] = {}
    running: dict[str, Child] = {}
    with ExitStack() as stack:
        for name in settings["contenders"]:
            console.say(f"training: starting {name}")
            rows[name], child = _start(name, settings, environment, ours=rows.get(OURS))
            if child is not None:
                running[name] = stack.enter_context(child)
        for number in range(1, settings["rounds"] + 1):
            for name, child in running.items():
                got = child.ask({"seconds": settings["seconds"]})
                rows[name]["rounds"].append(got["tokens_per_second"])
                rows[name]["peak_rss_mb"] = got["peak_rss_mb"]
                said = f"{got['tokens_per_second']:,.0f} tokens/s over {got['steps']} steps"
                console.say(f"training: round {number} of {settings['rounds']}, {name}: {said}")
    products.append(in_child("bench_parts:matmul", settings, environment))
    best = {
        dtype: max((figure, shape) for product in products for shape, figure in product[dtype].items())
        for dtype in products[0]
    }
    flops = rows[OURS].get("flops_per_token", math.nan)
    for name in running:
        row = rows[name]
        row["tokens_per_second"] = statistics.median(row["rounds"])
        ceiling = best["float32" if row["precision"] == FP32 else "bfloat16"][0] * 1e9
        row["utilization"] = row["tokens_per_second"] * flops / ceiling
    return {
        "contenders": rows,
        "matmul_gflops": {dtype: {"best": figure, "shape": shape} for dtype, (figure, shape) in best.items()},
        "matmul_all": products,
        "flops_per_token": flops,
        "batch": [settings["batch_size"], settings["model"]["max_seq_len"]],
        "text": settings["text"],
        "threads": settings["threads"],
        "seconds": settings["seconds"],
    }


def _start(
    name: str, settings: dict[str, Any], environment: dict[str, str], *, ours: dict[str, Any] | None
) -> tuple[dict[str, Any], Child | None]:
    """The row of a contender so far, and its process after the first step; None if it cannot run."""
    contender = CONTENDERS[name]
    precision = contender.settings.get("precision") or (ours or {}).get("precision", FP32)
    row: dict[str, Any] = {"title": contender.title, "precision": precision, "compiled": False, "rounds": []}
    row["compiled"] = contender.settings.get("compile") is True
    if contender.needs and importlib.util.find_spec(contender.needs) is None:
        return row | {"missing": f"{contender.needs} is not installed"}, None
    if contender.ours:
        environment = {**environment, **WAITING}
    child = Child(contender.work, settings | {"precision": precision} | contender.settings, environment)
    try:
        return row | child.answer(), child
    except WorkFailedError as error:
        child.close()
        return row | {"missing": f"failed: {error}"}, None


# Part → the work of its one process. `training` has many.
PARTS = {
    "training": None,
    "step": "bench_parts:step",
    "tokenizer": "bench_parts:tokenizer",
    "latency": "bench_parts:latency",
    "files": "bench_parts:files",
    "commands": "bench_parts:commands",
}


def measure(parts: list[str], *, quick: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """Measure some parts, one after the other, with some settings changed, and describe the machine."""
    began = time.monotonic()
    results: dict[str, Any] = {"machine": bench_report.machine(), "load_before": os.getloadavg()[0]}
    results |= {"quick": quick, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        settings = settings_of(load_spec(paths.SPECS / "experiment.yaml"), Path(scratch), quick=quick) | changes
        kernels = {"TORCHINDUCTOR_CACHE_DIR": f"{scratch}/compiled"}  # compiled anew, and kept for the next part
        for part in parts:
            console.say(f"{part}: measuring, {console.duration(time.monotonic() - began)} so far")
            work = PARTS[part]
            if work is None:
                results["parts"][part] = measure_training(settings, kernels)
            else:
                results["parts"][part] = in_child(work, settings, {**kernels, **WAITING} if part == "step" else None)
    results["seconds"] = time.monotonic() - began
    results["load_after"] = os.getloadavg()[0]
    console.say(f"all measured in {console.duration(results['seconds'])}")
    return results


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--part", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Measure this part only.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option(
    "--write",
    "document",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the tables into this document, between the marks of their parts.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Of training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows of a step, instead of the shipped spec's.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes, to try the command: figures mean nothing.")
def main(
    parts: tuple[str, ...],
    json_path: Path | None,
    document: Path | None,
    device: str,
    batch_size: int | None,
    quick: bool,
) -> None:
    """Run the command."""
    chosen = list(parts or (PARTS if device == "cpu" else ["training"]))
    if device == "cuda" and chosen != ["training"]:
        raise click.UsageError("only the part `training` is measured on a GPU")
    changes: dict[str, Any] = {"device": device}
    if batch_size is not None:
        changes["batch_size"] = batch_size
    if document is not None:
        try:  # before the minutes of measuring, not after them
            bench_report.insert(document.read_text(encoding="utf-8"), dict.fromkeys(["machine", *chosen], ""))
        except ValueError as error:
            raise click.UsageError(f"{document}: {error}") from error
    try:
        results = measure(chosen, quick=quick, changes=changes)
    except WorkFailedError as error:
        console.say(f"error: {error}")
        sys.exit(1)
    blocks = bench_report.blocks(results)
    print("\n\n".join(blocks.values()))
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if document is not None:
        text = bench_report.insert(document.read_text(encoding="utf-8"), blocks)
        document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
