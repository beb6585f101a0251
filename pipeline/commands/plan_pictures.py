"""How many pictures a spec has to learn from, and a plan for them as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.data.pictures import files_by_class
from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, read_json
from pipeline.paths import OUTPUT_OF
from pipeline.spec import Spec
from pipeline.spec.estimate_pictures import Pictures, digits, pictures_of


def pictures_for(spec: Spec) -> Pictures:
    """The best figures that the project in the current folder has for a spec.

    Raises:
        CorpusError: the spec names a folder that does not hold what it should.
    """
    dataset = spec.section("dataset")
    found = digits if dataset["source"]["kind"] == "digits" else _of_folder
    return _of_artifacts(dataset) or found(dataset)


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
