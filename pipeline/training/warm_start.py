"""Warm start: a new run begins with the weights of another one, once they are sure to fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ArtifactError, TrainingError
from pipeline.files import MANIFEST, read_artefact, verify_manifest
from pipeline.models.store import BEST as WEIGHTS
from pipeline.models.store import DESCRIPTION
from pipeline.training.run_folder import STATE, read_metadata

_TOKENIZER = "tokenizer.model"
# Arguments of a model that may differ from that of the weights: they decide how weights begin (init_std, zero_init),
# what training does beside them (dropout, separate_documents), or only what the shapes of the tensors tell as well.
_FREE = ("init_std", "zero_init", "dropout", "attention_dropout", "separate_documents", "max_seq_len", "num_kv_heads")
_MOST = 5  # differences that a message has room for


@dataclass(frozen=True)
class Start:
    """Where the first weights of a run come from.

    Attributes:
        path: of a model folder or a checkpoint, as the spec says it.
        sha256: of the weights file in it.
    """

    path: str
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """For checkpoints and reports."""
        return asdict(self)


def read_start(path: str) -> Start:
    """What a run would start from, after every file of the folder was checked.

    Args:
        path: of a model folder (of the train stage or exported) or of a checkpoint.

    Raises:
        TrainingError: the folder is missing or damaged, or is neither.
    """
    files = _files(Path(path))
    if WEIGHTS not in files or not {DESCRIPTION, STATE} & files.keys():
        hint = "training.resume_from_checkpoint takes a model folder (one with model.safetensors and model.json), a "
        hint += "checkpoint, or null"
        raise TrainingError("this is neither a model folder nor a checkpoint", where=path, hint=hint)
    return Start(path, files[WEIGHTS]["sha256"])


def remembered_starts(runs: Path, path: str) -> Iterator[tuple[str, Start]]:
    """What unfinished runs began with, for when the folder itself has gone: their checkpoints hold all they need.

    Args:
        runs: the folder of all run folders.
        path: that the spec starts from; runs that began with others are left out.

    Yields:
        The name of a run folder, and what it began with.
    """
    for state in sorted(runs.glob(f"*/checkpoint-*/{STATE}")):
        try:
            start = read_artefact(state, "checkpoint_state").get("start")
        except ArtifactError:
            continue  # damaged: whoever goes on from a checkpoint says so
        if start is not None and start["path"] == path:
            yield state.parents[1].name, Start(**start)


def start_from(start: Start, model: nn.Module, *, arguments: Mapping[str, Any], tokenizer: str | None) -> None:
    """Give a new model the weights of another run; moments, steps, random states and data order stay a new run's.

    Args:
        start: from `read_start`.
        model: in float32, on the CPU; its weights are replaced.
        arguments: of its class.
        tokenizer: SHA-256 of the tokenizer model that the text is encoded with; None: there is none.

    Raises:
        TrainingError: the weights belong to another architecture or vocabulary; names what differs.
    """
    folder = Path(start.path)
    weights = load_file(folder / WEIGHTS)
    found = [
        *_other_arguments(_described(folder), arguments),
        *_other_tokenizer(_tokenizer_of(folder), tokenizer),
        *_other_tensors(weights, model.state_dict()),
    ]
    if found:
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise TrainingError(
            f"the weights to start from do not fit this experiment: {'; '.join(found[:_MOST])}{more}",
            where=start.path,
            hint="make the spec (sections model, task, tokenizer and dataset) like the one they come from, whose "
            "settings stand beside them, or set training.resume_from_checkpoint to null",
        )
    model.load_state_dict(weights)


def _files(folder: Path) -> dict[str, Any]:
    """The files of a folder by its manifest, after each was checked."""
    try:
        files: dict[str, Any] = verify_manifest(folder, rebuild="foundry run")["files"]
    except ArtifactError as error:
        hint = "copy the folder anew from where it was made, or set training.resume_from_checkpoint to another or null"
        raise TrainingError(f"these weights cannot be started from: {error}", hint=hint) from error
    return files


def _described(folder: Path) -> dict[str, Any]:
    """What the weights' own run says of its model: all arguments, or of a checkpoint the settings."""
    if (folder / DESCRIPTION).exists():
        described: dict[str, Any] = read_artefact(folder / DESCRIPTION, "model")["model"]
    else:
        described = read_artefact(folder / STATE, "checkpoint_state").get("spec", {}).get("model", {})
    return described


def _tokenizer_of(folder: Path) -> str | None:
    if (folder / DESCRIPTION).exists():
        known = read_artefact(folder / MANIFEST, "manifest")["files"].get(_TOKENIZER)
        return None if known is None else str(known["sha256"])
    tokenizer: str | None = read_metadata(folder)["tokenizer"]
    return tokenizer


def _other_arguments(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for name, value in theirs.items():
        if name not in _FREE and name in ours and ours[name] != value:
            yield f"{name} is {ours[name]}, theirs is {value}"


def _other_tokenizer(theirs: str | None, ours: str | None) -> Iterator[str]:
    if theirs != ours:
        yield "the text is encoded with another tokenizer than theirs"


def _other_tensors(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in ours:
            yield f"{name} is not part of the model"
        elif name not in theirs:
            yield f"{name} is missing"
        elif theirs[name].shape != ours[name].shape:
            yield f"{name} is {tuple(ours[name].shape)}, theirs is {tuple(theirs[name].shape)}"
