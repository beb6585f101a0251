"""The bundle: a folder that serves a model by itself, with everything that its user should know.

artifacts/                       what was exported, and the tokenizer
configs/task_spec.json           what the model does, as a document of kind `task`
configs/training_config.json     the whole spec that made it
configs/torchserve_config.json   how many requests are served at once, and how long they may take
inference.py, serving/           run it, from the command line or over HTTP, without Model Foundry
requirements.txt, Dockerfile     what that needs, pinned
README.md                        the model card: data, metrics, limits, licence
health_report.json, .md          the certificate of the export
metadata.json, manifest.json     what inference.py reads, and the SHA-256 of every file
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline import __version__, errors
from pipeline.data import picture_files, tokenizer
from pipeline.data.encoded import read_metadata
from pipeline.errors import ExportError
from pipeline.export import inference, runner
from pipeline.export.formats import FORMATS
from pipeline.export.model_card import model_card
from pipeline.export.report import markdown
from pipeline.export.source import REBUILD
from pipeline.export.subject import BUNDLE
from pipeline.files import (
    json_text,
    manifest_hash,
    output_folder,
    read_artefact,
    verify_manifest,
    write_artefact,
    write_atomic,
)
from pipeline.models.model import Model
from pipeline.models.store import load_model
from pipeline.models.transformer import Transformer
from pipeline.paths import OUTPUT_OF
from pipeline.spec import parse_spec

BUNDLE_FORMAT = 1
# Formats that inference.py opens, the quickest first → the package that does it.
RUNNABLE: Mapping[str, str] = {"onnx_cache": "onnxruntime", "onnx": "onnxruntime", "torchscript": "torch"}
TORCHSERVE = {  # the defaults of TorchServe's own documents for a model of this size on a CPU
    "minWorkers": 1,
    "maxWorkers": 4,
    "batchSize": 8,
    "maxBatchDelay": 100,  # ms
    "responseTimeout": 120,  # s
}
# inference.py and what it imports → the names that they have in a bundle.
_MODULES: Mapping[ModuleType, str] = {
    inference: "inference",
    runner: "serving.runner",
    errors: "serving.errors",
    tokenizer: "serving.tokenizer",
    picture_files: "serving.picture_files",
}
_DOCKERFILE = """\
# Serves the model of this folder on port 8080:
#     docker build -t {name} . && docker run --rm -p 8080:8080 {name}
FROM python:{python}-slim

RUN useradd --system --uid 10001 --no-create-home served
WORKDIR /srv/model
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .

# By number, so that Kubernetes can see that it is not root.
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=6s --start-period=30s --retries=3 \\
    CMD ["python", "inference.py", "--ping", "--port", "8080"]
CMD ["python", "inference.py", "--serve", "--host", "0.0.0.0", "--port", "8080"]
"""


def create_export_bundle(
    export_dir: Path,
    bundle_dir: Path | None = None,
    *,
    health: Mapping[str, Any],
    model_dir: Path = OUTPUT_OF["train"],
) -> Path:
    """Write a folder that serves an exported model by itself.

    Args:
        export_dir: of the export stage, or of `export_model`.
        bundle_dir: where to; None: `exports/model_<time>`.
        health: the report on the export, which goes into the bundle.
        model_dir: the model folder that the export was made from.

    Returns:
        The bundle.

    Raises:
        ArtifactError: the export or the model folder is damaged.
        ExportError: nothing that was exported can be served.
    """
    manifest = verify_manifest(export_dir, rebuild=REBUILD)
    model, description = load_model(model_dir)
    spec = read_artefact(export_dir / "spec.json", "spec")
    settings = manifest["sections"]["export"]
    about = _about(model, description, read_metadata(export_dir), formats=settings["formats"], health=health)
    card = model_card(about, spec=spec, description=description, health=health, licence=settings.get("license"))
    target = bundle_dir or Path("exports") / f"model_{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    inputs = {"model": manifest_hash(model_dir)}
    with output_folder(target, stage="export", sections=manifest["sections"], inputs=inputs) as folder:
        _copy_artifacts(export_dir, manifest["files"], folder / "artifacts")
        task = task_document(spec, model, about)
        write_artefact(folder / "configs" / "task_spec.json", "task_spec", task)
        write_artefact(folder / "configs" / "training_config.json", "training_config", spec)
        write_artefact(folder / "configs" / "torchserve_config.json", "torchserve_config", TORCHSERVE)
        _write_code(folder)
        write_atomic(folder / "requirements.txt", requirements(about))
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        write_atomic(folder / "Dockerfile", _DOCKERFILE.format(name=_tag(description["model_name"]), python=python))
        write_atomic(folder / "README.md", card)
        write_artefact(folder / "health_report.json", "health_report", health)
        write_atomic(folder / "health_report.md", markdown(health))
        write_artefact(folder / "metadata.json", "bundle_metadata", about)
    return target


def _about(
    model: Model,
    description: Mapping[str, Any],
    encoded: Mapping[str, Any],
    *,
    formats: list[str],
    health: Mapping[str, Any],
) -> dict[str, Any]:
    """What goes into metadata.json.

    Raises:
        ExportError: inference.py opens none of the formats, or does not know what to do with the model.
    """
    runs = next((name for name in RUNNABLE if name in formats), None)
    if runs is None:
        hint = f"add one of {', '.join(RUNNABLE)} to export.formats"
        raise ExportError(f"a bundle cannot serve {', '.join(formats)} alone", hint=hint)
    if "classes" not in encoded and not isinstance(model, Transformer):
        message = f"a bundle cannot serve a model for {description['task_type']}: it writes no text and has no classes"
        raise ExportError(message, hint="set export.export_bundle to false")
    pictures = {name: encoded[name] for name in ("image_size", "fit") if name in encoded}
    text = (
        {} if pictures else {"max_seq_len": model.max_seq_len, "bos_id": encoded["bos_id"], "eos_id": encoded["eos_id"]}
    )
    return {
        "format_version": BUNDLE_FORMAT,
        "model_name": description["model_name"],
        "task_type": description["task_type"],
        "model_type": model.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "toolkit_version": __version__,
        "formats": formats,
        "runs": {"format": runs, "file": FORMATS[runs].file},
        "health_score": health["health_score"],
        "all_passed": health["all_passed"],
        **({"classes": encoded["classes"]} if "classes" in encoded else {}),
        **({"label_threshold": description["label_threshold"]} if "label_threshold" in description else {}),
        **pictures,
        **text,
    }


def _copy_artifacts(source: Path, names: Iterable[str], target: Path) -> None:
    """Everything that was exported, but no earlier bundle and not the spec, which has a place of its own."""
    for name in names:
        if name != "spec.json" and not name.startswith(f"{BUNDLE}/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def task_document(spec: Mapping[str, Any], model: Model, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a model does, as a complete document of kind `task`.

    Args:
        spec: the experiment that made it.
        model: the model.
        about: what goes into metadata.json.
    """
    pictures, classes, several = "image_size" in about, about.get("classes"), "label_threshold" in about
    document = {
        "schema_version": 1,
        "kind": "task",
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", spec["task"]["task_name"]).strip("-._")[:100] or "task",
        "task_type": about["task_type"],
        "model_family": "decoder_only" if isinstance(model, Transformer) else "encoder_only",
        "modality": "vision" if pictures else "text",
        "input_fields": ["image"] if pictures else ["input_ids"],
        "target_field": None if classes is None else "labels" if several else "label",
        **({"loss_type": "bce_with_logits"} if several else {}),
        "metrics": ["loss", "f1" if several else "accuracy"],
        "input_schema": {"image_size": about["image_size"]} if pictures else {"max_length": about["max_seq_len"]},
        **({} if classes is None else {"output_schema": {"num_classes": len(classes)}}),
    }
    return parse_spec(json_text(document).encode(), "task_spec.json", "task").to_dict()


def _write_code(folder: Path) -> None:
    """inference.py and the modules that it imports, under the names that they have in a bundle."""
    write_atomic(folder / "serving" / "__init__.py", '"""What inference.py needs of Model Foundry."""\n')
    for module, name in _MODULES.items():
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        for other, new in _MODULES.items():
            source = source.replace(f"from {other.__name__} import", f"from {new} import")
        write_atomic(folder.joinpath(*name.split(".")).with_suffix(".py"), source)


def requirements(about: Mapping[str, Any]) -> str:
    """The packages that inference.py needs for a model, at the versions that it was checked with."""
    names = ["numpy", RUNNABLE[about["runs"]["format"]], "pillow" if "image_size" in about else "sentencepiece"]
    # A build such as 2.13.0+cpu is not on the package index under that name.
    return "".join(f"{name}=={version(name).split('+')[0]}\n" for name in sorted(names))


def _tag(name: str) -> str:
    """A name that Docker takes for an image."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"
