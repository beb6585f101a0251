"""The files of data that the toolkit writes: what each kind is called, and the schema it is checked by.

Each kind has a row in `ARTEFACTS` and a closed schema in `schemas/v1/artefact/`. `pipeline.files` checks what it
writes and what it reads by them; `docs/artefacts.md` prints them. Importing this file does not import jsonschema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ArtifactError
from pipeline.paths import SCHEMAS

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

Schema = dict[str, Any]
_FOLDER = SCHEMAS / "v1"
_VERSION_KEYS = ("format_version", "schema_version")
_LONGEST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Artefact:
    """A kind of file.

    Attributes:
        names: patterns of its path, compared from the right end.
        rebuild: the command that makes it again.
        form: one JSON value, or rows: JSON Lines, or CSV with a header. The schema of rows describes one row.
        schema: the file of its schema in `schemas/v1`; empty: `artefact/<kind>.json`.
        variants: what its key `kind` can say → the row whose schema it has then.
    """

    names: tuple[str, ...]
    rebuild: str
    form: Literal["json", "jsonl", "csv"] = "json"
    schema: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)


def _from(stage: str) -> str:
    return f"foundry run --from {stage} --force"


def _of_pictures(row: str) -> dict[str, str]:
    """One row for pictures, whether each has one class or any number of labels."""
    return dict.fromkeys(("pictures", "multilabel_pictures"), row)


# A path is of the first kind that it fits: names with a folder stand above the same names without.
ARTEFACTS: Mapping[str, Artefact] = {
    "manifest": Artefact(("manifest.json",), "foundry run --force"),
    "dvc_outcome": Artefact(("status/dvc.json",), "foundry run"),
    "stage_status": Artefact(("status/*.json",), "foundry run"),
    "corpus_report": Artefact(("reports/corpus.json",), _from("corpus"), variants=_of_pictures("picture_report")),
    "picture_report": Artefact(("reports/corpus.json",), _from("corpus")),
    "tokenizer_report": Artefact(
        ("reports/tokenizer.json",), _from("tokenizer"), variants=_of_pictures("picture_tokenizer_report")
    ),
    "picture_tokenizer_report": Artefact(("reports/tokenizer.json",), _from("tokenizer")),
    "training_metrics": Artefact(("reports/training_metrics.json",), _from("train")),
    "history": Artefact(("reports/history.csv",), _from("train"), form="csv"),
    "validation_report": Artefact(("reports/validation.json",), _from("validate")),
    "tiers_report": Artefact(("tiers/report.json",), "foundry tiers"),
    "health_report": Artefact(("reports/health_report.json", "bundle/health_report.json"), _from("export")),
    "bundle_metadata": Artefact(("bundle/metadata.json",), _from("export")),
    "task_spec": Artefact(("configs/task_spec.json",), _from("export"), schema="bundle/task.json"),
    "training_config": Artefact(("configs/training_config.json",), _from("export"), schema="bundle/experiment.json"),
    "torchserve_config": Artefact(("configs/torchserve_config.json",), _from("export")),
    "document": Artefact(
        tuple(f"corpus/{split}.jsonl" for split in ("train", "validation", "test")), _from("corpus"), form="jsonl"
    ),
    "pictures": Artefact(("corpus/pictures.json",), _from("corpus")),
    "tokenizer": Artefact(("tokenizer.json",), _from("tokenizer"), variants=_of_pictures("pictures")),
    "model": Artefact(("model.json",), _from("train")),
    "spec": Artefact(("spec.json",), _from("train"), schema="bundle/experiment.json"),
    "samples": Artefact(("validation/samples.json",), _from("validate")),
    "latencies": Artefact(("validation/latencies.json",), _from("validate")),
    "checkpoint_state": Artefact(("checkpoint-*/state.json",), "foundry run"),
    "checkpoint_metadata": Artefact(("checkpoint-*/metadata.json",), "foundry run"),
    "random_states": Artefact(("checkpoint-*/random.json",), "foundry run"),
    "training_record": Artefact(("runs/*/record.jsonl",), "foundry run", form="jsonl"),
    "ledger": Artefact(("ledger.jsonl",), _from("train"), form="jsonl"),
    "download_validator": Artefact(("partial/*.validator.json",), "foundry run"),
    "environment": Artefact(("environment.json",), "foundry env show --json"),
    "run_record": Artefact(("records/*.json",), "foundry run"),
    "resume_certificate": Artefact(("resume_certificate.json",), "foundry prove-resume"),
    "lock": Artefact(("*.lock.json",), "foundry lock -o"),
    "repro_bundle": Artefact(("bundle.json",), "foundry bundle pack"),
}


class MalformedError(ArtifactError):
    """A file does not hold what its schema says: it is damaged, foreign, or of another version."""


@dataclass(frozen=True)
class Mismatch:
    """One thing in an artefact that its schema does not allow.

    Attributes:
        keys: where it stands: names of keys and indices of items, from the top.
        message: what is wrong, as a sentence without its end.
    """

    keys: tuple[str | int, ...]
    message: str

    @property
    def path(self) -> str:
        """The keys as people write them: `budgets[0].limit`; empty at the top."""
        text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.keys)
        return text.removeprefix(".")

    def __str__(self) -> str:
        return f"`{self.path}` {self.message}" if self.keys else f"it {self.message}"


def kind_of(path: PurePath) -> str | None:
    """The kind of artefact that a path is the name of; None if it is none of ours."""
    return next((kind for kind, row in ARTEFACTS.items() if any(path.match(name) for name in row.names)), None)


@cache
def artefact_schema(kind: str) -> Schema:
    """The schema of a kind, or of one row of it. Read-only by agreement."""
    name = ARTEFACTS[kind].schema or f"artefact/{kind}.json"
    schema: Schema = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    # jsonschema would take `$schema` as a wish for its own validator and drop what ours does differently.
    schema.pop("$schema")
    return schema


def mismatches(kind: str, value: Any) -> list[Mismatch]:
    """Everything in a value that the schema of its kind does not allow, in the order of the keys.

    Args:
        kind: a row of `ARTEFACTS`.
        value: what is in the file, as `json.loads` returns it, or one row of it.
    """
    found = {message for error in _validator(_variant(kind, value)).iter_errors(value) for message in _explained(error)}
    return sorted(found, key=lambda mismatch: ([str(key) for key in mismatch.keys], mismatch.message))


def _variant(kind: str, value: Any) -> str:
    said = value.get("kind") if isinstance(value, dict) else None
    return ARTEFACTS[kind].variants.get(said, kind) if isinstance(said, str) else kind


def check_artefact(kind: str, value: Any, where: Path | str, *, rebuild: str = "") -> None:
    """Insist that a value is what the schema of its kind says.

    Args:
        kind: a row of `ARTEFACTS`.
        value: what is in the file, or one row of it.
        where: the file, for the message.
        rebuild: the command that makes the file again, where it is not the one in the table.

    Raises:
        MalformedError: it is something else; names what and where, and the command that builds the file again.
    """
    found = mismatches(kind, value)
    if not found:
        return
    hint = f"build it again with: {rebuild or ARTEFACTS[kind].rebuild}"
    if newer := _newer_version(kind, value):
        written = value.get("toolkit_version")
        reader = f"Model Foundry {written}, which wrote it," if isinstance(written, str) else "a newer Model Foundry"
        message = f"{newer}, which is the newest that this version reads; {reader} reads it"
        raise MalformedError(message, where=str(where), hint=f"use that version, or {hint}")
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"{found[0]}{others}: the file was changed or damaged, or something else wrote it"
    raise MalformedError(message, where=str(where), hint=hint)


def _newer_version(kind: str, value: Any) -> str:
    properties = artefact_schema(kind).get("properties", {})
    for key in _VERSION_KEYS:
        known = properties.get(key, {}).get("const")
        found = value.get(key) if isinstance(value, dict) else None
        if known is not None and type(found) is int and found > known:
            return f"`{key}` {found} is newer than {known}"
    return ""


# What jsonschema finds, in words


def _explained(error: ValidationError) -> Iterator[Mismatch]:
    keys = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        known = schema.get("properties", {})
        yield from (Mismatch((*keys, name), "is not a key of this format") for name in value if name not in known)
    elif error.validator == "required":
        yield from (Mismatch((*keys, name), "is missing") for name in schema["required"] if name not in value)
    elif error.validator is None:  # the schema `false`
        yield Mismatch(keys, "does not belong here")
    else:
        yield Mismatch(keys, _WORDS.get(str(error.validator), _by_default)(error.validator_value, value))


def _by_default(limit: Any, value: Any) -> str:
    return f"does not fit {_shown(limit)}: {_shown(value)}"


_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
    "null": "null",
}
# keyword → (its value in the schema, what is there) → what is wrong
_WORDS: Mapping[str, Callable[[Any, Any], str]] = {
    "type": lambda types, value: f"must be {_named(types)}, but is {_shown(value)}",
    "const": lambda known, value: f"must be {_shown(known)}, but is {_shown(value)}",
    "enum": lambda choices, value: f"must be one of {', '.join(map(_shown, choices))}, but is {_shown(value)}",
    "minimum": lambda limit, value: f"must be at least {limit}, but is {_shown(value)}",
    "maximum": lambda limit, value: f"must be at most {limit}, but is {_shown(value)}",
    "exclusiveMinimum": lambda limit, value: f"must be above {limit}, but is {_shown(value)}",
    "exclusiveMaximum": lambda limit, value: f"must be below {limit}, but is {_shown(value)}",
    "pattern": lambda _, value: f"does not have the right form: {_shown(value)}",
    "minLength": lambda least, value: f"must have at least {least} characters, but is {_shown(value)}",
    "maxLength": lambda most, value: f"must have at most {most} characters, but is {_shown(value)}",
    "minItems": lambda least, value: f"must have at least {least} items, but has {len(value)}",
    "maxItems": lambda most, value: f"must have at most {most} items, but has {len(value)}",
}


def _named(types: str | list[str]) -> str:
    return " or ".join(_TYPES[name] for name in ([types] if isinstance(types, str) else types))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


# The validator


@cache
def _validator(kind: str) -> Validator:
    """The validator of a kind. Numbers are finite, tuples are lists, and there is no way to fetch another schema."""
    from jsonschema import Draft202012Validator, validators  # noqa: PLC0415 - takes longer to import than to use
    from referencing import Registry  # noqa: PLC0415

    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _is_finite, "array": _is_list})
    strict: Any = validators.extend(Draft202012Validator, {"items": _items}, type_checker=types)  # type: ignore[no-untyped-call]
    validator: Validator = strict(artefact_schema(kind), registry=Registry())
    return validator


def _is_finite(_checker: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(_checker: Any, value: Any) -> bool:
    return isinstance(value, list | tuple)


def _items(validator: Any, items: Schema, value: Any, schema: Schema) -> Iterator[ValidationError]:
    """The keyword `items`, quick where only types are asked for.

    jsonschema takes 12 µs an item, and the random states of a checkpoint have 1,250.
    """
    if not validator.is_type(value, "array"):
        return
    first = len(schema.get("prefixItems", ()))
    only_typed = items.keys() <= {"type", "title", "description"} and isinstance(items.get("type"), str)
    if only_typed and all(validator.is_type(item, items["type"]) for item in value[first:]):
        return
    for index, item in enumerate(value[first:], start=first):
        yield from validator.descend(item, items, path=index)
