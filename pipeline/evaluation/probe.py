"""Measures memory and latency of inference in a process that does nothing else.

`python -m pipeline.evaluation.probe FOLDER PROMPT` prints one line of JSON. It imports what it takes to generate
text from a model folder and no more, so its memory is that of a program which serves the model.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.data.tokenizer import Tokenizer
from pipeline.memory import memory_bytes
from pipeline.models.cnn import Cnn
from pipeline.models.generate import generate
from pipeline.models.model import Model
from pipeline.models.store import load_model
from pipeline.models.transformer import Transformer

WARM_UP_TOKENS = 8  # the first calls choose kernels and fill the allocator's pools
MEASURED_TOKENS = 128  # enough for a 95th percentile that six outliers do not decide


def measure(folder: Path, prompt: str) -> dict[str, Any]:
    """Load a model, use it, and say what it took.

    One answer is a token of generation, with the cache of keys and values; of a classifier, the class of a text or of a
    picture.

    Returns:
        `rss_bytes` at rest with the model loaded, `peak_bytes` of the whole process, `latencies_ms` of each
        measured answer, `threads`.
    """
    model, description = load_model(folder)
    ids = []
    if not isinstance(model, Cnn):
        ids = [description["bos_id"], *Tokenizer.load(folder / "tokenizer.model").encode(prompt)]
    gc.collect()
    at_rest, _ = memory_bytes()
    for _ in _answers(model, ids, WARM_UP_TOKENS):
        pass
    latencies = []
    answers = _answers(model, ids, 1 + MEASURED_TOKENS)
    next(answers)  # of generation, the one that reads the whole prompt
    started = time.perf_counter()
    for _ in answers:
        now = time.perf_counter()
        latencies.append((now - started) * 1000)
        started = now
    _, peak = memory_bytes()
    return {
        "rss_bytes": at_rest,
        "peak_bytes": peak,
        "latencies_ms": latencies,
        "threads": torch.get_num_threads(),
    }


def _answers(model: Model, ids: list[int], count: int) -> Iterator[int]:
    """So many tokens, or answers with classes or labels."""
    if isinstance(model, Transformer):
        yield from generate(model, ids, max_new_tokens=count)
        return
    if isinstance(model, Cnn):
        batch = torch.full((1, *model.image_size), 127, dtype=torch.uint8)  # a grey picture: all take as long
    else:
        batch = torch.tensor([ids[: model.max_seq_len]])
    for _ in range(count):
        with torch.inference_mode():
            yield int(model(batch).argmax())


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
