"""`foundry plan`: what will a spec cost?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.console import duration
from pipeline.paths import DEFAULT_SPEC

if TYPE_CHECKING:
    from pipeline.spec import Spec
    from pipeline.spec.estimate import Pace, Text

_VERDICTS = {
    "keeps": "keeps it",
    "close": "too close to say",
    "misses": "misses it",
    "unknown": "not known yet",
    "no_limit": "no limit",
}
_SHOWN_SECONDS = 0.05  # a part of the time that is shorter would be shown as 0.0 s


@click.command(short_help="Predict what a spec will cost: parameters, steps, memory, disk, time.")
@click.argument("spec", default=str(DEFAULT_SPEC))
@click.option("--no-calibrate", is_flag=True, help="Measure nothing: leave times out, and answer at once.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
def command(spec: str, no_calibrate: bool, as_json: bool) -> None:
    """Predict what a spec will cost before it runs, and whether it will keep its budgets.

    SPEC is a file or the name of a preset; without it, specs/experiment.yaml. Steps of its own model are timed for
    about two seconds; nothing is written. docs/planning.md says how each figure is computed and how far it can be off.
    """
    from pipeline.commands.plan_text import text_of
    from pipeline.spec.estimate import plan

    loaded = _load(spec)
    if loaded.model.model_type == "cnn":
        from pipeline.commands.plan_pictures import picture_page, pictures_for
        from pipeline.spec.estimate_pictures import plan_pictures

        planned = plan_pictures(loaded.to_dict(), pictures_for(loaded))
        click.echo(json.dumps(planned, indent=2, allow_nan=False) if as_json else "\n".join(picture_page(planned)))
        return
    text = text_of(loaded)
    pace, notes = (None, ["times are left out: nothing was measured"]) if no_calibrate else _calibrated(loaded, text)
    planned = plan(loaded.to_dict(), text, pace, notes=[*notes, *_notes(text, pace)])
    click.echo(json.dumps(planned, indent=2, allow_nan=False) if as_json else "\n".join(page(planned)))


def _load(name: str) -> Spec:
    """The spec in a file, or what the preset of that name stands for."""
    from pipeline.spec import load_spec
    from pipeline.spec.presets import expand, read_preset

    path = Path(name)
    return load_spec(path) if path.suffix or path.exists() else expand(read_preset(name))


def _calibrated(spec: Spec, text: Text) -> tuple[Pace | None, list[str]]:
    """The pace of this machine, or none and the reason."""
    from pipeline.spec import SpecError, require_supported
    from pipeline.spec.estimate_model import shape_of

    try:
        require_supported(spec, "train")
    except SpecError as error:
        return None, [f"times are left out: {problem.message}" for problem in error.problems]
    import pipeline.stages  # noqa: F401 - says how threads wait, before torch is loaded
    from pipeline.commands.calibrate import calibrate

    pace = calibrate(spec.to_dict(), shape_of(spec.section("model"), text.vocab_size))
    return (None, [f"times are left out: {pace}"]) if isinstance(pace, str) else (pace, [])


def _notes(text: Text, pace: Pace | None) -> Iterator[str]:
    if text.known != "counted":
        yield "the vocabulary is the one asked for: a tokenizer can end with fewer pieces on a small corpus"
    busy, processors = os.getloadavg()[0], os.cpu_count() or 1
    if pace is not None and busy > processors:
        yield f"this machine is busy (load {busy:.1f} on {processors} processors): alone, the run would take less time"


def page(planned: dict[str, Any]) -> Iterator[str]:
    """A plan as lines for a person."""
    for label, describe in _FACTS.items():
        for number, fact in enumerate(describe(planned)):
            yield f"{'' if number else label:<9} {fact}"
    yield ""
    yield from _budgets(planned)
    for note in planned["notes"]:
        yield f"note: {note}"


def _model(planned: dict[str, Any]) -> Iterator[str]:
    model = planned["model"]
    parts = {name: size for name, size in model["parameters"].items() if size and name != "total"}
    tied = "tied" if model["tie_embeddings"] else "untied"
    kind = f"{model['model_type']}, {model['vocab_size']:,} pieces, {tied} embeddings"
    yield f"{model['parameters']['total']:,} parameters ({kind})"
    yield _listed({name: f"{size:,}" for name, size in parts.items()})


def _text(planned: dict[str, Any]) -> Iterator[str]:
    text = planned["text"]
    about = "" if text["known"] == "counted" else "about "
    yield f"{about}{text['train_tokens']:,} tokens to learn from; {text['known']}: {text['source']}"


def _training(planned: dict[str, Any]) -> Iterator[str]:
    training, execution = planned["training"], planned["execution"]
    per_epoch = f"{training['steps_per_epoch']:,} an epoch"
    saved = f"{training['evaluations']:,} evaluations, {training['checkpoints']:,} checkpoints"
    yield f"{training['steps']:,} steps ({per_epoch}), {saved}"
    yield f"{planned['model']['flops_per_token'] / 1e6:,.1f} MFLOP a token, {training['flops']:.3g} FLOP in all"
    how = f"{execution['precision']}, {'compiled' if execution['compiled'] else 'not compiled'}"
    yield f"on {execution['device']}, {how}{'' if execution['measured'] else ' (assumed)'}"


def _time(planned: dict[str, Any]) -> Iterator[str]:
    if planned["seconds"] is None:
        yield "not known"
        return
    parts = dict(planned["seconds"])
    total = duration(parts.pop("total"))
    yield f"training would take about {total} (within {planned['bounds']['time']:.0%})"
    yield _listed({name: duration(seconds) for name, seconds in parts.items() if seconds >= _SHOWN_SECONDS})
    yield f"measured here: {planned['pace']['measured']}; {planned['pace']['num_threads']} threads"


def _memory(planned: dict[str, Any]) -> Iterator[str]:
    parts = dict(planned["memory_mb"])
    peak = parts.pop("peak_rss")
    shown = _listed({name: _size(size) for name, size in parts.items() if size is not None})
    if peak is None:
        yield f"training would need at least {shown}; the rest is not predicted for this device"
    else:
        yield f"training would need about {_size(peak)} (within {planned['bounds']['memory']:.0%})"
        yield shown
    yield f"inference would need about {_size(planned['inference_mb']['peak'])}"


def _disk(planned: dict[str, Any]) -> Iterator[str]:
    parts = dict(planned["disk_mb"])
    yield f"about {_size(parts.pop('total'))}"
    yield _listed({name: _size(size) for name, size in parts.items()})


# What stands on the page, in this order.
_FACTS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "model": _model,
    "text": _text,
    "training": _training,
    "time": _time,
    "memory": _memory,
    "disk": _disk,
}


def _budgets(planned: dict[str, Any]) -> Iterator[str]:
    from pipeline.evaluation.budgets import BUDGETS

    yield f"{'budget':<17} {'predicted':>10} {'limit':>8}"
    units = {name: budget.unit.format(target="target") for name, budget in BUDGETS.items()}
    for row in planned["budgets"]:
        value, limit = (("-" if row[key] is None else f"{row[key]:,.4g}") for key in ("predicted", "limit"))
        unit = units[row["name"]]
        yield f"{row['name']:<17} {value:>10} {limit:>8} {unit:<15} {_VERDICTS[row['status']]}".rstrip()
    for row in planned["budgets"]:
        if row["limit"] is not None and row["predicted"] is not None and row["predicted"] > row["limit"]:
            yield _remedy(row, units[row["name"]])


def _remedy(row: dict[str, Any], unit: str) -> str:
    missed = f"{row['name']} is expected at {row['predicted']:,.4g} {unit}, budget {row['limit']:,.4g}: "
    if not row["change"]:
        return missed + "no single smaller setting would keep it; raise the limit, or make the model smaller all over"
    return missed + " or ".join(f"{name} {value}" for name, value in row["change"].items()) + " would fit"


def _listed(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {part}" for name, part in parts.items())


def _size(megabytes: float | None) -> str:
    if megabytes is None:
        return "unknown"
    return f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"
