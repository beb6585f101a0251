"""Formats that PyTorch opens: TorchScript, an exported program, and model folders in three precisions."""

# ruff: noqa: PLC0415 - torch is imported by the functions that need it: an ONNX file runs without

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import console
from pipeline.errors import ExportError
from pipeline.export.source import FREE, REBUILD, Inputs, Logits, Run, Source, copy_beside, example
from pipeline.files import manifest_hash, verify_manifest, write_manifest

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# TorchScript

_OF_THE_WRITER = ("version", "byteorder", ".data/serialization_id")  # records that it writes by itself


def write_torchscript(source: Source, path: Path) -> None:
    """Write a traced TorchScript module, which libtorch runs without Python."""
    import torch
    from torch.jit._trace import TracerWarning

    console.warn("PyTorch has deprecated TorchScript: keep it for programs that need libtorch, prefer ONNX for others")
    with torch.no_grad(), _quiet_torchscript():
        # GroupNorm looks whether there is more than one pixel to normalize: no matter how many pictures there are.
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"torch\.nn\.functional")
        torch.jit.trace(source.model, (example(source.model),)).save(path)  # type: ignore[no-untyped-call]
    _leave_out_sources(path)


def _leave_out_sources(path: Path) -> None:
    """Write a TorchScript file again without the records that say where each line of Python lies on this machine."""
    import torch

    whole = path.with_name(f"whole-{path.name}")
    path.rename(whole)
    reader = torch._C.PyTorchFileReader(str(whole))  # noqa: SLF001 - torch has no public way into its archives
    writer = torch._C.PyTorchFileWriter(str(path))  # noqa: SLF001
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in _OF_THE_WRITER:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    whole.unlink()


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
    if len(arguments) != 1 or arguments[0] not in FREE:
        raise ExportError(
            f"it takes {', '.join(arguments) or 'nothing'} instead of {' or '.join(FREE)}", where=str(path)
        )
    return {"arguments": arguments, "graph_nodes": len(list(module.inlined_graph.nodes()))}


def open_torchscript(path: Path, threads: int) -> Run:
    """Open a TorchScript file with torch."""
    import torch

    torch.set_num_threads(threads)
    with _quiet_torchscript():
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return run_in_torch(module)


def run_in_torch(module: Callable[[Tensor], Tensor]) -> Run:
    """An export that is a torch module."""
    import torch

    def logits(inputs: Inputs) -> Logits:
        with torch.inference_mode():
            found: Logits = module(torch.from_numpy(inputs)).numpy()
        return found

    return Run(logits)


# An exported program


def write_torch_export(source: Source, path: Path) -> None:
    """Write a `.pt2` file, PyTorch's own graph format, which runs without the code of the model."""
    import torch

    from pipeline.export.traced import program_of

    torch.export.save(program_of(source.model), path)


def inspect_torch_export(path: Path) -> dict[str, Any]:
    """Check that a `.pt2` file opens and takes one tensor.

    Raises:
        ExportError: it does not.
    """
    program = _load_program(path)
    taken = list(program.graph_signature.user_inputs)
    if len(taken) != 1 or taken[0] not in FREE:
        raise ExportError(f"it takes {', '.join(map(str, taken)) or 'nothing'}, not one tensor", where=str(path))
    return {"arguments": taken, "graph_nodes": len(program.graph.nodes)}


def open_torch_export(path: Path, threads: int) -> Run:
    """Open a `.pt2` file with torch."""
    import torch

    torch.set_num_threads(threads)
    return run_in_torch(_load_program(path).module())


def _load_program(path: Path) -> torch.export.ExportedProgram:
    import zipfile

    import torch

    if not zipfile.is_zipfile(path):
        raise ExportError("not a .pt2 file: it is no archive, or its end is missing", where=str(path))
    try:
        with path.open("rb") as file:  # given its path, torch leaves it open
            return torch.export.load(file)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"not a .pt2 file that this torch reads: {reason}", where=str(path)) from error


# A model folder


def write_pytorch(source: Source, path: Path) -> None:
    """Write a model folder: safetensors, JSON, tokenizer, manifest; no pickle, so opening it runs no code."""
    import torch

    _write_folder(source, path, torch.float32)


def write_fp16(source: Source, path: Path) -> None:
    """Write a model folder with weights in float16: half the size, 11 bits of precision, nothing beyond 65,504."""
    import torch

    largest = max(float(tensor.abs().max()) for tensor in source.model.state_dict().values())
    if largest > torch.finfo(torch.float16).max:
        message = f"a weight of {largest:,.0f} is too large for float16, which ends at 65,504"
        raise ExportError(message, where=str(path), hint="take bf16 instead of fp16 in export.formats")
    _write_folder(source, path, torch.float16)


def write_bf16(source: Source, path: Path) -> None:
    """Write a model folder with weights in bfloat16: half the size, the range of float32, 8 bits of precision."""
    import torch

    _write_folder(source, path, torch.bfloat16)


def _write_folder(source: Source, path: Path, dtype: torch.dtype) -> None:
    from pipeline.models.store import save_model

    path.mkdir()
    save_model(path, source.model, source.description, dtype=dtype)
    copy_beside(source.folder, path)
    write_manifest(path, stage="export", sections={}, inputs={"model": manifest_hash(source.folder)})


def inspect_pytorch(path: Path) -> dict[str, Any]:
    """Check every file of a model folder against its manifest.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    manifest = verify_manifest(path, rebuild=REBUILD)
    return {"files": {name: entry["bytes"] for name, entry in manifest["files"].items()}}


def open_pytorch(path: Path, threads: int) -> Run:
    """Open a model folder with torch; it computes in float32 whatever its weights are stored in."""
    import torch

    from pipeline.models.store import load_model

    torch.set_num_threads(threads)
    return run_in_torch(load_model(path)[0])
