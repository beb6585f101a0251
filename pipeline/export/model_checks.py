"""Checks of an export as a whole, and of the model it was made from: one function each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.data.encoded import beside_model, read_metadata
from pipeline.errors import ExportError
from pipeline.export.compare import random_inputs, shape_name, shapes_of, short_name
from pipeline.export.source import REBUILD
from pipeline.export.subject import BUNDLE, Outcome, Subject
from pipeline.files import MANIFEST, manifest_hash, read_artefact, sha256_file, verify_manifest
from pipeline.models.cnn import Cnn
from pipeline.models.transformer import Transformer

_MB = 1_000_000  # bytes
_MEMORY_WARNING_MB = 1000


# Of the export as a whole


def integrity(subject: Subject) -> Outcome:
    """Every file is the one that was written, and the export is of this model."""
    manifest = verify_manifest(subject.folder, rebuild=REBUILD)
    if manifest["inputs"].get("model") != _identity(subject.model_folder):
        message = f"the export was made from another model than {subject.model_folder}"
        raise ExportError(message, where=str(subject.folder), hint=f"build it again with: {REBUILD}")
    return Outcome("passed", f"{len(manifest['files'])} files are as written", {"files": len(manifest["files"])})


def _identity(model_folder: Path) -> str:
    """The hash of a trained model's manifest; a copy among the formats of an export says whose copy it is."""
    manifest = read_artefact(model_folder / MANIFEST, "manifest")
    copied: str = manifest["inputs"].get("model", "")
    return copied if manifest["stage"] == "export" else manifest_hash(model_folder)


def tokenizer(subject: Subject) -> Outcome:
    """What stands between inputs and ids is byte for byte that of the model."""
    names = beside_model(read_metadata(subject.model_folder))
    swapped = [
        name
        for name in names
        if not (subject.folder / name).is_file()
        or sha256_file(subject.folder / name) != sha256_file(subject.model_folder / name)
    ]
    details = {"files": list(names), "not_of_the_model": swapped}
    if swapped:
        message = f"{' and '.join(swapped)}: not what the model was trained with"
        return Outcome("failed", message, details, f"build it again with: {REBUILD}")
    return Outcome("passed", f"{' and '.join(names)}: what the model was trained with", details)


def bundle(subject: Subject) -> Outcome:
    """Every file of the bundle is the one that was written, and what it serves is what was exported."""
    found = verify_manifest(subject.folder / BUNDLE, rebuild=REBUILD)["files"]
    served = {name.removeprefix("artifacts/"): file["sha256"] for name, file in found.items()}
    exported = {
        name: file["sha256"]
        for name, file in subject.manifest["files"].items()
        if not name.startswith(f"{BUNDLE}/") and name != "spec.json"
    }
    other = sorted(name for name, digest in exported.items() if served.get(name) != digest)
    if other:
        advice = f"build it again with: {REBUILD}"
        return Outcome("failed", f"not what was exported: {', '.join(other)}", {"not_as_exported": other}, advice)
    return Outcome("passed", f"{len(found)} files are as written", {"files": len(found)})


# Of the model


def architecture(subject: Subject) -> Outcome:
    """The model fits its tokenizer, where every id has a row in the embedding, or its pictures and their classes."""
    model = subject.model
    described = read_artefact(subject.folder / "tokenizer.json", "tokenizer", rebuild=REBUILD)
    if isinstance(model, Cnn):
        return _architecture_for_pictures(subject, model, described)
    if described["vocab_size"] > model.vocab_size:
        message = f"the tokenizer has {described['vocab_size']} pieces, the model {model.vocab_size} rows"
        raise ExportError(message, where=str(subject.folder / "tokenizer.json"), hint=f"build again: {REBUILD}")
    details = {
        "arguments": dict(subject.description["model"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer_pieces": described["vocab_size"],
    }
    return Outcome("passed", f"{model.model_type}, {details['parameters']:,} parameters", details)


def _architecture_for_pictures(subject: Subject, model: Cnn, pictures: Mapping[str, Any]) -> Outcome:
    theirs, ours = (pictures["image_size"], len(pictures["classes"])), (list(model.image_size), model.num_classes)
    if theirs != ours:
        message = f"the pictures have size and classes {theirs}, the model {ours}"
        raise ExportError(message, where=str(subject.folder / "tokenizer.json"), hint=f"build again: {REBUILD}")
    count = sum(parameter.numel() for parameter in model.parameters())
    details = {"arguments": dict(subject.description["model"]), "parameters": count, "classes": model.num_classes}
    return Outcome("passed", f"{model.model_type}, {count:,} parameters", details)


def parameters(subject: Subject) -> Outcome:
    """Every weight is a finite number, and no matrix is all zeros."""
    state = dict(subject.model.named_parameters())
    broken = sorted(name for name, value in state.items() if not bool(torch.isfinite(value).all()))
    dead = sorted(name for name, value in state.items() if value.dim() == 2 and not bool(value.any()))
    details = {"tensors": len(state), "not_finite": broken, "all_zero": dead}
    if broken:
        return Outcome("failed", f"NaN or Infinity in {', '.join(broken)}", details, "train again with a lower rate")
    if dead:
        return Outcome("warning", f"all zeros: {', '.join(dead)}", details, "train longer, or look at init_std")
    return Outcome("passed", f"{len(state)} tensors, all finite", details)


def shapes(subject: Subject) -> Outcome:
    """Inputs give logits of the right shape on every shape that the exports are compared on."""
    model = subject.model
    tried = shapes_of(model)
    pictures = isinstance(model, Cnn)
    for batch, length in tried:
        with torch.inference_mode():
            found = tuple(model(torch.from_numpy(random_inputs(model, batch, length))).shape)
        if found != model.logits_shape(batch, length):
            advice = "the model's class is at fault: look at its forward and logits_shape"
            return Outcome("failed", f"{shape_name(batch, None if pictures else length)} gives {found}", {}, advice)
    shown = [short_name(batch, None if pictures else length) for batch, length in tried]
    return Outcome("passed", f"{len(tried)} shapes", {"shapes": shown})


def memory(subject: Subject) -> Outcome:
    """An estimate of what a forward pass needs: the weights, and as much again."""
    estimate = 2 * sum(parameter.nbytes for parameter in subject.model.parameters()) / _MB
    details = {"estimated_mb": round(estimate, 1), "warning_above_mb": _MEMORY_WARNING_MB}
    if estimate > _MEMORY_WARNING_MB:
        return Outcome("warning", f"about {estimate:,.0f} MB", details, "make the model smaller for small machines")
    return Outcome("passed", f"about {estimate:,.1f} MB", details)


def forward_pass(subject: Subject) -> Outcome:
    """Logits are finite and the same twice; where each token has its own, none sees the tokens after it."""
    model = subject.model
    for batch in (1, 4):
        _, longest = shapes_of(model)[-1]
        ids = torch.from_numpy(random_inputs(model, batch, longest))
        with torch.inference_mode():
            logits, again = model(ids), model(ids)
        if not bool(torch.isfinite(logits).all()):
            return _wrong(f"NaN or Infinity in the logits at batch {batch}")
        if not torch.equal(logits, again):
            return _wrong(f"two passes differ at batch {batch}")
        if isinstance(model, Transformer) and not _is_causal(model, ids):
            return _wrong(f"a token sees the one after it at batch {batch}")
    found = "finite, repeatable and causal" if isinstance(model, Transformer) else "finite and repeatable"
    return Outcome("passed", f"{found} at batch 1 and 4")


def _wrong(message: str) -> Outcome:
    return Outcome("failed", message, {}, "train the model again: what was exported computes nonsense")


def _is_causal(model: Transformer, ids: torch.Tensor) -> bool:
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.vocab_size
    with torch.inference_mode():
        return torch.equal(model(ids)[:, :-1], model(changed)[:, :-1])
