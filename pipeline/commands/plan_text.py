"""How much text a spec has to learn from: counted by an earlier run, or estimated from what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.sources import files_of, rows_of
from pipeline.errors import ArtifactError, CorpusError
from pipeline.files import MANIFEST, manifest_hash, read_json
from pipeline.paths import OUTPUT_OF, REPORTS
from pipeline.spec import Spec
from pipeline.spec.estimate import Text, text_of_bytes

_SPLITS = ("train", "validation", "test")
_UNKNOWN_TOKENS = 1_000_000  # what a plan is made for when nothing is known


def text_of(spec: Spec) -> Text:
    """The best figures that the project in the current folder has for a spec."""
    return (
        _of_artifacts(spec)
        or _of_tokenizer_report(spec)
        or _of_corpus_report(spec)
        or _of_files(spec)
        or _unknown(spec)
    )


def _of_artifacts(spec: Spec) -> Text | None:
    """Counted tokens, if the encoded corpus in artifacts/ was made by these settings."""
    tokenizer, corpus = OUTPUT_OF["tokenizer"], OUTPUT_OF["corpus"]
    made = _read(tokenizer / MANIFEST), _read(corpus / MANIFEST), _read(tokenizer / "tokenizer.json")
    if not all(made):
        return None
    encoded, text, facts = made
    if encoded["sections"] != {"tokenizer": spec.section("tokenizer")}:
        return None
    if text["sections"] != {"dataset": spec.section("dataset")} or encoded["inputs"]["corpus"] != manifest_hash(corpus):
        return None
    return _counted(facts, source=str(tokenizer))


def _of_tokenizer_report(spec: Spec) -> Text | None:
    """Counted tokens, if the last run in reports/ had this text and asked for this vocabulary."""
    path = REPORTS / "tokenizer.json"
    report, corpus = _read(path), _corpus_report(spec)
    if not report or not corpus:
        return None
    tokenizer = spec.tokenizer
    asked = (tokenizer.tokenizer_type, tokenizer.vocab_size, len(tokenizer.special_tokens))
    if asked != (report["tokenizer_type"], report["vocab_size"], report["special_tokens"]):
        return None
    if any(report["splits"][split]["characters"] != corpus["splits"][split]["characters"] for split in _SPLITS):
        return None  # the corpus was built again, and this is of the one before
    return _counted(report, source=str(path))


def _of_corpus_report(spec: Spec) -> Text | None:
    corpus = _corpus_report(spec)
    if not corpus:
        return None
    sizes = {split: corpus["splits"][split]["bytes"] for split in _SPLITS}
    return _estimated(spec, sizes, source=str(REPORTS / "corpus.json"))


def _of_files(spec: Spec) -> Text | None:
    dataset = spec.dataset
    if dataset.source.kind != "files":
        return None
    try:
        size = sum(path.stat().st_size for path in files_of(list(dataset.source.paths), Path()).values())
    except (CorpusError, OSError):  # the corpus stage says what is wrong with it; to a plan it is unknown
        return None
    shares = {"validation": dataset.validation_split, "test": dataset.test_split}
    sizes = {split: round(size * share) for split, share in {"train": 1 - sum(shares.values()), **shares}.items()}
    return _estimated(spec, sizes, source="the size of the source files")


def _unknown(spec: Spec) -> Text:
    return Text(
        known="unknown",
        source="nothing here says how much text there is, so this is for 1 million tokens",
        vocab_size=spec.tokenizer.vocab_size,
        train_tokens=_UNKNOWN_TOKENS,
        validation_tokens=0,
        all_tokens=_UNKNOWN_TOKENS,
        all_bytes=0,
    )


def _corpus_report(spec: Spec) -> dict[str, Any] | None:
    """reports/corpus.json, if it is of the text that the spec asks for."""
    report = _read(REPORTS / "corpus.json")
    dataset = spec.section("dataset")
    source = dataset["source"]
    if not report or not _is_pinned(source, report["inputs"]):
        return None
    if any(dataset[name] != value for name, value in report["split"].items()):
        return None
    cleaning = dataset["cleaning"]
    flags = {name: step["enabled"] for name, step in report["cleaning"].items() if name in cleaning}
    same = all(cleaning[name] == flag for name, flag in flags.items() if isinstance(cleaning[name], bool))
    return report if same else None


def _is_pinned(source: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether a report's inputs are what the spec pins. The report names files, not the patterns that found them."""
    if source["kind"] == "wheel":
        return inputs == {f"{source['package']}=={source['version']}": source["sha256"]}
    if source["kind"] == "url":
        return inputs == {source["url"]: source["sha256"]}
    if source["kind"] == "hub" and source["revision"]:
        return inputs.keys() == {rows_of(source).name}
    return False


def _counted(facts: dict[str, Any], *, source: str) -> Text:
    splits = facts["splits"]
    return Text(
        known="counted",
        source=source,
        vocab_size=facts["vocab_size"],
        train_tokens=splits["train"]["tokens"],
        validation_tokens=splits["validation"]["tokens"],
        all_tokens=sum(splits[split]["tokens"] for split in _SPLITS),
        all_bytes=sum(splits[split]["bytes"] for split in _SPLITS),
        num_classes=len(facts["classes"]) if "classes" in facts else None,
        train_documents=splits["train"]["documents"],
    )


def _estimated(spec: Spec, sizes: dict[str, int], *, source: str) -> Text:
    tokenizer = spec.tokenizer
    kind, pieces = tokenizer.tokenizer_type, tokenizer.vocab_size
    return text_of_bytes(sizes, tokenizer_type=kind, vocab_size=pieces, source=source)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of the project, or nothing when it is not there or not whole."""
    try:
        value = read_json(path)
    except ArtifactError:
        return {}
    return value if isinstance(value, dict) else {}
