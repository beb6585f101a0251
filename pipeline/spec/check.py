"""Everything that is wrong or odd in a parsed spec, all at once and in the order of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry

from pipeline.spec.document import UNUSABLE, Document, Keys, dotted, value_at
from pipeline.spec.names import NEEDLESS
from pipeline.spec.nearest import closest
from pipeline.spec.project import PROJECT_INNER_RULES, PROJECT_RULES, Project
from pipeline.spec.retyped import as_section, as_value, meant_choice
from pipeline.spec.rule import Finding, InnerRule, Rule
from pipeline.spec.rules import INNER_RULES, RULES, UNREAD, UNSUPPORTED
from pipeline.spec.schema import EXPERIMENT, Schema, branch, kinds, leaves, resolve, schema_at, schema_of
from pipeline.spec.suggest import Suggestion, suggest_key
from pipeline.spec.versions import other_version
from pipeline.spec.words import describe, expected, kinds_of, listed, spelled

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

    from pipeline.spec.diagnose import Problem

_MOST_SLIPS = 100  # unknown keys of one mapping for which a suggestion is looked for


def check(document: Document, project: Project | None = None) -> list[Problem]:
    """All problems of a document, sorted by position; what is only odd is among them with a W code.

    Args:
        document: a parsed file.
        project: what to compare it with besides itself; None looks at nothing else.
    """
    if other := other_version(document):
        return [*document.problems, other]
    problems = list(document.problems)
    if document.kind in kinds():
        problems += _schema_problems(document)
        # A key that only stands in the wrong section casts no doubt on what is beside it.
        doubtful = {problem.path for problem in problems if problem.code != "E0202"}
        problems += _rule_problems(document, doubtful, project)
    else:
        problems.append(_unknown_kind(document))
    return sorted(problems, key=lambda problem: (problem.line, problem.column, problem.code))


def _unknown_kind(document: Document) -> Problem:
    message = f"there is no kind of document called {spelled(document.kind)}"
    meant = closest(str(document.kind), kinds())
    place, hint = document.place_of(("kind",)), f"did you mean `{meant}`?" if meant else ""
    return document.problem("E0207", message, place, path="kind", allowed=listed(kinds()), hint=hint)


# What the schema says


@dataclass(frozen=True, slots=True)
class _Miss:
    """A value that misses one keyword of its schema."""

    keyword: str
    keys: Keys
    value: Any
    schema: Schema
    limit: Any  # what the keyword says


def _misses(document: Document) -> list[_Miss]:
    """What jsonschema finds, without what is said about values that have a problem already."""
    found = []
    for error in _validator(document.kind).iter_errors(document.values):
        value: Any = error.instance
        if value is not UNUSABLE:
            keyword = "propertyNames" if "propertyNames" in error.absolute_schema_path else str(error.validator)
            schema: Any = error.schema
            found.append(_Miss(keyword, tuple(error.absolute_path), value, schema, error.validator_value))
    mistyped = {miss.keys for miss in found if miss.keyword == "type"}
    # A value of the wrong type is not out of range or too long as well.
    return [miss for miss in found if miss.keyword == "type" or miss.keys not in mistyped]


def _schema_problems(document: Document) -> Iterator[Problem]:
    misses = _misses(document)
    # Keys that are in the file, but misspelt, are not reported as missing too.
    missing = any(miss.keyword == "required" for miss in misses)
    meant = {dotted(found.keys) for miss in misses if missing for _, found in _strange_keys(document, miss) if found}
    told: set[Problem] = set()  # `required` finds every missing key once per missing key
    for miss in misses:
        for problem in _REPORTERS[miss.keyword](document, miss):
            if problem not in told and not (problem.code == "E0204" and problem.path in meant):
                told.add(problem)
                yield problem


def _strange_keys(document: Document, miss: _Miss) -> Iterator[tuple[str, Suggestion | None]]:
    """The keys of a mapping that its schema does not know, each with what was probably meant."""
    if miss.keyword == "additionalProperties":
        strange = [name for name in miss.value if name not in miss.schema["properties"]]
        for count, name in enumerate(strange):
            # Past that many, the file is not a spec with slips in it, and looking for each would take long.
            seek = count < _MOST_SLIPS
            yield name, suggest_key(name, miss.keys, miss.value, document.schema, document.keys) if seek else None


def _unknown_keys(document: Document, miss: _Miss) -> Iterator[Problem]:
    here = _named(miss.keys)
    for name, found in _strange_keys(document, miss):
        place = document.place_of((*miss.keys, name), key=True)
        path = dotted((*miss.keys, name))
        message = f"`{name}` is not a key of {here}"
        if needless := _needless(document, name):
            yield document.problem("E0201", message, place, path=path, hint=f"leave it out: {needless}")
            continue
        if found is None:
            allowed = listed(branch(miss.schema, miss.value))
            yield document.problem("E0201", message, place, path=path, allowed=allowed)
            continue
        home = found.keys[:-1]
        meant = dotted(found.keys) if home != miss.keys else str(found.keys[-1])
        if there := document.keys.get(found.keys):
            hint = f"`{meant}` is set on line {there.line} already: keep one of them, under that name"
        elif found.exact and not document.keys:  # values without a file: nothing can be moved
            hint = f"say `{meant}` instead of `{path}`"
        elif found.exact:
            hint = f"move it under `{home[-1]}:`" if home else "move it to the top level, without indentation"
        else:
            hint = f"did you mean `{meant}`?{_look_alike(name)}"
        if found.exact:
            message = f"`{name}` belongs in {_named(home)}, not in {here}"
            yield document.problem("E0202", message, place, path=path, hint=hint)
        else:
            yield document.problem("E0201", message, place, path=path, hint=hint)


def _look_alike(name: str) -> str:
    """The first letter of a key that only looks like one of ours."""
    odd = next((letter for letter in name if not letter.isascii()), None)
    return f" It has the letter U+{ord(odd):04X} in it" if odd else ""


def _needless(document: Document, name: str) -> str:
    """Why an experiment has no such key, of those that other tools must be told."""
    is_experiment = document.kind in (EXPERIMENT, "preset")
    return NEEDLESS.get(name.lower().replace("-", "_"), "") if is_experiment else ""


def _key_of_another_kind(document: Document, miss: _Miss) -> Iterator[Problem]:
    name, owner = miss.value, schema_at(miss.keys, document.schema)  # the value is the name of a key
    if name not in owner["properties"]:
        return  # of no kind: reported as an unknown key
    values = value_at(document.values, miss.keys)
    discriminator = owner["x-discriminator"]
    takers = [kind for kind, names in owner["x-branches"].items() if name in names]
    message = (
        f"`{name}` is a key of {discriminator} {listed([f'`{kind}`' for kind in takers])},"
        f" but this {_named(miss.keys)} is of {discriminator} `{values[discriminator]}`"
    )
    place = document.place_of((*miss.keys, name), key=True)
    path = dotted((*miss.keys, name))
    hint = f"remove it, or set `{discriminator}: {takers[0]}`"
    meant = suggest_key(name, miss.keys, values, document.schema)
    if meant and meant.keys[:-1] == miss.keys and not meant.exact and meant.keys[-1] not in values:
        hint = f"did you mean `{meant.keys[-1]}`? Otherwise {hint}"
    yield document.problem("E0203", message, place, path=path, allowed=listed(miss.limit), hint=hint)


def _missing_keys(document: Document, miss: _Miss) -> Iterator[Problem]:
    owner = schema_at(miss.keys, document.schema)
    for name in miss.limit:
        if name in miss.value:
            continue
        child = owner["properties"][name]
        who = _named(miss.keys) if miss.keys else "the spec"
        if (discriminator := owner.get("x-discriminator")) in miss.value:
            who += f" of {discriminator} `{miss.value[discriminator]}`"
        place = document.place_of(miss.keys, key=True)
        path = dotted((*miss.keys, name))
        allowed = "a mapping" if "properties" in child else expected(child)
        hint = f"add `{name}:` {child['description']}"
        yield document.problem("E0204", f"{who} needs `{name}`", place, path=path, allowed=allowed, hint=hint)


def _wrong_type(document: Document, miss: _Miss) -> Iterator[Problem]:
    schema, value, path, place = miss.schema, miss.value, dotted(miss.keys), document.place_of(miss.keys)
    fits = _validator(document.kind).evolve(schema=schema).is_valid
    if kinds_of(schema) == ["object"]:
        found = "is empty" if value is None else f"is {describe(value)}"
        what = _named(miss.keys) if isinstance(miss.keys[-1], int) else f"the section {_named(miss.keys)}"
        message = f"{what} {found}, but must be a mapping of keys"
        hint = as_section(schema, value, miss.keys, document.kind)
        yield document.problem("E0205", message, document.place_of(miss.keys, key=True), path=path, hint=hint)
        return
    text = document.texts.get(miss.keys, "")
    code, hint = as_value(schema, value, text, keys=miss.keys, kind=document.kind, fits=fits)
    message = f"`{path}` must be {expected(schema)}, but is {describe(value)}"
    yield document.problem(code, message, place, path=path, hint=hint)


def _out_of_range(document: Document, miss: _Miss) -> Iterator[Problem]:
    words = {
        "minimum": "must be at least",
        "exclusiveMinimum": "must be above",
        "maximum": "must be at most",
        "exclusiveMaximum": "must be below",
    }
    path = dotted(miss.keys)
    written = document.texts.get(miss.keys) or spelled(miss.value)
    message = f"`{path}` {words[miss.keyword]} {spelled(miss.limit)}, but is {written}"
    yield document.problem("E0303", message, document.place_of(miss.keys), path=path, allowed=expected(miss.schema))


def _not_a_choice(document: Document, miss: _Miss) -> Iterator[Problem]:
    path = dotted(miss.keys)
    meant = meant_choice(miss.keys, miss.value, miss.limit, document.kind)
    hint = f"did you mean `{meant}`?" if meant else ""
    message = f"`{path}` cannot be {spelled(miss.value)}"
    allowed = expected(miss.schema)
    yield document.problem("E0304", message, document.place_of(miss.keys), path=path, allowed=allowed, hint=hint)


def _not_the_constant(document: Document, miss: _Miss) -> Iterator[Problem]:
    if miss.keys != ("schema_version",):
        path = dotted(miss.keys)
        message = f"`{path}` cannot be {spelled(miss.value)}"
        place = document.place_of(miss.keys)
        yield document.problem("E0304", message, place, path=path, allowed=expected(miss.schema))
        return
    message = f"schema version {spelled(miss.value)} is not known"
    hint = f"this version of the toolkit reads `schema_version: {miss.limit}`"
    yield document.problem("E0206", message, document.place_of(miss.keys), path=dotted(miss.keys), hint=hint)


def _wrong_form(document: Document, miss: _Miss) -> Iterator[Problem]:
    path = dotted(miss.keys)
    message = f"`{path}` does not have the right form: {spelled(miss.value)}"
    allowed = miss.schema.get("x-form") or f"text that matches {miss.limit}"
    yield document.problem("E0305", message, document.place_of(miss.keys), path=path, allowed=allowed)


def _wrong_length(document: Document, miss: _Miss) -> Iterator[Problem]:
    path, size = dotted(miss.keys), len(miss.value)
    unit = "character" if isinstance(miss.value, str) else "item" if isinstance(miss.value, list) else "key"
    message = f"`{path}` has {size} {unit}{'' if size == 1 else 's'}"
    allowed = expected(miss.schema)
    yield document.problem("E0306", message, document.place_of(miss.keys), path=path, allowed=allowed)


def _repeated_items(document: Document, miss: _Miss) -> Iterator[Problem]:
    for index, item in enumerate(miss.value):
        if item in miss.value[:index]:
            here = (*miss.keys, index)
            message = f"{spelled(item)} stands twice in `{dotted(miss.keys)}`"
            place = document.place_of(here)
            yield document.problem("E0307", message, place, path=dotted(here), hint="keep one of them")


_REPORTERS: dict[str, Callable[[Document, _Miss], Iterator[Problem]]] = {
    "additionalProperties": _unknown_keys,
    "propertyNames": _key_of_another_kind,
    "required": _missing_keys,
    "type": _wrong_type,
    "minimum": _out_of_range,
    "maximum": _out_of_range,
    "exclusiveMinimum": _out_of_range,
    "exclusiveMaximum": _out_of_range,
    "enum": _not_a_choice,
    "const": _not_the_constant,
    "pattern": _wrong_form,
    "minLength": _wrong_length,
    "maxLength": _wrong_length,
    "minItems": _wrong_length,
    "maxItems": _wrong_length,
    "minProperties": _wrong_length,
    "maxProperties": _wrong_length,
    "uniqueItems": _repeated_items,
}


# What the rules say


def _rule_problems(document: Document, reported: set[str], project: Project | None) -> Iterator[Problem]:
    # A rule speaks only about values that are right by themselves: one mistake, one message.
    values = _sound_values(document, reported)
    yield from _broken_rules(document, values)
    if project is not None:
        yield from _differences_from_project(document, values, project)
    yield from _idle_settings(document, values)
    yield from _vain_settings(document, values)
    yield from _unusual_values(document, values)


def _broken_rules(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    for rule in RULES.get(document.kind, ()):
        if found := _broken(document, values, rule):
            path = next((name for name in rule.reads if _is_given(document, name)), rule.reads[0])
            place = document.place_of(tuple(path.split(".")))
            yield document.problem(rule.code, found[0], place, path=path, hint=found[1])
    for inner in INNER_RULES.get(document.kind, ()):
        yield from _broken_inside(document, values, inner)


def _differences_from_project(document: Document, values: dict[str, Any], project: Project) -> Iterator[Problem]:
    for rule in PROJECT_RULES.get(document.kind, ()):
        if found := _broken(document, values, rule, project):
            path = rule.reads[0]
            place = document.place_of(tuple(path.split(".")))
            yield document.problem(rule.code, found[0], place, path=path, hint=found[1])
    for inner in PROJECT_INNER_RULES.get(document.kind, ()):
        yield from _broken_inside(document, values, inner, project)


def _broken_inside(document: Document, values: dict[str, Any], inner: InnerRule, *before: Any) -> Iterator[Problem]:
    if not values.keys() >= set(inner.reads):
        return
    for keys, message, hint in inner.broken(*before, *(values[name] for name in inner.reads)):
        here = (*inner.reads[0].split("."), *keys)
        place = document.place_of(here, key=here not in document.texts)  # a section is shown by its name
        yield document.problem(inner.code, message, place, path=dotted(here), hint=hint)


def _broken(document: Document, values: dict[str, Any], rule: Rule, *before: Any) -> Finding:
    if not values.keys() >= set(rule.reads):
        return None
    if rule.code.startswith("W") and not _is_given(document, rule.reads[0]):
        return None  # nobody wrote what is odd
    return rule.broken(*before, *(values[name] for name in rule.reads))


def _idle_settings(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    for row in UNREAD.get(document.kind, ()):
        schema = _leaves(document.kind)[row.setting]
        given = _is_given(document, row.setting) and values.keys() >= {row.setting, row.reads}
        if given and values[row.setting] != resolve(schema, schema["default"]) and row.when(values[row.reads]):
            message = f"`{row.setting}` has no effect: {row.why}"
            place = document.place_of(tuple(row.setting.split(".")), key=True)
            yield document.problem("W0102", message, place, path=row.setting, hint="remove it")


def _vain_settings(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    for lack in UNSUPPORTED.get(document.kind, ()):
        if lack.setting in values and lack.when(values[lack.setting]):
            message = f"`{lack.setting}` asks for what this version cannot do: {lack.why}"
            place = document.place_of(tuple(lack.setting.split(".")))
            yield document.problem("W0103", message, place, path=lack.setting, hint=lack.hint)


def _unusual_values(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    for name, schema in _leaves(document.kind).items():
        for warning in schema.get("x-warn", ()):
            if name in values and Draft202012Validator(warning["if"]).is_valid(values[name]):
                place = document.place_of(tuple(name.split(".")))
                yield document.problem("W0101", f"`{name}` {warning['message']}", place, path=name)


def _sound_values(document: Document, reported: set[str]) -> dict[str, Any]:
    """Dotted setting → its value, given or default, without those that a problem is about or could be about."""
    # An unknown key may be a misspelt one, so what is missing beside it does not count as left to its default.
    strange = {path.rpartition(".")[0] for path in reported if path not in _leaves(document.kind)}
    values = {}
    for name, keys, schema in _settings(document.kind):
        if reported and _is_doubtful(document, name, reported, strange):
            continue
        if keys in document.places:
            values[name] = resolve(schema, value_at(document.values, keys))
        elif "default" in schema:
            values[name] = resolve(schema, schema["default"])
    return values


def _is_doubtful(document: Document, name: str, reported: set[str], strange: set[str]) -> bool:
    above = [name, *(name.rsplit(".", up)[0] for up in range(1, name.count(".") + 1))]
    if any(path in above or path.startswith((f"{name}.", f"{name}[")) for path in reported):
        return True
    return any(path.rpartition(".")[0] in strange and not _is_given(document, path) for path in above)


def _is_given(document: Document, name: str) -> bool:
    return tuple(name.split(".")) in document.places


def _named(keys: Keys) -> str:
    return f"`{dotted(keys)}`" if keys else "the top level"


@cache
def _settings(kind: str) -> tuple[tuple[str, Keys, Schema], ...]:
    return tuple((".".join(keys), keys, schema) for keys, schema in leaves(schema_of(kind)))


@cache
def _leaves(kind: str) -> dict[str, Schema]:
    return {name: schema for name, _, schema in _settings(kind)}


# The schema


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    # In Python `$` also matches before a newline at the end of the text; JSON Schema means the end.
    if isinstance(value, str) and not re.search(re.sub(r"(?<!\\)\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


@cache
def _validator(kind: str) -> Validator:
    """The validator of a kind of documents. Its schema is whole, and it has no way to fetch another."""
    strict: Any = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    validator: Validator = strict(schema_of(kind), registry=Registry())
    return validator
