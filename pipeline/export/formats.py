"""The formats that a model is exported to: how each is written, inspected and opened again, in one table.

Importing this file imports neither torch nor onnxruntime: a process that runs an ONNX file needs no torch.
"""

# ruff: noqa: PLC0415 - each function imports the one heavy library that its format needs

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.data.encoded import beside_model, read_metadata
from pipeline.errors import ExportError
from pipeline.files import manifest_hash, read_artefact, verify_manifest, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.model import Model

Inputs = NDArray[np.int64] | NDArray[np.uint8]  # (B, T) token ids, or (B, C, H, W) pixels of pictures
Logits = NDArray[np.float32]  # (B, T, V), or of a classifier (B, C)
Run = Callable[[Inputs], Logits]

_ONE_FILE_LIMIT = 2_000_000_000  # bytes; a protobuf message, which an ONNX file is, cannot exceed 2 GiB
# What a graph takes → the names of its free dimensions, which come first.
_FREE: Mapping[str, tuple[str, ...]] = {"ids": ("batch", "length"), "pictures": ("batch",)}


@dataclass(frozen=True)
class Source:
    """What is exported: a model in evaluation mode, the folder it came from, and the ONNX operator set to use."""

    model: Model
    folder: Path
    opset: int


def traced_length(max_seq_len: int) -> int:
    """Length, in tokens, of the example that tracing follows: shorter than the longest, so that both are tested."""
    return max(2, min(16, max_seq_len // 2))  # not 1: torch.export takes lengths 0 and 1 for constants


def _example(model: Model) -> Tensor:
    import torch

    from pipeline.models.cnn import Cnn

    if isinstance(model, Cnn):
        return torch.zeros((2, *model.image_size), dtype=torch.uint8)
    return torch.zeros((2, traced_length(model.max_seq_len)), dtype=torch.int64)


# ONNX


def write_onnx(source: Source, path: Path) -> None:
    """Write one ONNX file with the output `logits`, float32: see `Model.logits_shape`.

    Its input is `ids` (batch, length) int64, or `pictures` (batch, channels, height, width) uint8.
    """
    import torch

    model = source.model
    text = model.input_name == "ids"
    free = {0: torch.export.Dim("batch", min=1)}
    if text:
        free[1] = torch.export.Dim("length", min=1, max=model.max_seq_len)
    with _quiet_onnx_export():
        program = torch.onnx.export(
            model,
            (_example(model),),
            dynamo=True,
            opset_version=source.opset,
            input_names=[model.input_name],
            output_names=["logits"],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None  # only the exporter without dynamo returns None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: they name folders of this machine
    if text:
        program.model.metadata_props["max_seq_len"] = str(model.max_seq_len)
    size = sum(parameter.nbytes for parameter in model.parameters())
    program.save(path, external_data=size > _ONE_FILE_LIMIT)


@contextmanager
def _quiet_onnx_export() -> Iterator[None]:
    """Hide what the exporter says about itself: a missing torchvision, and a deprecated call inside torch."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.setLevel(level)


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Check an ONNX file against the ONNX standard, and that batch and length are free.

    Raises:
        ExportError: it is not a valid model, or not the kind we write.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"not a valid ONNX model: {reason}", where=str(path)) from error
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    logits = shapes.get("logits", [])
    taken = next((name for name in _FREE if name in shapes), "")
    free = list(_FREE.get(taken, ()))
    if not free or shapes[taken][: len(free)] != free or logits[:-1] not in (free, ["batch"]):
        raise ExportError(f"inputs and outputs have other shapes than they should: {shapes}", where=str(path))
    return {
        "opset": next(entry.version for entry in graph.opset_import if entry.domain == ""),
        "ir_version": graph.ir_version,
        "nodes": len(graph.graph.node),
        "shapes": shapes,
    }


def open_onnx(path: Path, threads: int) -> Run:
    """Open an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; they are raised as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(inputs: Inputs) -> Logits:
        logits: Logits = session.run(["logits"], {taken.name: inputs})[0]
        return logits

    return run


# TorchScript


def write_torchscript(source: Source, path: Path) -> None:
    """Write a traced TorchScript module, which libtorch runs without Python."""
    import torch

    console.warn("PyTorch has deprecated TorchScript: keep it for programs that need libtorch, prefer ONNX for others")
    with torch.no_grad(), _quiet_torchscript():
        torch.jit.trace(source.model, (_example(source.model),)).save(path)  # type: ignore[no-untyped-call]


@contextmanager
def _quiet_torchscript() -> Iterator[None]:
    """Hide the deprecation warnings of the calls that make and open TorchScript; we say it in words of our own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def inspect_torchscript(path: Path) -> dict[str, Any]:
    """Check that a TorchScript file opens and takes one tensor.

    Raises:
        ExportError: it does not.
    """
    import torch

    try:
        with _quiet_torchscript():
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:  # ValueError: damaged names inside it are not UTF-8
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"not a TorchScript file that this torch reads: {reason}", where=str(path)) from error
    arguments = [argument.name for argument in module.forward.schema.arguments[1:]]
    if len(arguments) != 1 or arguments[0] not in _FREE:
        raise ExportError(
            f"it takes {', '.join(arguments) or 'nothing'} instead of {' or '.join(_FREE)}", where=str(path)
        )
    return {"arguments": arguments, "graph_nodes": len(list(module.inlined_graph.nodes()))}


def open_torchscript(path: Path, threads: int) -> Run:
    """Open a TorchScript file with torch."""
    import torch

    torch.set_num_threads(threads)
    with _quiet_torchscript():
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return _run_in_torch(module)


def _run_in_torch(module: Callable[[Tensor], Tensor]) -> Run:
    import torch

    def run(ids: Inputs) -> Logits:
        with torch.inference_mode():
            logits: Logits = module(torch.from_numpy(ids)).numpy()
        return logits

    return run


# PyTorch


def write_pytorch(source: Source, path: Path) -> None:
    """Write a model folder: safetensors, JSON, tokenizer, manifest; no pickle, so opening it runs no code."""
    from pipeline.models.store import DESCRIPTION, save_model

    path.mkdir()
    save_model(path, source.model, read_artefact(source.folder / DESCRIPTION, "model"))
    _copy_beside(source.folder, path)
    write_manifest(path, stage="export", sections={}, inputs={"model": manifest_hash(source.folder)})


def inspect_pytorch(path: Path) -> dict[str, Any]:
    """Check every file of a model folder against its manifest.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    manifest = verify_manifest(path, rebuild=REBUILD)
    return {"files": {name: entry["bytes"] for name, entry in manifest["files"].items()}}


def open_pytorch(path: Path, threads: int) -> Run:
    """Open a model folder with torch."""
    import torch

    from pipeline.models.store import load_model

    torch.set_num_threads(threads)
    return _run_in_torch(load_model(path)[0])


# The table

REBUILD = "foundry run --from export --force"


@dataclass(frozen=True)
class Format:
    """One format: the name of what it writes, and the functions that write, inspect and open it."""

    file: str
    write: Callable[[Source, Path], None]
    inspect: Callable[[Path], dict[str, Any]]  # details for the report; raises FoundryError
    open: Callable[[Path, int], Run]  # (path, threads)

    def size(self, folder: Path) -> int:
        """Bytes of everything this format wrote into `folder`."""
        path = folder / self.file
        files = path.rglob("*") if path.is_dir() else folder.glob(f"{self.file}*")  # model.onnx.data beside model.onnx
        return sum(file.stat().st_size for file in files if file.is_file())


FORMATS: Mapping[str, Format] = {
    "onnx": Format("model.onnx", write_onnx, inspect_onnx, open_onnx),
    "torchscript": Format("model.torchscript.pt", write_torchscript, inspect_torchscript, open_torchscript),
    "pytorch": Format("pytorch", write_pytorch, inspect_pytorch, open_pytorch),
}


def write_formats(model_folder: Path, folder: Path, *, formats: list[str], opset: int) -> None:
    """Export a model to each format, with its tokenizer and its spec beside them.

    Args:
        model_folder: of the train stage.
        folder: an existing folder; its manifest is the caller's to write.
        formats: names from `FORMATS`.
        opset: version of the ONNX operator set.

    Raises:
        ArtifactError: the model folder is damaged.
        ExportError: a format cannot be written; names it.
    """
    from pipeline.models.store import load_model

    source = Source(load_model(model_folder)[0], model_folder, opset)
    _copy_beside(model_folder, folder)
    for name in formats:
        FORMATS[name].write(source, folder / FORMATS[name].file)


def _copy_beside(source: Path, target: Path) -> None:
    for name in (*beside_model(read_metadata(source)), "spec.json"):  # to use a model, and to know how it was made
        shutil.copyfile(source / name, target / name)
