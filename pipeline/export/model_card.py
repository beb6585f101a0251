"""The model card of a bundle: what the model is, what it learned from, how good it is, where it ends, its licence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

_USES = {
    "lm": "It continues a text, one token at a time.",
    "seq2seq": "It writes a target text for a source text.",
    "text_classification": "It chooses one class for a text.",
    "vision_classification": "It chooses one class for a picture.",
    "vision_multilabel": "It gives a picture any number of labels.",
}
_OF_TEXT = (
    "It knows the text it was trained on and nothing else: what it writes can be wrong, or a passage of that text.",
    "It follows no instructions and refuses nothing.",
)
_CALIBRATION = "Its probabilities were not calibrated: 0.9 does not mean that nine of ten such answers are right."
_OF_CLASSES = (
    "It always answers with one of its classes, also for inputs that belong to none of them.",
    _CALIBRATION,
)
_OF_LABELS = ("It knows its labels and no other: what else is in a picture, it does not say.", _CALIBRATION)


def model_card(
    about: Mapping[str, Any],
    *,
    spec: Mapping[str, Any],
    description: Mapping[str, Any],
    health: Mapping[str, Any],
    licence: str | None,
) -> str:
    """The card, as Markdown with a head that model hubs read.

    Args:
        about: metadata.json of the bundle.
        spec: the experiment that made the model.
        description: model.json.
        health: the report on the export.
        licence: of the model, as an SPDX identifier; None: not stated.
    """
    name = about["model_name"]
    size = f"{about['parameters']:,} parameters"
    lines = [
        "---",
        f"license: {json.dumps(licence or 'unknown')}",
        f"model_name: {json.dumps(name)}",
        "library_name: model-foundry",
        "---",
        "",
        f"# {name}",
        "",
        _USES[about["task_type"]],
        "",
        f"A `{about['model_type']}` of {size}, made by Model Foundry {about['toolkit_version']}.",
        "",
        "## Use",
        "",
        "```sh",
        "pip install -r requirements.txt",
        'python inference.py "To be, or"' if "image_size" not in about else "python inference.py picture.png",
        "python inference.py --serve    # GET /health, POST /predict",
        "docker build -t model . && docker run --rm -p 8080:8080 model",
        "```",
        "",
        "## Data",
        "",
        *_data(spec),
        "",
        "## Metrics",
        "",
        *_metrics(description, health),
        "",
        "## Limits",
        "",
        *(f"* {limit}" for limit in _limits(about)),
        "",
        "## Licence",
        "",
        licence
        or "Not stated. Who publishes the model sets `export.license`, in keeping with the licence of the data.",
    ]
    return "\n".join(lines) + "\n"


def _data(spec: Mapping[str, Any]) -> Iterator[str]:
    dataset = spec["dataset"]
    source = {key: value for key, value in dataset["source"].items() if value is not None}
    yield f"`{dataset['dataset_name']}`, which is:"
    yield ""
    yield from (f"* {key}: `{json.dumps(value, ensure_ascii=False)}`" for key, value in source.items())
    yield ""
    yield (
        f"Held out by {dataset['split_method']} with seed {dataset['split_seed']}: {dataset['validation_split']:.0%} "
        f"to choose the best step, {dataset['test_split']:.0%} to test. How the text was cleaned and cut stands in "
        "`configs/training_config.json`."
    )


def _metrics(description: Mapping[str, Any], health: Mapping[str, Any]) -> Iterator[str]:
    training = description["training"]
    yield f"Trained for {training['steps']:,} steps on {training['tokens']:,} tokens in {training['seconds']:,.0f} s."
    yield ""
    yield "| figure | value |"
    yield "|---|---|"
    loss = training["val_loss"]
    if loss is not None:
        yield f"| validation loss of the best step, nats per target | {loss:.4f} |"
        if description["task_type"] in {"lm", "seq2seq"}:
            yield f"| perplexity | {math.exp(loss):.2f} |"
    yield f"| health score of the export | {health['health_score']:g} of 100 |"
    for name, figures in health["formats"].items():
        if figures["p50_ms"] is not None:
            yield f"| {name}: median time of one input, ms | {figures['p50_ms']:.2f} |"
    yield ""
    yield "Times are of the machine that `health_report.md` names."


def _limits(about: Mapping[str, Any]) -> Iterator[str]:
    yield from _OF_LABELS if "label_threshold" in about else _OF_CLASSES if "classes" in about else _OF_TEXT
    if "max_seq_len" in about:
        yield f"It sees {about['max_seq_len']:,} tokens at a time; what stands before them it has forgotten."
    yield "It was checked on held-out data of the same source only. How it does on other data is not known."
