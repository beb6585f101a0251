"""The corpus: documents of a source, cleaned, split and audited, and the report that says what was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.cleaning import Cleaned, clean
from pipeline.data.documents import Document, write_split
from pipeline.data.leakage import PASSAGE, Leakage, audit
from pipeline.data.passages import pairs, passages
from pipeline.data.sources import Source
from pipeline.data.splits import SPLITS, Splits, split
from pipeline.errors import CorpusError

FORMAT_VERSION = 1  # of the report
# Share of the text that was filtered out, below which a corpus is in the zone; from 0.60 on it is critical.
ZONES = ((0.10, "excellent"), (0.20, "good"), (0.40, "high"), (0.60, "very_high"))
WARN_FILTERED = 0.20


@dataclass(frozen=True)
class Corpus:
    """A corpus that is ready to be learned from.

    Attributes:
        splits: train, validation and test, each a list of documents in the order of the source.
        report: reports/corpus.json; schemas/v1/artefact/corpus_report.json describes it.
        warnings: what a person should know before using it.
    """

    splits: Splits
    report: dict[str, Any]
    warnings: list[str]


def build_corpus(
    *,
    source: Source,
    cleaning: dict[str, Any],
    dataset_name: str = "custom",
    split_method: str = "document",
    validation_split: float = 0.1,
    test_split: float = 0.0,
    split_seed: int = 42,
    max_train_samples: int | None = None,
    max_val_samples: int | None = None,
    min_corpus_characters: int = 1000,
    passage_characters: int | None = None,
    make_pairs: str | None = None,
) -> Corpus:
    """Clean and split what a source holds, and look for text that the splits share.

    Args:
        source: documents and where they are from.
        cleaning: keyword arguments of `cleaning.clean`.
        dataset_name: for the report.
        split_method: see `splits.split`, as for the next five.
        validation_split: share for validation, as a fraction.
        test_split: share for test, as a fraction.
        split_seed: seed of the split.
        max_train_samples: most training documents, or None.
        max_val_samples: most validation documents, or None.
        min_corpus_characters: a corpus with fewer characters after cleaning is refused.
        passage_characters: cut documents into passages of at least so many characters before they are split, or None.
        make_pairs: a key of `passages.PAIRS`, to make pairs of the documents before they are split, or None.

    Raises:
        CorpusError: too little text is left, or a split gets no document.
    """
    cleaned = clean(source.documents, **cleaning)
    _check_size(source.documents, cleaned, min_corpus_characters)
    settings: dict[str, Any] = {
        "split_method": split_method,
        "validation_split": validation_split,
        "test_split": test_split,
        "split_seed": split_seed,
        "max_train_samples": max_train_samples,
        "max_val_samples": max_val_samples,
    }
    documents = cleaned.documents
    if passage_characters is not None:
        documents = passages(documents, passage_characters)
    if make_pairs is not None:
        documents = pairs(documents, make_pairs)
    splits = split(documents, **settings)
    leakage = {name: audit(splits["train"], splits[name]) for name in SPLITS if name != "train"}
    quality = _quality(cleaned)
    report = {
        "format_version": FORMAT_VERSION,
        "dataset_name": dataset_name,
        "inputs": source.inputs,
        "read": {**_sizes(source.documents), "bytes": source.bytes},
        "cleaning": {name: rule.report() for name, rule in cleaned.rules.items()},
        "kept": _sizes(cleaned.documents),
        "quality": quality,
        "split": settings,
        "splits": _split_sizes(splits),
        "leakage": {"passage_characters": PASSAGE, **{name: found.report() for name, found in leakage.items()}},
    }
    return Corpus(splits, report, _warnings(quality, leakage))


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl; a split without documents is an empty file."""
    for name in SPLITS:
        write_split(folder / f"{name}.jsonl", corpus.splits[name])


def _check_size(read: Sequence[Document], cleaned: Cleaned, least: int) -> None:
    left = sum(len(document.text) for document in cleaned.documents)
    if left >= least:
        return
    found = sum(len(document.text) for document in read)
    if not found:
        hint = "point dataset.source at files with text in them"
        raise CorpusError(f"the source is empty: {len(read)} documents, no characters", hint=hint)
    raise CorpusError(
        f"the corpus is too small: {left} characters are left of {found} after cleaning, and {least} are needed",
        hint="add text, relax dataset.cleaning, or lower dataset.min_corpus_characters",
    )


def _quality(cleaned: Cleaned) -> dict[str, Any]:
    kept = sum(len(document.text) for document in cleaned.documents)
    filtered = cleaned.filtered_characters / (kept + cleaned.filtered_characters)
    zone = next((name for limit, name in ZONES if filtered < limit), "critical")
    return {"kept_fraction": round(1 - filtered, 6), "filtered_fraction": round(filtered, 6), "zone": zone}


def _sizes(documents: Sequence[Document]) -> dict[str, Any]:
    return {
        "documents": len(documents),
        "characters": sum(len(document.text) for document in documents),
        "bytes": sum(len(document.text.encode()) for document in documents),
    }


def _split_sizes(splits: Splits) -> dict[str, Any]:
    sizes = {name: _sizes(splits[name]) for name in SPLITS}
    total = sum(size["characters"] for size in sizes.values())
    return {name: {**size, "fraction": round(size["characters"] / total, 6)} for name, size in sizes.items()}


def _warnings(quality: dict[str, Any], leakage: dict[str, Leakage]) -> list[str]:
    warnings = []
    filtered = quality["filtered_fraction"]
    if filtered > WARN_FILTERED:
        warnings.append(f"cleaning filtered out {filtered:.0%} of the text ({quality['zone']})")
    for name, found in leakage.items():
        if found.documents or found.passages:
            warnings.append(
                f"{name} shares {found.documents} documents and {found.passages} passages of {PASSAGE} characters or "
                f"more ({found.fraction:.2%} of its text) with train"
            )
    return warnings
