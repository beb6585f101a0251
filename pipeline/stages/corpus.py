"""The corpus stage: dataset → artifacts/corpus/ and reports/corpus.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline import console, paths
from pipeline.data.corpus import build_corpus, write_corpus
from pipeline.data.picture_arrays import SEVERAL
from pipeline.data.picture_corpus import build_picture_corpus, write_picture_corpus
from pipeline.data.pictures import PICTURE_SOURCES, fetch_pictures
from pipeline.data.sources import fetch
from pipeline.files import output_folder, write_artefact
from pipeline.spec.lock import lock_of
from pipeline.stages.door import StageCommand, stage

_PATH = click.Path(path_type=Path)


@click.command(cls=StageCommand)
@click.option("--spec", "spec_path", type=_PATH, default=paths.DEFAULT_SPEC, show_default=True, help="The spec.")
@click.option("--output", type=_PATH, default=paths.OUTPUT_OF["corpus"], show_default=True, help="Folder to write.")
@click.option("--report", type=_PATH, default=paths.REPORTS / "corpus.json", show_default=True, help="File to write.")
def main(spec_path: Path, output: Path, report: Path) -> None:
    """Fetch texts or pictures, clean them, split them, and report what was done."""
    with stage("corpus", spec_path) as spec:
        dataset = spec.section("dataset")
        built = (_pictures if dataset["source"]["kind"] in PICTURE_SOURCES else _texts)(dataset)
        with output_folder(
            output,
            stage="corpus",
            sections={"dataset": dataset},
            inputs=built.report["inputs"],
            spec_hash=lock_of(spec, "corpus").hash,
        ) as folder:
            built.write(folder)
        write_artefact(report, "corpus_report", built.report)
        for warning in built.warnings:
            console.warn(warning)
        for line in built.summary:
            console.say(line)


@dataclass(frozen=True)
class _Built:
    """A corpus of either kind: what writes it, reports/corpus.json, and what to tell the user."""

    write: Callable[[Path], None]
    report: dict[str, Any]
    warnings: list[str]
    summary: list[str]


def _texts(dataset: dict[str, Any]) -> _Built:
    fields = {key: dataset[key] for key in ("label_field", "target_field", "label_from_folder")}
    settings = {key: value for key, value in dataset.items() if key != "source" and key not in fields}
    source = fetch(dataset["source"], project=Path(), downloads=paths.work_dir() / "downloads", **fields)
    corpus = build_corpus(source=source, **settings)
    summary = [
        f"{name} split: {size['documents']} documents, {size['characters']:,} characters"
        for name, size in corpus.report["splits"].items()
    ]
    return _Built(partial(write_corpus, corpus), corpus.report, corpus.warnings, summary)


def _pictures(dataset: dict[str, Any]) -> _Built:
    names = (
        "dataset_name", "validation_split", "test_split", "split_seed", "max_train_samples", "max_val_samples",
    )  # fmt: skip
    corpus = build_picture_corpus(
        source=fetch_pictures(dataset["source"], project=Path()),
        drop_duplicates=dataset["cleaning"]["drop_duplicate_documents"],
        **{name: dataset[name] for name in names},
    )
    classes = f"{len(corpus.report['classes'])} {'labels' if corpus.report['kind'] == SEVERAL else 'classes'}"
    summary = [
        f"{name} split: {size['pictures']:,} pictures of {classes}" for name, size in corpus.report["splits"].items()
    ]
    return _Built(partial(write_picture_corpus, corpus), corpus.report, corpus.warnings, summary)


if __name__ == "__main__":
    main()
