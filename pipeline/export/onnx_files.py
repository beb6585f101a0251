"""ONNX: a graph of the whole model, and for models that write text a second one that keeps keys and values.

Importing this file imports neither torch nor onnxruntime: a process that runs an ONNX file needs no torch.
"""

# ruff: noqa: PLC0415 - each function imports the one heavy library that it needs

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.source import FREE, Inputs, Logits, Run, Source

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

    from pipeline.export.runner import Graph

_ONE_FILE_LIMIT = 2_000_000_000  # bytes; a protobuf message, which an ONNX file is, cannot exceed 2 GiB


def write_onnx(source: Source, path: Path) -> None:
    """Write one ONNX file with the output `logits`, float32: see `Model.logits_shape`.

    Its input is `ids` (batch, length) int64, or `pictures` (batch, channels, height, width) uint8.
    """
    from pipeline.export.traced import graph_of

    taken = source.model.input_name
    free = (dict(enumerate(FREE[taken])),)
    program = _translated(source, graph_of(source.model), inputs=[taken], outputs=["logits"], free=free)
    _save(source, program, path)


def write_cached(source: Source, path: Path) -> None:
    """Write an ONNX file that generates: it keeps keys and values. See `generating_graph`."""
    import onnx

    from pipeline.export.generating_graph import generating_graph
    from pipeline.models.transformer import Transformer

    assert isinstance(source.model, Transformer)
    graph = generating_graph(source.model, source.opset)
    onnx.save(graph, path, save_as_external_data=_is_large(source), location=f"{path.name}.data")


def _translated(
    source: Source, program: ExportedProgram, *, inputs: list[str], outputs: list[str], free: tuple[Any, ...]
) -> ONNXProgram:
    """A traced model in the operators of ONNX; `free` gives the free dimensions of each input their names."""
    import torch

    with _quiet_onnx_export():
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=source.opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=free,
            verbose=False,
        )
    assert found is not None  # only the exporter without dynamo returns None
    for node in found.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: they name folders of this machine
    if source.model.input_name == "ids":
        found.model.metadata_props["max_seq_len"] = str(source.model.max_seq_len)
    return found


def _save(source: Source, program: ONNXProgram, path: Path) -> None:
    program.save(path, external_data=_is_large(source))


def _is_large(source: Source) -> bool:
    """Whether the weights need a file of their own."""
    return sum(parameter.nbytes for parameter in source.model.parameters()) > _ONE_FILE_LIMIT


@contextmanager
def _quiet_onnx_export() -> Iterator[None]:
    """Hide what the exporter says about itself: a missing torchvision, a deprecated call, one name for many inputs."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
            yield
    finally:
        registration.setLevel(level)


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Check an ONNX file against the ONNX standard, and that batch and length are free.

    Raises:
        ExportError: it is not a valid model, or not the kind we write.
    """
    found = _inspect(path)
    shapes = found["shapes"]
    logits = shapes.get("logits", [])
    taken = next((name for name in FREE if name in shapes), "")
    free = list(FREE.get(taken, ()))
    if not free or shapes[taken][: len(free)] != free or logits[:-1] not in (free, ["batch"]):
        raise ExportError(f"inputs and outputs have other shapes than they should: {shapes}", where=str(path))
    return found


def inspect_cached(path: Path) -> dict[str, Any]:
    """Check an ONNX file with keys and values: it is valid, and batch, length and past are free.

    Raises:
        ExportError: it is not a valid model, or not the kind we write.
    """
    from pipeline.export.runner import IDS, LENGTH, LOGITS, PAST, PRESENT, TOTAL

    found = _inspect(path)
    shapes = found["shapes"]
    held, given = (
        [shape for name, shape in shapes.items() if name.startswith(prefix) and name.endswith((".key", ".value"))]
        for prefix in (PAST, PRESENT)
    )
    if (
        not held
        or len(held) != len(given)
        or any([shape[0], shape[2]] != ["batch", "past"] for shape in held)
        or any(not isinstance(dim, str) for shape in given for dim in (shape[0], shape[2]))
        or shapes.get(IDS) != ["batch", "length"]
        or shapes.get(LENGTH) != ["batch"]  # files of earlier versions have none
        or shapes.get(TOTAL) != []
        or shapes.get(LOGITS, [])[:-1] != ["batch", "length"]
    ):
        raise ExportError(f"inputs and outputs have other shapes than they should: {shapes}", where=str(path))
    return {**found, "shapes": {name: shapes[name] for name in (IDS, LOGITS)}, "keys_and_values": len(held)}


def _inspect(path: Path) -> dict[str, Any]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"not a valid ONNX model: {reason}", where=str(path)) from error
    return {
        "opset": next(entry.version for entry in graph.opset_import if entry.domain == ""),
        "ir_version": graph.ir_version,
        "nodes": len(graph.graph.node),
        "shapes": {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.graph.input, *graph.graph.output)
        },
    }


def open_onnx(path: Path, threads: int) -> Run:
    """Open an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; they are raised as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def logits(inputs: Inputs) -> Logits:
        found: Logits = session.run(["logits"], {taken.name: inputs})[0]
        return found

    return Run(logits)


def open_cached(path: Path, threads: int) -> Run:
    """Open an ONNX file with keys and values, by the code that users run it with."""
    from pipeline.export.runner import Graph

    return CachedRun(Graph(path, threads))


class CachedRun(Run):
    """A graph with keys and values. Logits come in two steps, the last token by itself, so that both are compared."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(self._in_two_steps)
        self._graph = graph

    def _in_two_steps(self, ids: Inputs) -> Logits:
        ids = ids.astype(np.int64, copy=False)
        cache = self._graph.cache(len(ids))
        if ids.shape[1] == 1:
            return self._graph.step(ids, cache)
        before = self._graph.step(ids[:, :-1], cache)
        return np.concatenate((before, self._graph.step(ids[:, -1:], cache)), axis=1)

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        """The likeliest continuation, each token from a pass over the one before it."""
        fresh, cache, found = prompt, self._graph.cache(), []
        for _ in range(tokens):
            logits = self._graph.step(np.array([fresh], dtype=np.int64), cache)
            fresh = [int(logits[0, -1].argmax())]
            found += fresh
        return found
