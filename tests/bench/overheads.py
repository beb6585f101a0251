"""Measures what training takes besides its steps: checkpoints, the ledger, batches of a very large token file.

python tests/bench/overheads.py                                  to the screen, in a minute or two
python tests/bench/overheads.py --write docs/performance.md      and put the table into the document

The token file is sparse: it has the size of a real one and takes no space, so the disk's own speed is not measured.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_report
import click
from bench_process import Clock, in_child
from run import settings_of

from pipeline import paths
from pipeline.spec import Spec, load_spec
from pipeline.stages import WAITING

_SMALL, _LARGE = 10_000_000, 10_000_000_000  # bytes of a token file
_BATCHES = 2000
_ROOM = 0.02  # of the time of the steps in between that a checkpoint may take, and of a step for the ledger


def loading(settings: dict[str, Any], clock: Clock) -> None:
    """Read batches of a sparse token file in the order of an epoch."""
    from pipeline.data.batches import Batches
    from pipeline.data.encoded import map_array
    from pipeline.memory import memory_bytes

    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        path = Path(scratch) / "train.bin"
        path.touch()
        os.truncate(path, settings["token_bytes"])
        before, _ = memory_bytes()
        length, size = settings["model"]["max_seq_len"], settings["batch_size"]
        batches = Batches(map_array(path, "uint16"), length=length, batch_size=size, seed=0)
        began = time.perf_counter()
        batches.batch(0, 0)
        order_seconds = time.perf_counter() - began
        first, _ = memory_bytes()
        times = []
        for index in range(1, min(settings["batches"], batches.per_epoch)):
            began = time.perf_counter()
            batches.batch(0, index)
            times.append(time.perf_counter() - began)
        clock.report(
            {
                "token_bytes": settings["token_bytes"],
                "batches": len(times),
                "batch_ms": statistics.median(times) * 1e3,
                "p95_ms": statistics.quantiles(times, n=20)[-1] * 1e3,
                "order_seconds": order_seconds,
                "order_mb": (first - before) / 1e6,
                "grown_mb": (memory_bytes()[0] - first) / 1e6,
            }
        )


def noting(settings: dict[str, Any], clock: Clock) -> None:
    """Note every other step of a training in a ledger; what that takes where it happens, clipping compared in turns.

    Marks read weights and gradients while caches hold some of them, and clipping reads the gradients once more.
    """
    import hashlib

    import torch
    from bench_contenders import prepare_ours

    from pipeline.records.ledger import LEDGER, LedgerWriter
    from pipeline.stages.train_ledger import line_of
    from pipeline.training.distributed import ALONE
    from pipeline.training.ledger import Teller
    from pipeline.training.marks import bytes_of
    from pipeline.training.optimizer import adamw
    from pipeline.training.step import Gradients

    model, batches, loss_sum, _execution = prepare_ours(settings)
    optimizer = adamw(model, **settings["optimizer"])
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        path = Path(scratch) / LEDGER
        teller = Teller(model, ALONE)
        begin = {"inputs": {}, "code": {}, "tensors": teller.marker.names, "marked_every": 1}
        writer = LedgerWriter(path, begin=lambda: begin, environment={}, after_step=0, head=None)
        teller.tell = lambda entry: writer.append(line_of(entry))
        before = path.stat().st_size
        times: tuple[list[float], list[float]] = ([], [])
        for count in range(2 * settings["noted"]):
            epoch, index = divmod(count, batches.per_epoch)
            batch = batches.batch(epoch, index)
            (loss_sum(*batch) / batches.targets_in(epoch, index)).backward()
            step, is_noted = count // 2 + 1, bool(count % 2)
            mark = teller.mark_at(step)
            began = time.perf_counter()
            if is_noted:
                digest = hashlib.sha256()
                for tensor in batch:
                    digest.update(bytes_of(tensor).data)
                found = Gradients(10.0, 1, 1.0, data=digest.hexdigest()[:16], marks=mark() if mark else None)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
            taken = time.perf_counter() - began
            optimizer.step()
            began = time.perf_counter()
            if is_noted:
                teller.saw(step, epoch=1, batch=step, found=found)
            times[is_noted].append(taken + time.perf_counter() - began)
            optimizer.zero_grad(set_to_none=True)
        size = (path.stat().st_size - before) / settings["noted"]
    without, noted = (statistics.fmean(sorted(each)[: -len(each) // 10]) for each in times)  # but for outliers
    clock.report({"note_ms": (noted - without) * 1e3, "note_bytes": size})


def measure(spec: Spec, *, quick: bool) -> dict[str, Any]:
    """All figures of a spec, each measured in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        settings = settings_of(spec, Path(scratch), quick=quick)
        training = {**WAITING, "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/compiled"}
        step = in_child("bench_parts:step", settings, training)["parts_ms"]["whole"]
        saving = in_child("bench_parts:files", settings)
        noted = in_child("overheads:noting", {**settings, "noted": 3 if quick else 40}, training)
        of_file = {"batches": 20 if quick else _BATCHES, **settings}
        sizes = (_SMALL // 100, _SMALL) if quick else (_SMALL, _LARGE)
        read = [in_child("overheads:loading", {**of_file, "token_bytes": size}) for size in sizes]
    return {
        "interval": spec.checkpointing.save_every_n_steps,
        "step_ms": step,
        "save_ms": saving["times"]["checkpoint: save and remove"]["p50_ms"],
        "checkpoint_mb": saving["checkpoint_mb"],
        **noted,
        "loading": read,
    }


def share_of_saving(figures: dict[str, Any]) -> float:
    """What a checkpoint takes of the time of the steps that lie between it and the next."""
    return float(figures["save_ms"] / (figures["interval"] * figures["step_ms"]))


def share_of_ledger(figures: dict[str, Any]) -> float:
    """What noting a step in the ledger takes of its time."""
    return float(figures["note_ms"] / figures["step_ms"])


def table_of(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    small, large = figures["loading"]
    step = figures["step_ms"]
    rows = [
        ("a step", f"{step:.0f} ms", ""),
        (
            f"a checkpoint of {figures['checkpoint_mb']:.1f} MB, every {figures['interval']} steps",
            f"{figures['save_ms']:.0f} ms",
            f"{share_of_saving(figures):.2%} (at most {_ROOM:.0%})",
        ),
        (
            f"a line of the ledger, {figures['note_bytes']:.0f} bytes, every step",
            f"{figures['note_ms']:.1f} ms",
            f"{share_of_ledger(figures):.2%} (at most {_ROOM:.0%})",
        ),
    ]
    rows += [
        (
            f"a batch of a token file of {read['token_bytes'] / 1e9:g} GB",
            f"{read['batch_ms']:.2f} ms (95 of 100 within {read['p95_ms']:.2f})",
            f"{read['batch_ms'] / step:.2%}",
        )
        for read in (small, large)
    ]
    text = bench_report.table(("What", "Takes", "Of the time of steps"), rows)
    size, seconds, megabytes = large["token_bytes"] / 1e9, large["order_seconds"], large["order_mb"]
    text += f"\n\nThe order of an epoch of the {size:g} GB takes {seconds:.1f} s and {megabytes:.0f} MB, once an epoch."
    grown = large["grown_mb"]
    return f"{text} While {large['batches']:,} batches were read the memory of the process grew by {grown:.1f} MB."


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--write", "document", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--quick", is_flag=True, help="To try the command: figures mean nothing.")
def main(document: Path | None, quick: bool) -> None:
    """Run the command."""
    load = os.getloadavg()[0]
    text = table_of(measure(load_spec(paths.SPECS / "experiment.yaml"), quick=quick))
    bench_report.publish(text, "overheads", document, load=load)


if __name__ == "__main__":
    main()
