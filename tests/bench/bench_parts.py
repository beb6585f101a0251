"""What is measured besides training throughput. Each function runs in a process of its own."""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_process import Clock, milliseconds, peak_rss_mb, seconds_of


def matmul(settings: dict[str, Any], clock: Clock) -> None:
    """The fastest matrix product of several shapes, in GFLOP/s for each type: what the arithmetic could do at best."""
    import torch

    from pipeline.training import hardware

    hardware.keep_freed_memory()
    torch.set_num_threads(settings["threads"])
    shape = settings["model"]
    rows = settings["batch_size"] * shape["max_seq_len"]
    shapes = [(size, size, size) for size in settings["matmul_sizes"]]
    shapes += [(rows, shape["d_model"], shape["d_ff"]), (rows, shape["d_model"], shape["vocab_size"])]
    clock.report(
        {
            str(dtype).removeprefix("torch."): {
                " x ".join(map(str, sizes)): _gflops(
                    torch, dtype, sizes, settings["matmul_seconds"], settings["device"]
                )
                for sizes in shapes
            }
            for dtype in (torch.float32, torch.bfloat16)
        }
    )


def _gflops(torch: Any, dtype: Any, shape: tuple[int, int, int], seconds: float, device: str) -> float:
    m, k, n = shape
    a, b = torch.rand(m, k, dtype=dtype, device=device), torch.rand(k, n, dtype=dtype, device=device)
    into = torch.empty(m, n, dtype=dtype, device=device)

    def multiply() -> None:
        torch.mm(a, b, out=into)
        if device == "cuda":
            torch.cuda.synchronize()

    multiply()  # the first call chooses a kernel
    best = math.inf
    end = time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        best = min(best, *seconds_of(multiply, repeats=1))
    return 2 * m * k * n / best / 1e9


def step(settings: dict[str, Any], clock: Clock) -> None:
    """The time of each part of an optimizer step: the statements of `pipeline.training.loop._step`, with a clock."""
    import torch
    from bench_contenders import prepare_ours

    from pipeline.training.optimizer import adamw

    model, batches, loss_sum, execution = prepare_ours(settings)
    optimizer = adamw(model, **settings["optimizer"])
    names = ("batch", "forward", "backward", "clip", "optimizer")
    times: dict[str, list[float]] = {name: [] for name in (*names, "whole")}
    for count in range(settings["steps"] + 3):  # the first three warm up
        epoch, index = divmod(count, batches.per_epoch)
        marks = [time.perf_counter()]
        tokens = batches.targets_in(epoch, index)
        ids, targets = batches.batch(epoch, index)
        marks.append(time.perf_counter())
        loss = loss_sum(ids, targets)
        marks.append(time.perf_counter())
        (loss / tokens).backward()
        loss.item()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        if count >= 3:
            for name, began, ended in zip(names, marks, marks[1:], strict=False):
                times[name].append(ended - began)
            times["whole"].append(marks[-1] - marks[0])
    clock.report(
        {
            "precision": execution.precision,
            "compiled": execution.compile_mode is not None,
            "steps": settings["steps"],
            "parts_ms": {name: statistics.median(values) * 1e3 for name, values in times.items()},
            "peak_rss_mb": peak_rss_mb(),
        }
    )


def tokenizer(settings: dict[str, Any], clock: Clock) -> None:
    """Megabytes of text a second, for training a tokenizer and for encoding with it."""
    from pipeline.data.tokenizer import Tokenizer, train_tokenizer

    texts = _texts(settings)
    size = sum(len(text.encode()) for text in texts) / 1e6
    trained: list[bytes] = []
    training = seconds_of(
        lambda: trained.append(train_tokenizer(texts, **settings["tokenizer"])), repeats=settings["repeats"]
    )
    made = Tokenizer.from_bytes(trained[0])
    tokens: list[int] = []
    encoding = seconds_of(
        lambda: tokens.append(sum(len(made.encode(text)) for text in texts)), repeats=settings["repeats"]
    )
    clock.report(
        {
            "text": settings["corpus"] or "generated words",
            "megabytes": size,
            "type": settings["tokenizer"]["tokenizer_type"],
            "vocab_size": made.vocab_size,
            "training_mb_per_second": size / statistics.median(training),
            "encoding_mb_per_second": size / statistics.median(encoding),
            "encoding_tokens_per_second": tokens[0] / statistics.median(encoding),
            "repeats": settings["repeats"],
        }
    )


def _texts(settings: dict[str, Any]) -> list[str]:
    if settings["corpus"]:
        lines = Path(settings["corpus"]).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]
    return generated_texts(settings["text_bytes"])


def generated_texts(size: int) -> list[str]:
    """Documents of made-up words, as often as Zipf's law has it: so much work for a tokenizer as language is."""
    draw = random.Random(0)
    parts = [start + vowel for start in "bcdfghjklmnprstvw" for vowel in ("a", "e", "i", "o", "u", "ea", "ou")]
    words = ["".join(draw.choices(parts, k=draw.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    texts = []
    made = 0
    while made < size:
        lines = [" ".join(draw.choices(words, weights, k=8)).capitalize() + "." for _ in range(100)]
        texts.append("\n".join(lines))
        made += len(texts[-1].encode())
    return texts


def latency(settings: dict[str, Any], clock: Clock) -> None:
    """Time to the next token: a pass over T tokens in PyTorch and ONNX Runtime, and one step with PyTorch's cache."""
    import torch

    from pipeline.export.compare import random_inputs
    from pipeline.export.opening import Process
    from pipeline.models.generate import generate
    from pipeline.models.store import load_model

    threads = settings["threads"]
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        folder, onnx = _exported(settings, Path(scratch))
        model, _description = load_model(folder)
        longest = model.max_seq_len
        times: dict[str, dict[int, list[float]]] = {name: {} for name in ("pytorch", "onnx", "cached")}
        with (
            Process("pytorch", threads=threads).open(folder) as pytorch,
            Process("onnx", threads=threads).open(onnx) as onnxruntime,
        ):
            for length in (longest // 4, longest):
                ids = random_inputs(model, 1, length)
                for _ in range(settings["latency_rounds"]):  # in turns, so that a busy machine slows both
                    for name, runner in (("pytorch", pytorch), ("onnx", onnxruntime)):
                        got = runner.seconds(ids, warm_ups=5, runs=settings["latency_runs"])
                        times[name].setdefault(length, []).extend(got)
        for length in (longest // 4, longest * 3 // 4):
            prompt = random_inputs(model, 1, length)[0].tolist()
            tokens = generate(model, prompt, max_new_tokens=longest - length)
            for _ in range(2):  # the prompt itself, and a first step
                next(tokens)
            steps = longest - length - 2
            times["cached"][length] = seconds_of(lambda tokens=tokens: next(tokens), repeats=steps)
        clock.report(
            {
                "model": "trained" if settings["trained"] else "random weights",
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                **{
                    name: {str(length): milliseconds(values) for length, values in rows.items()}
                    for name, rows in times.items()
                },
            }
        )


def _exported(settings: dict[str, Any], scratch: Path) -> tuple[Path, Path]:
    """A model folder and the ONNX file made from it: those of the last run, else new ones with random weights."""
    from pipeline.export.formats import FORMATS
    from pipeline.export.source import Source
    from pipeline.paths import OUTPUT_OF

    if settings["trained"]:
        return OUTPUT_OF["train"], OUTPUT_OF["export"] / FORMATS["onnx"].file
    model = _write_model(settings["model"], scratch / "model")
    onnx = scratch / FORMATS["onnx"].file
    FORMATS["onnx"].write(Source(model.eval(), scratch / "model", settings["opset"]), onnx)
    return scratch / "model", onnx


def _write_model(shape: dict[str, Any], folder: Path) -> Any:
    import torch

    from pipeline.files import output_folder
    from pipeline.models.store import save_model
    from pipeline.models.transformer import Transformer

    torch.manual_seed(0)
    model = Transformer(**shape)
    with output_folder(folder, stage="train", sections={}, inputs={}) as target:
        save_model(target, model, _description(shape))
    return model


def _description(shape: dict[str, Any]) -> dict[str, Any]:
    trained = {"run_id": "00000000-0000-4000-8000-000000000000", "seconds": 1.0, "steps": 1, "tokens": 1}
    return {
        "model_name": "bench",
        "task_type": "lm",
        "model": shape,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "training": {**trained, "best_step": None, "val_loss": None, **_execution()},
    }


def _execution() -> dict[str, Any]:
    import torch

    from pipeline.training.hardware import Execution

    plain = Execution("cpu", "32-true", None, torch.get_num_threads(), torch.__version__, "DEFAULT", None)
    return plain.to_dict()


def files(settings: dict[str, Any], clock: Clock) -> None:
    """Saving, checking and opening checkpoints and model folders of the spec's model."""
    import torch
    from bench_contenders import run_identity, run_metadata

    from pipeline.files import verify_manifest
    from pipeline.models.store import load_model
    from pipeline.training.checkpoint import read_checkpoint, restore, save_checkpoint
    from pipeline.training.optimizer import adamw
    from pipeline.training.progress import Progress
    from pipeline.training.run_folder import locked, remove

    repeats = settings["repeats"]
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as scratch:
        run, folder = Path(scratch) / "run", Path(scratch) / "model"
        model = _write_model(settings["model"], folder)
        optimizer = adamw(model, **settings["optimizer"])
        model(torch.zeros((1, 2), dtype=torch.int64)).sum().backward()
        optimizer.step()
        calls: dict[str, Callable[[], Any]] = {}
        state = {**run_identity(_execution()), "step": 1, "progress": vars(Progress(step=1))}
        moment = {"total_steps": 2, "epoch": 0, "finished": False, "scheduled": False, "tokens": 1, "metrics": {}}
        moment |= {"timestamp": state["start_timestamp"], "seconds": 1.0}

        def save(step: int) -> Path:
            return save_checkpoint(
                run,
                model=model,
                optimizer=optimizer,
                state={**state, "step": step},
                metadata={**run_metadata(), **moment, "step": step},
                best=None,
            )

        with locked(run):
            saved = save(1)
            checkpoint = read_checkpoint(saved)
            calls = {
                "checkpoint: save and remove": lambda: remove(save(2)),
                "checkpoint: verify": lambda: verify_manifest(saved, rebuild="make bench"),
                "checkpoint: verify and read": lambda: read_checkpoint(saved),
                "checkpoint: put into place": lambda: restore(checkpoint, model=model, optimizer=optimizer),
                "model folder: save": lambda: _write_model(settings["model"], folder),
                "model folder: verify": lambda: verify_manifest(folder, rebuild="make bench"),
                "model folder: verify and open": lambda: load_model(folder),
            }
            times = {name: milliseconds(seconds_of(call, repeats=repeats)) for name, call in calls.items()}
        clock.report({"times": times, "checkpoint_mb": _megabytes(saved), "model_folder_mb": _megabytes(folder)})


def _megabytes(folder: Path) -> float:
    inodes = {path.stat().st_ino: path.stat().st_size for path in folder.iterdir()}  # a hard link takes no space
    return sum(inodes.values()) / 1e6


def commands(settings: dict[str, Any], clock: Clock) -> None:
    """Whole processes: what a person waits for at the prompt."""
    spec, count = Path(settings["spec"]), settings["checked_specs"]
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        for number in range(count):
            (Path(folder) / f"{number}.yaml").write_bytes(spec.read_bytes())
        lines = {
            "import pipeline.spec": ["-c", "import pipeline.spec"],
            "foundry --help": ["-m", "pipeline", "--help"],
            "foundry check specs/experiment.yaml": ["-m", "pipeline", "check", str(spec)],
            f"foundry check, {count:,} files": ["-m", "pipeline", "check", folder],
        }
        times = {}
        for name, arguments in lines.items():
            command = [sys.executable, *arguments]
            call = lambda command=command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
            call()  # brings the files into the page cache
            times[name] = milliseconds(seconds_of(call, repeats=settings["command_repeats"]))
    clock.report({"times": times})


def random_tokens(path: Path, *, count: int, vocab_size: int, dtype: str) -> None:
    """Write token ids drawn at random: how fast they are learned from does not depend on what they say."""
    np.random.default_rng(0).integers(0, vocab_size, count).astype(dtype).tofile(path)
