"""Tiny models of every kind, sound and with one fault each, as the checks of the tiers see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from described import model_description
from tiny_subjects import BRIEF, CLASSES, CORPUS, EXPORTED, MODELS, PICTURES, TEXT

from pipeline.data.documents import Document, write_split
from pipeline.data.encode import encode_corpus, metadata, write_metadata
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.export.formats import write_formats
from pipeline.files import manifest_hash, output_folder, write_artefact
from pipeline.models.model import Model
from pipeline.models.store import save_model
from pipeline.models.table import build_model
from pipeline.paths import SPECS
from pipeline.spec import load_spec
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.language_model import LanguageModel
from pipeline.tasks.masked_lm import MaskedLanguageModel
from pipeline.tasks.seq2seq import PrefixTask
from pipeline.tasks.task import Task
from pipeline.tasks.vision_classification import VisionClassification
from pipeline.tasks.vision_multilabel import VisionMultilabel
from pipeline.tiers.checks import CHECKS
from pipeline.tiers.run import examine, tier_settings
from pipeline.tiers.subject import Outcome, Subject


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    return train_tokenizer(
        [TEXT, "0123456789;"], tokenizer_type="bpe", vocab_size=64, byte_fallback=False, special_tokens=["<mask>"]
    )


@pytest.fixture(scope="session")
def tokenizer(tokenizer_model: bytes) -> Tokenizer:
    return Tokenizer(tokenizer_model)


@pytest.fixture(scope="session")
def encode(tokenizer_model: bytes) -> Callable[[Path, Mapping[str, list[str]]], Path]:
    """(folder, split → texts) → what the tokenizer stage leaves of them, in a folder inside it."""

    def make(folder: Path, texts: Mapping[str, list[str]]) -> Path:
        for split, documents in texts.items():
            rows = (Document(f"{split}-{number}", text) for number, text in enumerate(documents))
            (folder / "corpus").mkdir(parents=True, exist_ok=True)
            write_split(folder / f"corpus/{split}.jsonl", rows)
        tokenizer = Tokenizer(tokenizer_model)
        with output_folder(folder / "tokenizer", stage="tokenizer", sections={}, inputs={}) as unfinished:
            (unfinished / "tokenizer.model").write_bytes(tokenizer_model)
            counts = encode_corpus(tokenizer, folder / "corpus", unfinished)
            settings = {"tokenizer_type": "bpe", "special_tokens": ["<mask>"]}
            write_metadata(unfinished, metadata(tokenizer, counts, settings=settings))
        return folder / "tokenizer"

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, encode: Callable[..., Path]) -> Path:
    """A project in which everything is built, with a tiny model. Tests that change it copy it first."""
    root = tmp_path_factory.mktemp("finished")
    artifacts = root / "artifacts"
    data = encode(artifacts, CORPUS)
    arguments = MODELS["lm"]
    torch.manual_seed(0)
    spec = load_spec(SPECS / "experiment.yaml")
    with output_folder(artifacts / "model", stage="train", sections={}, inputs={}, spec_hash=64 * "a") as folder:
        save_model(folder, build_model(arguments), model_description(arguments))
        write_artefact(folder / "spec.json", "spec", spec.to_dict())
        for name in ("tokenizer.model", "tokenizer.json"):
            (folder / name).write_bytes((data / name).read_bytes())
    sections = {"export": {**spec.section("export"), "formats": EXPORTED}}
    inputs = {"model": manifest_hash(artifacts / "model")}
    with output_folder(artifacts / "export", stage="export", sections=sections, inputs=inputs) as folder:
        write_formats(artifacts / "model", folder, formats=EXPORTED, opset=18)
    return root


@pytest.fixture(scope="session")
def subject_of(tokenizer: Tokenizer) -> Callable[..., Subject]:
    """(task_type, of=class, change=what is done to the model, task=, settings=, **arguments) → a subject."""
    tasks: dict[str, Callable[[int], Task]] = {
        "lm": lambda length: LanguageModel(tokenizer=tokenizer, max_seq_len=length),
        "seq2seq": lambda length: PrefixTask(tokenizer=tokenizer, max_seq_len=length),
        "masked_lm": lambda length: MaskedLanguageModel(tokenizer=tokenizer, max_seq_len=length),
        "text_classification": lambda length: TextClassification(
            tokenizer=tokenizer, classes=CLASSES, max_seq_len=length
        ),
        "vision_classification": lambda _: VisionClassification(
            classes=CLASSES, image_size=PICTURES["image_size"], fit="crop"
        ),
        "vision_multilabel": lambda _: VisionMultilabel(classes=CLASSES, image_size=PICTURES["image_size"], fit="crop"),
    }

    def make(
        task_type: str = "lm",
        *,
        of: Callable[..., Model] | None = None,
        change: Callable[[Any], None] | None = None,
        task: Task | None = None,
        settings: Mapping[str, Any] | None = None,
        data: Path | None = None,
        **arguments: Any,
    ) -> Subject:
        torch.manual_seed(0)
        whole = {**MODELS[task_type], **arguments}
        model = (build_model(whole) if of is None else of(**whole)).eval()
        if change is not None:
            with torch.no_grad():
                change(model)
        return Subject(
            model=model,
            description={**model_description(whole), "task_type": task_type},
            task=task or tasks[task_type](whole.get("max_seq_len", 1)),
            settings=tier_settings({**BRIEF, **(settings or {})}),
            folder=Path("nowhere"),
            data=data,
        )

    return make


@pytest.fixture(scope="session")
def found_by() -> Callable[..., dict[str, Any]]:
    """(subject, *tiers) → what each check found, by its name."""

    def run(subject: Subject, *tiers: int) -> dict[str, Any]:
        return {result.check.name: result for result in examine(subject, tiers)}

    return run


@pytest.fixture(scope="session")
def outcome_of() -> Callable[[Subject, str], Outcome]:
    """(subject, name) → what that check alone finds."""

    def run(subject: Subject, name: str) -> Outcome:
        return next(check for check in CHECKS if check.name == name).run(subject)

    return run
