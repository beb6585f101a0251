"""How many pictures a spec has to learn from, and a plan for them as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.picture_table import read_table
from pipeline.data.pictures import files_by_class
from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, read_json
from pipeline.paths import OUTPUT_OF
from pipeline.spec import Spec
from pipeline.spec.estimate_pictures import Pictures, digits, pictures_of


def pictures_for(spec: Spec) -> Pictures:
    """The best figures that the project in the current folder has for a spec.

    Raises:
        CorpusError: the spec names a folder or a table that does not hold what it should.
    """
    dataset = spec.section("dataset")
    return _of_artifacts(dataset) or _FOUND[dataset["source"]["kind"]](dataset)


def _of_artifacts(dataset: dict[str, Any]) -> Pictures | None:
    """Counted pictures, if the corpus in artifacts/ was made by these settings."""
    corpus = OUTPUT_OF["corpus"]
    try:
        manifest, facts = read_json(corpus / MANIFEST), read_json(corpus / "pictures.json")
    except ArtifactError:
        return None
    if manifest["sections"] != {"dataset": dataset}:
        return None
    counts = {name: split["documents"] for name, split in facts["splits"].items()}
    return Pictures(
        known="counted",
        source=str(corpus),
        image_size=tuple(facts["image_size"]),
        num_classes=len(facts["classes"]),
        train=counts["train"],
        validation=counts["validation"],
        all=sum(counts.values()),
    )


def _of_folder(dataset: dict[str, Any]) -> Pictures:
    source = dataset["source"]
    classes = files_by_class(source["path"], Path())
    return pictures_of(
        sum(len(pictures) for pictures, _ in classes.values()),
        dataset,
        image_size=tuple(source["image_size"]),
        num_classes=len(classes),
        known="estimated",
        source=f"the files in {source['path']}",
    )


def _of_table(dataset: dict[str, Any]) -> Pictures:
    source = dataset["source"]
    rows = read_table(Path(source["path"]), where=source["path"])
    return pictures_of(
        len(rows),
        dataset,
        image_size=tuple(source["image_size"]),
        num_classes=len({label for labels in rows.values() for label in labels}),
        known="estimated",
        source=f"the rows of {source['path']}",
    )


# dataset.source.kind → the figures of a source that is not read yet
_FOUND: Mapping[str, Callable[[dict[str, Any]], Pictures]] = {
    "digits": digits,
    "image_folder": _of_folder,
    "image_table": _of_table,
}


def picture_page(planned: dict[str, Any]) -> Iterator[str]:
    """A plan for pictures as lines for a person."""
    model, pictures, training = planned["model"], planned["pictures"], planned["training"]
    parts = {name: size for name, size in model["parameters"].items() if name != "total"}
    size = " x ".join(map(str, pictures["image_size"]))
    about = "" if pictures["known"] == "counted" else "about "
    memory, disk = planned["memory_mb"], planned["disk_mb"]
    yield f"model     {model['parameters']['total']:,} parameters ({model['model_type']})"
    yield f"          {', '.join(f'{name} {count:,}' for name, count in parts.items())}"
    yield f"pictures  {about}{pictures['train']:,} of {size} to learn from, {pictures['num_classes']} classes"
    yield f"          {pictures['known']}: {pictures['source']}"
    yield (
        f"training  {training['steps']:,} steps ({training['steps_per_epoch']:,} an epoch), "
        f"{training['evaluations']:,} evaluations, {training['checkpoints']:,} checkpoints"
    )
    yield f"          {model['flops_per_picture'] / 1e6:,.1f} MFLOP a picture, {training['flops']:.3g} FLOP in all"
    yield f"memory    about {memory['peak_rss']:,.0f} MB on the CPU (within {planned['bounds']['memory']:.0%})"
    yield f"disk      about {disk['total']:,.1f} MB"
    yield from (f"note: {note}" for note in planned["notes"])
