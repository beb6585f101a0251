"""Measures how fast this machine works at a spec's model, in about two seconds and without touching the project.

It runs the work of the train stage as it is: random tokens through the model of the spec, backwards, clipped and
updated, one evaluation's batch, one checkpoint (into a temporary folder), some next tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from pipeline.export.generating_graph import generating_graph
from pipeline.export.runner import GRAPH, Graph
from pipeline.files import write_manifest
from pipeline.models.bert import masked_places
from pipeline.models.generate import generate
from pipeline.models.model import Model
from pipeline.models.table import arguments_of, build_model
from pipeline.models.transformer import Transformer
from pipeline.spec.estimate import Pace
from pipeline.spec.estimate_memory import number_bytes, scored_rows, training_memory
from pipeline.spec.estimate_model import Shape, count, flops_per_token, weight_bytes
from pipeline.tasks.language_model import loss_sum
from pipeline.training import hardware
from pipeline.training.optimizer import adamw
from pipeline.training.precision import arithmetic, convert_weights, in_float32

_PASSES_SECONDS = 1.2  # of forward and backward passes, after the first; the rest of the two seconds is for the others
_FEWEST_PASSES = 3
_LONGEST_PASS = 0.4  # seconds that one pass may be expected to take; three of them fill the time above
_SHARE_OF_MATMUL = 0.3  # of the speed of one large matrix product that a whole pass reaches; measured: 0.3 to 0.4
_NEXT_TOKENS = 40
_WARM_UP_TOKENS = 8
_SHORT_TEXT = 8  # tokens, as many as prompts have


def calibrate(settings: dict[str, Any], shape: Shape) -> Pace | str:
    """Time the training of a spec's model.

    A model too large to pass a batch through in time is measured with fewer sequences, and then with fewer layers.

    Args:
        settings: the sections of a resolved experiment.
        shape: of its model.

    Returns:
        The pace, or in words why there is none: the model does not fit into memory.

    Raises:
        TrainingError: the spec asks for a device that is not there.
    """
    asked = settings["hardware"]
    execution = hardware.choose_execution(
        device=asked["device"],
        precision=asked["precision"],
        use_amp=asked["use_amp"],
        compile_mode=None,
        num_threads=asked["num_threads"],
        flops=0.0,
    )
    batch_size = settings["training"]["batch_size"]
    rows, proxy = _proxy(shape, batch_size)
    needed, free = _memory(proxy, rows), psutil.virtual_memory().available / 1e6
    if needed > free:
        return f"measuring needs about {needed:,.0f} MB of memory, and {free:,.0f} MB are free"
    hardware.keep_freed_memory()
    if settings["reproducibility"]["deterministic"]:
        hardware.make_deterministic()

    torch.manual_seed(0)
    sizes = {"vocab_size": proxy.vocab_size, "num_layers": proxy.num_layers}
    sizes |= {"pad_id": proxy.vocab_size} if proxy.is_encoder else {}  # no random token is padding
    model = build_model(arguments_of(settings["model"], sizes))
    model.recompute = asked["use_gradient_checkpointing"]
    convert_weights(model, execution.precision)
    model.to(execution.device).train()
    epsilon = settings["optimizer"]["adam_epsilon"]
    optimizer = adamw(model, learning_rate=0.0, beta1=0.9, beta2=0.95, epsilon=epsilon, weight_decay=0.0)
    scored_at_once = scored_rows(targets=proxy.targets, choices=proxy.choices)
    ids = torch.randint(proxy.vocab_size, (scored_at_once, proxy.max_seq_len), device=execution.device)

    def work(rows: int) -> Callable[[], None]:
        return _pass(model, ids[:1].expand(rows, -1).contiguous(), execution.device, execution.precision)

    if rows < batch_size:
        more = min(batch_size, int(rows * _LONGEST_PASS / _fastest(work(rows), times=2)))
        rows = more if more > rows and _memory(proxy, more) < free else rows  # few sequences are slow ones
    passed = _time_of_pass(work(rows))
    updated = _time_of_update(model, optimizer)
    judged = in_float32(model)
    scored = _time_of_scoring(judged, ids)
    written = _time_of_checkpoint(model, optimizer)
    size = weight_bytes(proxy) * number_bytes(execution.precision) / number_bytes("32-true")
    flops = flops_per_token(proxy) * proxy.max_seq_len
    return Pace(
        device=execution.device,
        precision=execution.precision,
        num_threads=execution.num_threads,
        compiler=hardware.has_compiler(),
        learned_flops_per_second=rows * flops / passed,
        updated_per_second=count(proxy) / updated,
        scored_flops_per_second=scored_at_once * flops / 3 / scored,
        written_per_second=3 * size / written,
        layer_seconds=_time_of_answer(_answers(judged.eval())) / proxy.num_layers,
        served_layer_seconds=_time_of_answer(_served(judged)) / proxy.num_layers,
        measured=_said(shape, proxy, rows, batch_size),
    )


def _proxy(shape: Shape, batch_size: int) -> tuple[int, Shape]:
    """As many sequences, and as many layers, as can be expected to pass in time."""
    affordable = _LONGEST_PASS * _SHARE_OF_MATMUL * _matmul_flops_per_second()
    of_a_row = flops_per_token(shape) * shape.max_seq_len
    rows = min(batch_size, max(1, int(affordable / of_a_row)))
    layers = shape.num_layers if of_a_row <= affordable else max(1, int(shape.num_layers * affordable / of_a_row))
    return rows, replace(shape, num_layers=layers)


def _matmul_flops_per_second() -> float:
    size = 768
    a, b = torch.ones(size, size), torch.ones(size, size)
    return 2 * size**3 / _fastest(lambda: torch.mm(a, b), times=5)


def _said(shape: Shape, proxy: Shape, rows: int, batch_size: int) -> str:
    if rows == batch_size and proxy == shape:
        return "steps of this spec"
    layers = "" if proxy == shape else f" and {proxy.num_layers} of {shape.num_layers} layers"
    return f"{rows} of {batch_size} sequences{layers}, scaled by operations"


def _loss(model: Model, ids: Tensor) -> Tensor:
    """The loss of some sequences, of as many targets as training asks for."""
    if isinstance(model, Transformer):
        return loss_sum(model, ids, ids)
    places = torch.arange(masked_places(ids.shape[1]), device=ids.device).expand(len(ids), -1)
    return functional.cross_entropy(model(ids, places).flatten(0, 1), ids[:, : places.shape[1]].flatten())


def _memory(shape: Shape, rows: int) -> float:
    return training_memory(shape, batch_size=rows, precision="32-true", compiled=False)["peak_rss"]


def _pass(model: Model, ids: Tensor, device: str, precision: str) -> Callable[[], None]:
    """One forward and backward pass."""

    def work() -> None:
        model.zero_grad(set_to_none=True)
        with arithmetic(device, precision):
            loss = _loss(model, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for a GPU

    return work


def _time_of_pass(work: Callable[[], None]) -> float:
    """Seconds of one pass, the median of some."""
    work()  # chooses kernels and takes memory
    taken: list[float] = []
    while len(taken) < _FEWEST_PASSES or sum(taken) < _PASSES_SECONDS:
        taken.append(_seconds(work))
    return statistics.median(taken)


def _time_of_update(model: Model, optimizer: torch.optim.Optimizer) -> float:
    def work() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()

    work()  # makes the moments
    return _fastest(work, times=3)


def _time_of_scoring(model: Model, ids: Tensor) -> float:
    def work() -> None:
        with torch.inference_mode():
            _loss(model, ids).item()

    return _fastest(work, times=2)


def _time_of_checkpoint(model: Model, optimizer: torch.optim.Optimizer) -> float:
    """Seconds to write the weights and their moments, sync and hash them, in a folder that is removed again."""
    weights = model.state_dict()
    moments = {
        f"{kind}:{name}": optimizer.state[parameter][kind]
        for name, parameter in model.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq")
    }

    def work() -> None:
        save_file(weights, folder / "weights.safetensors")
        save_file(moments, folder / "moments.safetensors")
        write_manifest(folder, stage="train", sections={}, inputs={})

    with tempfile.TemporaryDirectory(prefix="foundry-plan-") as name:
        folder = Path(name)
        return _seconds(work)


def _time_of_answer(answers: Iterator[object]) -> float:
    """Seconds of one next token, or of what an encoder makes of a short text: the 95th percentile."""
    for _ in range(_WARM_UP_TOKENS):
        next(answers)
    taken = [_seconds(lambda: next(answers)) for _ in range(_NEXT_TOKENS)]
    return statistics.quantiles(taken, n=20)[-1]


def _served(model: Model) -> Iterator[object]:
    """Next tokens of a model that writes text, as the runner of its export finds them; otherwise as `_answers`."""
    if not isinstance(model, Transformer):
        yield from _answers(model)
        return
    with tempfile.TemporaryDirectory(prefix="foundry-plan-") as folder:
        path = Path(folder) / GRAPH
        onnx.save(generating_graph(model.cpu(), opset=18), path)
        graph = Graph(path)
    cache, token = graph.cache(), np.zeros((1, 1), dtype=np.int64)
    while True:
        if cache.length == graph.max_seq_len:
            cache = graph.cache()
        yield graph.step(token, cache).argmax()


def _answers(model: Model) -> Iterator[object]:
    count = _WARM_UP_TOKENS + _NEXT_TOKENS
    if isinstance(model, Transformer):
        yield from generate(model, [0], max_new_tokens=count)
        return
    text = torch.zeros(1, min(_SHORT_TEXT, model.max_seq_len), dtype=torch.int64)
    for _ in range(count):
        with torch.inference_mode():
            yield model(text)


def _fastest(work: Callable[[], object], *, times: int) -> float:
    """The least of some times: other load on the machine only ever adds to one."""
    return min(_seconds(work) for _ in range(times))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
