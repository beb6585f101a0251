"""The formats that a model is exported to: how each is written, inspected and opened again, in one table.

Importing this file imports neither torch nor onnxruntime: a process that runs an ONNX file needs no torch.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.encoded import read_metadata
from pipeline.errors import ExportError
from pipeline.export import gguf_file, hf_folder, int8_file, onnx_files, torch_files
from pipeline.export.source import Quantization, Run, Source, copy_beside
from pipeline.spec.carried import WRITES_TEXT, Shape, refusal

RUNNER = "runner.py"  # generates with the cache, without PyTorch and without this toolkit


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        file: the name of what it writes, a file or a folder.
        write: (source, path).
        inspect: path → details for the report; raises FoundryError where it is not what the format says.
        open: (path, threads) → the export, ready to run.
        imports: the module that opening it imports; what opens it imports that first, before there is a file.
        rounded: whether its weights are rounded, so that a logit may differ by more than arithmetic does.
        one_document: whether every text is one document to it, also of a model that keeps several of a text apart.
        needs: the package beside ours that opens it, and the extra that brings it; None where ours suffice.
    """

    file: str
    write: Callable[[Source, Path], None]
    inspect: Callable[[Path], dict[str, Any]]
    open: Callable[[Path, int], Run]
    imports: str
    rounded: bool = False
    one_document: bool = False
    needs: tuple[str, str] | None = None

    def size(self, folder: Path) -> int:
        """Bytes of everything this format wrote into `folder`."""
        path = folder / self.file
        files = path.rglob("*") if path.is_dir() else folder.glob(f"{self.file}*")  # model.onnx.data beside model.onnx
        return sum(file.stat().st_size for file in files if file.is_file())


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        "model.onnx", onnx_files.write_onnx, onnx_files.inspect_onnx, onnx_files.open_onnx, "onnxruntime"
    ),
    "onnx_cache": Format(
        "model.cache.onnx",
        onnx_files.write_cached,
        onnx_files.inspect_cached,
        onnx_files.open_cached,
        "onnxruntime",
        one_document=True,
    ),
    "int8": Format(
        "model.int8.onnx",
        int8_file.write_int8,
        int8_file.inspect_int8,
        int8_file.open_int8,
        "onnxruntime",
        rounded=True,
        one_document=True,
    ),
    "torchscript": Format(
        "model.torchscript.pt",
        torch_files.write_torchscript,
        torch_files.inspect_torchscript,
        torch_files.open_torchscript,
        "torch",
    ),
    "torch_export": Format(
        "model.pt2",
        torch_files.write_torch_export,
        torch_files.inspect_torch_export,
        torch_files.open_torch_export,
        "torch._export",  # what torch.export.load imports
    ),
    "pytorch": Format(
        "pytorch", torch_files.write_pytorch, torch_files.inspect_pytorch, torch_files.open_pytorch, "torch"
    ),
    "fp16": Format(
        "fp16", torch_files.write_fp16, torch_files.inspect_pytorch, torch_files.open_pytorch, "torch", rounded=True
    ),
    "bf16": Format(
        "bf16", torch_files.write_bf16, torch_files.inspect_pytorch, torch_files.open_pytorch, "torch", rounded=True
    ),
    "hf": Format(
        "hf",
        hf_folder.write_hf,
        hf_folder.inspect_hf,
        hf_folder.open_hf,
        "transformers.models.auto.modeling_auto",
        one_document=True,
        needs=("transformers", "hub"),
    ),
    "gguf": Format(
        "model.gguf",
        gguf_file.write_gguf,
        gguf_file.inspect_gguf,
        gguf_file.open_gguf,
        "torch",
        one_document=True,
        needs=("gguf", "gguf"),
    ),
}  # fmt: skip


def require_packages(formats: Iterable[str]) -> None:
    """Insist on the packages that formats are written and checked with.

    Raises:
        ExportError: one is not installed.
    """
    for name in formats:
        needs = FORMATS[name].needs
        if needs is not None and importlib.util.find_spec(needs[0]) is None:
            hint = f"pip install 'model-foundry[{needs[1]}]', or take {name} out of export.formats"
            raise ExportError(f"format {name} needs {needs[0]}, which is not installed", hint=hint)


def write_formats(
    model_folder: Path, folder: Path, *, formats: list[str], opset: int, quantization: Quantization | None = None
) -> None:
    """Export a model to each format, with its tokenizer, its spec and what runs it beside them.

    Args:
        model_folder: of the train stage.
        folder: an existing folder; its manifest is the caller's to write.
        formats: names from `FORMATS`.
        opset: version of the ONNX operator set.
        quantization: how `int8` is made.

    Raises:
        ArtifactError: the model folder is damaged.
        ExportError: a format cannot carry the model, or needs a package that is not installed; names it.
    """
    from pipeline.models.store import load_model  # noqa: PLC0415 - imports torch

    model, description = load_model(model_folder)
    _refuse_what_is_not_carried(formats, description, model_folder)
    require_packages(formats)
    source = Source(model, model_folder, opset, quantization)
    copy_beside(model_folder, folder)
    for name in formats:
        FORMATS[name].write(source, folder / FORMATS[name].file)
    if {"onnx_cache", "int8"} & {*formats} and description["task_type"] in WRITES_TEXT:
        shutil.copyfile(Path(__file__).with_name(RUNNER), folder / RUNNER)


def _refuse_what_is_not_carried(formats: list[str], description: Mapping[str, Any], model_folder: Path) -> None:
    """Hold the model, which need not be that of today's spec, against the formats."""
    tokenizer = read_metadata(model_folder)
    shape = Shape.of(description["task_type"], tokenizer.get("tokenizer_type", ""), description["model"])
    for name in formats:
        found = refusal(name, shape)
        if found:
            reason, hint = found
            raise ExportError(f"{name} cannot carry this model: {reason}", where=str(model_folder), hint=hint)
