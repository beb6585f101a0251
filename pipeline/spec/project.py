"""What a spec can be compared with in its project: reports of the last run, folders that it names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.paths import REPORTS, is_registered_name, registry_dir
from pipeline.spec.combinations import combinations_are_experiments
from pipeline.spec.devices import asked_devices
from pipeline.spec.document import value_at
from pipeline.spec.rule import Finding, InnerRule, Rule

_SPLIT = ("split_method", "validation_split", "test_split", "split_seed", "max_train_samples", "max_val_samples")
_CORPUS = ("dataset.dataset_name", *(f"dataset.{name}" for name in _SPLIT))
# A token of text is some three characters long (reports/tokenizer.json has it), so that with fewer than this a piece is
# seen fewer than ten times in an epoch: too few to learn what it means.
_CHARACTERS_FOR_A_PIECE = 30
WEIGHTS = "model.safetensors"  # in every model folder and checkpoint


@dataclass(frozen=True)
class Project:
    """The folder in which a spec would be built, and what is known there."""

    folder: Path

    @cached_property
    def corpus(self) -> dict[str, Any] | None:
        """reports/corpus.json."""
        return self._report("corpus.json")

    @cached_property
    def tokenizer(self) -> dict[str, Any] | None:
        """reports/tokenizer.json."""
        return self._report("tokenizer.json")

    def settings_of(self, experiment: str) -> dict[str, Any]:
        """Dotted setting → value of an experiment; none if it is not there, or wrong, which its own check says."""
        from pipeline.spec.load import load_spec  # noqa: PLC0415 - loading asks the checker, which asks this module

        try:
            spec = load_spec(self.folder / experiment)
        except FoundryError:
            return {}
        values = spec.to_dict()
        return {name: value_at(values, tuple(name.split("."))) for name in spec.leaves()}

    def training_characters(self, dataset_name: str, *split: Any) -> int | None:
        """Characters of the training split, if the corpus there is the one that a spec describes."""
        report = self.corpus
        described = {"dataset_name": dataset_name, "split": dict(zip(_SPLIT, split, strict=True))}
        if report is None or any(report.get(key) != value for key, value in described.items()):
            return None
        return int(report["splits"]["train"]["characters"])

    def training_tokens(self, tokenizer_type: str, vocab_size: int) -> int | None:
        """Tokens of the training split, if the tokenizer there is the one that a spec describes."""
        report = self.tokenizer
        if report is None or (report.get("tokenizer_type"), report.get("vocab_size")) != (tokenizer_type, vocab_size):
            return None
        return int(report["splits"]["train"]["tokens"])

    def _report(self, name: str) -> dict[str, Any] | None:
        """A report, or nothing; that it is damaged is said when it is checked itself."""
        try:
            report = json.loads((self.folder / REPORTS / name).read_text(encoding="utf-8"))
            return report if report["splits"]["train"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def text_fills_the_vocabulary(project: Project, vocab_size: int, *corpus: Any) -> Finding:
    """Each piece must be met often enough to be learned."""
    characters = project.training_characters(*corpus)
    if characters is None or characters >= _CHARACTERS_FOR_A_PIECE * vocab_size:
        return None
    message = (
        f"vocab_size {vocab_size} is large for the {characters:,} characters of the training split"
        f" ({REPORTS / 'corpus.json'}): most pieces are seen fewer than ten times"
    )
    return message, f"take {max(16, characters // _CHARACTERS_FOR_A_PIECE)} or less"


def batch_fits_an_epoch(  # noqa: PLR0917 - a rule takes the values that it reads
    project: Project,
    batch_size: int,
    gradient_accumulation_steps: int,
    max_seq_len: int,
    devices: int | str | list[int] | None,
    num_nodes: int,
    tokenizer_type: str,
    vocab_size: int,
    *corpus: Any,
) -> Finding:
    """With more sequences in a step than there are, an epoch is one small step."""
    tokens = project.training_tokens(tokenizer_type, vocab_size)
    if tokens is None or project.training_characters(*corpus) is None:
        return None
    shares = asked_devices({"devices": devices, "num_nodes": num_nodes}) or 1
    sequences, step = -(-tokens // max_seq_len), batch_size * gradient_accumulation_steps * shares
    if step <= sequences:
        return None
    message = (
        f"a step takes {step} sequences (batch_size x gradient_accumulation_steps x devices), but the training split"
        f" has {sequences} of {max_seq_len} tokens ({REPORTS / 'tokenizer.json'})"
    )
    return message, "lower batch_size or gradient_accumulation_steps"


def weights_are_there(project: Project, resume_from_checkpoint: str | None) -> Finding:
    """Training cannot start from weights that are not there."""
    if resume_from_checkpoint is None or (project.folder / resume_from_checkpoint / WEIGHTS).exists():
        return None
    if is_registered_name(resume_from_checkpoint):  # which models there are is known to the registry alone
        if (project.folder / registry_dir()).is_dir():
            return None
        message = f"there is no model registry in this project, and so no {resume_from_checkpoint}"
        return message, "register the model with: foundry models register; FOUNDRY_REGISTRY names another registry"
    message = f"there is no {resume_from_checkpoint}/{WEIGHTS} in this project"
    return message, "paths are relative to the project folder, and lead to a model folder or a checkpoint"


def base_is_there(project: Project, base: str) -> Finding:
    """Trials cannot start from an experiment that is not there."""
    if (project.folder / base).is_file():
        return None
    return f"there is no {base} in this project", "paths are relative to the project folder"


# Kind of document → its rules, and those inside its lists and maps; each takes the project before the values it reads.
PROJECT_RULES: dict[str, tuple[Rule, ...]] = {
    "experiment": (
        Rule("W0111", ("training.resume_from_checkpoint",), weights_are_there),
        Rule("W0112", ("tokenizer.vocab_size", *_CORPUS), text_fills_the_vocabulary),
        Rule(
            "W0113",
            (
                "training.batch_size", "training.gradient_accumulation_steps", "model.max_seq_len",
                "hardware.devices", "hardware.num_nodes", "tokenizer.tokenizer_type", "tokenizer.vocab_size", *_CORPUS,
            ),
            batch_fits_an_epoch,
        ),
    ),
    "sweep": (Rule("W0214", ("base",), base_is_there),),
}  # fmt: skip
PROJECT_INNER_RULES: dict[str, tuple[InnerRule, ...]] = {
    "sweep": (InnerRule("E0527", ("space", "base"), combinations_are_experiments),),
}
