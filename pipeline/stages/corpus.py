"""The corpus stage: dataset → artifacts/corpus/ and reports/corpus.json."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import console, paths
from pipeline.data.corpus import build_corpus, write_corpus
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
    """Fetch the text, clean it, split it, and report what was done."""
    with stage("corpus", spec_path) as spec:
        dataset = spec.section("dataset")
        settings = {key: value for key, value in dataset.items() if key != "source"}
        source = fetch(dataset["source"], project=Path(), downloads=paths.work_dir() / "downloads")
        corpus = build_corpus(source=source, **settings)
        with output_folder(
            output,
            stage="corpus",
            sections={"dataset": dataset},
            inputs=source.inputs,
            spec_hash=lock_of(spec, "corpus").hash,
        ) as folder:
            write_corpus(corpus, folder)
        write_artefact(report, "corpus_report", corpus.report)
        for warning in corpus.warnings:
            console.warn(warning)
        for name, size in corpus.report["splits"].items():
            console.say(f"{name} split: {size['documents']} documents, {size['characters']:,} characters")


if __name__ == "__main__":
    main()
