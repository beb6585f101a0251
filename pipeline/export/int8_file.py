"""ONNX with weights in 8 bits: the graph that generates where the model writes text, else the plain one.

ONNX Runtime's own quantization. The embedding stays one matrix for both ends of the model, so that the file is little
more than a quarter of that in float32. Weights are unsigned: processors without VNNI overflow in products of an
unsigned with a signed number.
"""

# ruff: noqa: PLC0415 - each function imports the heavy libraries that it needs

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.onnx_files import (
    inspect_cached,
    inspect_onnx,
    open_cached,
    open_onnx,
    write_cached,
    write_onnx,
)
from pipeline.export.source import Run, Source
from pipeline.spec.carried import WRITES_TEXT

if TYPE_CHECKING:
    from onnx import ModelProto

    from pipeline.export.runner import Graph, Ids

_QUANTIZED = ["MatMul", "Gather"]  # what holds the weights of a transformer
_CONVOLVED = ["Conv", "MatMul", "Gemm"]  # and of a network for pictures
_CALIBRATION_TEXTS = 8  # each of the longest length: 2,048 tokens of the default model


def write_int8(source: Source, path: Path) -> None:
    """Write an ONNX file whose weights are 8-bit integers.

    With `dynamic`, the range of activations is measured while the model runs. With `static`, it is measured beforehand
    on texts that the model writes itself, so that no data is needed.

    Raises:
        ExportError: it is not said how.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    if source.quantization is None:
        hint = "set export.quantization to dynamic or static"
        raise ExportError("int8 needs to know how to quantize", where=str(path), hint=hint)
    writes_text = source.description["task_type"] in WRITES_TEXT
    operators = _QUANTIZED if source.model.input_name == "ids" else _CONVOLVED
    with tempfile.TemporaryDirectory(prefix="foundry-int8-") as scratch, _quiet_quantization():
        whole = Path(scratch) / "float32.onnx"
        (write_cached if writes_text else write_onnx)(source, whole)
        shared: dict[str, Any] = {
            "op_types_to_quantize": operators,
            "per_channel": True,
            "weight_type": QuantType.QUInt8,
            "extra_options": {
                "MatMulConstBOnly": True,  # the products of attention have no weights
                "DefaultTensorType": TensorProto.FLOAT,  # what comes of operators that ONNX itself does not know
            },
        }
        if source.quantization == "dynamic":
            quantize_dynamic(whole if writes_text else _without_shapes(whole), path, **shared)
        else:
            shared["activation_type"] = QuantType.QUInt8
            quantize_static(whole, path, _reader(whole), quant_format=QuantFormat.QDQ, **shared)


def _without_shapes(path: Path) -> ModelProto:
    """A graph without what its exporter says of shapes on the way.

    The quantizer turns the weight of a classifier's last layer and keeps the shape that it had, which then looks wrong.
    """
    import onnx

    model = onnx.load(path)
    model.graph.ClearField("value_info")
    return model


@contextmanager
def _quiet_quantization() -> Iterator[None]:
    """Hide the advice to preprocess the graph, which its exporter has done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _reader(graph_file: Path) -> Any:
    """What quantization measures activations on: texts of the model's own, each read at once."""
    from onnxruntime.quantization import CalibrationDataReader

    from pipeline.export.runner import Graph

    graph = Graph(graph_file)
    texts = own_texts(graph, _CALIBRATION_TEXTS)

    class Texts(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
        def __init__(self) -> None:
            self._rows = iter(texts)

        def get_next(self) -> dict[str, Any] | None:
            row = next(self._rows, None)
            return None if row is None else graph.whole(row[None])

    return Texts()


def own_texts(graph: Graph, count: int, *, first: int = 1, seed: int = 0) -> Ids:
    """(B, T) ids that the model writes from nothing, as likely as it finds them, each as long as it can be.

    Args:
        graph: of the model.
        count: B.
        first: the token that begins a document.
        seed: of the sampling.
    """
    chance = np.random.default_rng(seed)
    fresh = np.full((count, 1), first, dtype=np.int64)
    seen, cache = [fresh], graph.cache(count)
    while len(seen) < graph.max_seq_len:
        logits = graph.step(fresh, cache)
        scores = logits[:, -1] + chance.gumbel(size=logits[:, -1].shape)  # the largest is a sample of the softmax
        fresh = scores.argmax(-1)[:, None]
        seen.append(fresh)
    return np.concatenate(seen, axis=1)


def inspect_int8(path: Path) -> dict[str, Any]:
    """Check an ONNX file, and that weights in it are 8-bit integers.

    Raises:
        ExportError: it is not a valid model, or not the kind we write.
    """
    import onnx

    found = inspect_cached(path) if _has_cache(path) else inspect_onnx(path)
    graph = onnx.load(path).graph
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    quantized = [weight.name for weight in graph.initializer if weight.data_type in kinds and len(weight.dims) > 1]
    if not quantized:
        raise ExportError("no weight in it has 8 bits", where=str(path))
    return {**found, "quantized_weights": len(quantized)}


def open_int8(path: Path, threads: int) -> Run:
    """Open it with ONNX Runtime, with its cache if it has one."""
    return (open_cached if _has_cache(path) else open_onnx)(path, threads)


def _has_cache(path: Path) -> bool:
    """Whether a graph takes keys and values; the names of its inputs stand near the end of the file."""
    return b"past_key_values.0.key" in path.read_bytes()
