"""Measures memory and latency of inference in a process that does nothing else, without PyTorch.

`python -m pipeline.export.probe FOLDER PROMPT` prints one line of JSON. FOLDER is an export with `model.cache.onnx`,
whose runner continues the prompt, or with `model.onnx`. It imports what serving a model takes and no more, so its
memory is that of a program which does.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pipeline.export.runner import GRAPH, Runner, Text
from pipeline.memory import memory_bytes

WARM_UP_ANSWERS = 8  # the first ones fill the allocator's pools
MEASURED_ANSWERS = 128  # enough for a 95th percentile that six outliers do not decide
THREADS = 1  # what the runner takes unless it is told otherwise

Answers = Callable[[int], Iterator[Any]]  # how many → so many tokens or classes


def measure(folder: Path, prompt: str) -> dict[str, Any]:
    """Open a model, use it, and say what it took.

    One answer is a token of generation, with the cache of keys and values; of a model that writes no text, the logits
    of a text or of a picture.

    Returns:
        `rss_bytes` at rest with the model open, `peak_bytes` of the whole process, `latencies_ms` of each measured
        answer, `threads`.
    """
    answers = _tokens(folder, prompt) if (folder / GRAPH).is_file() else _logits(folder, prompt)
    gc.collect()
    at_rest, _ = memory_bytes()
    for _ in answers(WARM_UP_ANSWERS):
        pass
    latencies = []
    measured = answers(1 + MEASURED_ANSWERS)
    next(measured)  # of generation, the one that reads the whole prompt
    started = time.perf_counter()
    for _ in measured:
        now = time.perf_counter()
        latencies.append((now - started) * 1000)
        started = now
    _, peak = memory_bytes()
    return {"rss_bytes": at_rest, "peak_bytes": peak, "latencies_ms": latencies, "threads": THREADS}


def _tokens(folder: Path, prompt: str) -> Answers:
    runner = Runner(folder, threads=THREADS)
    ids = [runner.text.bos, *runner.text.encode(prompt)]
    runner.text.eos = -1  # a token that is never chosen: there are as many answers as are asked for
    return lambda count: runner.tokens(ids, max_new_tokens=count)


def _logits(folder: Path, prompt: str) -> Answers:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if "image_size" in about:
        given = {"pictures": np.full((1, *about["image_size"]), 127, dtype=np.uint8)}  # grey: all take as long
    else:
        text = Text(folder)
        longest = int(session.get_modelmeta().custom_metadata_map["max_seq_len"])
        given = {"ids": np.array([[text.bos, *text.encode(prompt)][:longest]], dtype=np.int64)}
    return lambda count: (session.run(["logits"], given) for _ in range(count))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
