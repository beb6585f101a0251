"""Runs one exported model in a process of its own, as its users will. `opening` is the other end.

`python -m pipeline.export.opened FORMAT THREADS` says when it is ready, then reads one request a line from standard
input and answers each with one line of JSON on standard output; arrays travel in .npy files. It imports what its
format needs and no more: for ONNX that is onnxruntime, without torch.

    {"open": "model.onnx"}, which is the first              → {"torch": false}
    {"logits": "ids.npy", "into": "logits.npy"}             → {"shape": [B, T, V]}
    {"nats": "rows.npy"}                                    → {"nats": 3.5}
    {"greedy": [1, 17], "tokens": 32}                       → {"ids": [...]}
    {"time": "ids.npy", "warm_ups": 5, "runs": 10}          → {"seconds": [...]}
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.export.formats import FORMATS
from pipeline.export.source import Run


def serve(name: str, threads: int) -> None:
    """Answer requests until standard input ends, which it also does when the other side dies."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a native library prints must not end up between the answers
    form = FORMATS[name]
    importlib.import_module(form.imports)  # before there is a file, so that others can be checked meanwhile
    print(json.dumps({"ready": True}), file=answers, flush=True)
    run = form.open(Path(json.loads(sys.stdin.readline())["open"]), threads)
    print(json.dumps({"torch": "torch" in sys.modules}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(run, json.loads(line))), file=answers, flush=True)


def answer(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    """Do what one request asks for. See the top of this file."""
    if "logits" in request:
        logits = run(np.load(request["logits"], allow_pickle=False))
        np.save(request["into"], logits, allow_pickle=False)
        return {"shape": logits.shape}
    if "nats" in request:
        return {"nats": nats(run, np.load(request["nats"], allow_pickle=False))}
    if "greedy" in request:
        return {"ids": run.greedy(request["greedy"], request["tokens"])}
    ids = np.load(request["time"], allow_pickle=False)
    for _ in range(request["warm_ups"]):
        run(ids)
    return {"seconds": [seconds(run, ids) for _ in range(request["runs"])]}


def nats(run: Run, rows: Any) -> float:
    """The sum of -ln p of each token of (B, T + 1) ids, after those before it."""
    logits = run(rows[:, :-1])  # (B, T, V)
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]  # (B, T)
    return float((np.log(np.exp(logits).sum(axis=-1)) - chosen).sum(dtype=np.float64))


def seconds(run: Run, ids: Any) -> float:
    """How long one pass takes."""
    started = time.perf_counter()
    run(ids)
    return time.perf_counter() - started


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
