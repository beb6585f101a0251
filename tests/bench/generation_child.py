"""One way to generate, in a process of its own: loads it, writes a token, then 100 more each time it is asked.

`python generation_child.py WAY FOLDER THREADS` imports what the way needs and no more. Each line on standard input asks
for a round, each line on standard output is JSON: `{}` when the first token is there, then the seconds of each token
and the memory so far.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOKENS = 100
PROMPT = (1, 262, 4, 384)  # `<s>` and any three: greedy from here, no way ends early in the default model
Ways = Callable[[Path, int], Callable[[], Iterator[int]]]


def _runner(folder: Path, threads: int, graph: str = "model.cache.onnx") -> Callable[[], Iterator[int]]:
    sys.path.insert(0, str(folder))
    from runner import Runner

    runner = Runner(folder, graph=graph, threads=threads)
    runner.text.eos = -1  # a token that is never chosen, so that every round has as many
    return lambda: runner.tokens(PROMPT, max_new_tokens=TOKENS)


def _int8(folder: Path, threads: int) -> Callable[[], Iterator[int]]:
    return _runner(folder, threads, "model.int8.onnx")


def _onnx(folder: Path, threads: int) -> Callable[[], Iterator[int]]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def tokens() -> Iterator[int]:
        ids = list(PROMPT)
        for _ in range(TOKENS):
            (logits,) = session.run(["logits"], {"ids": np.array([ids], dtype=np.int64)})
            ids.append(int(logits[0, -1].argmax()))
            yield ids[-1]

    return tokens


def _torch(folder: Path, threads: int) -> Callable[[], Iterator[int]]:
    import torch

    from pipeline.models.generate import generate
    from pipeline.models.store import load_language_model

    torch.set_num_threads(threads)
    model, _ = load_language_model(folder / "pytorch")
    return lambda: generate(model, PROMPT, max_new_tokens=TOKENS)


def _torch_whole(folder: Path, threads: int) -> Callable[[], Iterator[int]]:
    import torch

    from pipeline.models.store import load_language_model

    torch.set_num_threads(threads)
    model, _ = load_language_model(folder / "pytorch")

    def tokens() -> Iterator[int]:
        ids = list(PROMPT)
        for _ in range(TOKENS):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            yield ids[-1]

    return tokens


WAYS: dict[str, Ways] = {
    "runner": _runner,
    "runner, all threads": _runner,
    "runner, int8": _int8,
    "ONNX without cache": _onnx,
    "PyTorch eager": _torch,
    "PyTorch eager without cache": _torch_whole,
}


def memory_kib() -> dict[str, int]:
    """Resident memory of this process now and at most, from /proc."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(fields[key].split()[0]) for name, key in (("rss", "VmRSS"), ("peak", "VmHWM"))}


def main(way: str, folder: str, threads: str) -> None:
    """Answer until standard input ends."""
    tokens = WAYS[way](Path(folder), int(threads))
    next(tokens())
    print("{}", flush=True)
    for _ in sys.stdin:
        seconds = []
        started = time.perf_counter()
        for _token in tokens():
            now = time.perf_counter()
            seconds.append(now - started)
            started = now
        print(json.dumps({"seconds": seconds, **memory_kib()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
