"""The tokenizer stage: learns the pieces from the training split and encodes all splits; carries pictures on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import console
from pipeline.data import encode
from pipeline.data.documents import read_split
from pipeline.data.picture_arrays import DESCRIPTION, carry_on
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.files import manifest_hash, output_folder, verify_manifest, write_artefact
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS
from pipeline.spec.lock import lock_of
from pipeline.stages.door import StageCommand, stage

if TYPE_CHECKING:
    from pipeline.spec import Spec


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=DEFAULT_SPEC, show_default=True)
def main(spec_path: Path) -> None:
    """Train the tokenizer of a spec and encode the corpus with it; pictures are carried on as they are."""
    with stage("tokenizer", spec_path) as spec:
        build(spec)


def build(spec: Spec) -> None:
    """Make `artifacts/tokenizer/` and `reports/tokenizer.json`."""
    settings = spec.section("tokenizer")
    corpus, target = OUTPUT_OF["corpus"], OUTPUT_OF["tokenizer"]
    verify_manifest(corpus, rebuild="foundry run --from corpus --force")
    if (corpus / DESCRIPTION).is_file():
        _carry_pictures_on(spec)
        return

    started = time.monotonic()
    texts = (text for document in read_split(corpus / "train.jsonl") for text in document.texts)
    model = train_tokenizer(texts, **settings)
    trained = time.monotonic()
    tokenizer = Tokenizer.from_bytes(model)
    with output_folder(
        target,
        stage="tokenizer",
        sections={"tokenizer": settings},
        inputs={"corpus": manifest_hash(corpus)},
        spec_hash=lock_of(spec, "tokenizer").hash,
    ) as folder:
        (folder / "tokenizer.model").write_bytes(model)
        contents = encode.contents_of(corpus / "train.jsonl")
        counts = encode.encode_corpus(tokenizer, corpus, folder, contents)
        encoded = time.monotonic()
        encode.write_metadata(folder, encode.metadata(tokenizer, counts, settings=settings, contents=contents))
        checked = encode.round_trip(tokenizer, corpus / "validation.jsonl", folder, "validation")
    report = encode.report(tokenizer, counts, checked, settings=settings)
    write_artefact(REPORTS / "tokenizer.json", "tokenizer_report", report)
    _say(report, training_seconds=trained - started, encoding_seconds=encoded - trained)


def _carry_pictures_on(spec: Spec) -> None:
    """Make the same outputs from a corpus of pictures, which need no tokenizer."""
    corpus = OUTPUT_OF["corpus"]
    with output_folder(
        OUTPUT_OF["tokenizer"],
        stage="tokenizer",
        sections={"tokenizer": spec.section("tokenizer")},
        inputs={"corpus": manifest_hash(corpus)},
        spec_hash=lock_of(spec, "tokenizer").hash,
    ) as folder:
        report = carry_on(corpus, folder)
    write_artefact(REPORTS / "tokenizer.json", "tokenizer_report", report)
    count = sum(split["documents"] for split in report["splits"].values())
    console.say(f"tokenizer: nothing to train, {count:,} pictures are learned from as they are")


def _say(report: dict[str, Any], *, training_seconds: float, encoding_seconds: float) -> None:
    figures = report["splits"]
    train_mb = figures["train"]["bytes"] / 1e6
    all_mb = sum(held["bytes"] for held in figures.values()) / 1e6
    console.say(
        f"tokenizer: {report['tokenizer_type']}, {report['vocab_size']} pieces from {train_mb:.1f} MB "
        f"in {training_seconds:.1f} s ({train_mb / training_seconds:.1f} MB/s)"
    )
    console.say(
        f"encoded {all_mb:.1f} MB in {encoding_seconds:.1f} s ({all_mb / encoding_seconds:.1f} MB/s), "
        f"{figures['train']['characters_per_token']:.2f} characters a token on the training split"
    )
    checked = report["round_trip"]
    if checked["failures"]:
        console.warn(
            f"{checked['failures']} of {checked['documents']} validation documents do not come back exactly from their "
            "tokens: see round_trip in reports/tokenizer.json; tokenizer.byte_fallback: true loses nothing"
        )
    else:
        console.say(f"all {checked['documents']} validation documents come back exactly from their tokens")


if __name__ == "__main__":
    main()
