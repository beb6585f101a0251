"""What the checker says to a mutant, and whether that is right."""

from __future__ import annotations

import json
import re
import time
import traceback
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import Any

from jsonschema import Draft202012Validator
from mutants import Mutant
from referencing import Registry
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.spec import CODES, Problem, SpecError, parse_spec
from pipeline.spec.bundle import bundle_path
from pipeline.spec.rules import INNER_RULES, RULES
from pipeline.spec.schema import EXPERIMENT, kinds

SLOW = 2.0  # seconds
_RULES = {
    code: [rule for table in (RULES, INNER_RULES) for rows in table.values() for rule in rows if rule.code == code]
    for code in CODES
}
_MEANT = re.compile(r"(?:did you mean )?`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one mutant.

    Attributes:
        outcome: `right`: an error stands at the right line; `valid`: no error, and rightly so; `elsewhere`: errors, but
            none there; `missed`: no error, and wrongly so; `traceback`: the checker broke.
        suggested: for mutants with a right answer: whether it is what the first error at the line suggests.
        seconds: processor time of the check.
        errors: what the checker found.
        trace: the traceback, if there was one.
    """

    outcome: str
    suggested: bool | None
    seconds: float
    errors: tuple[Problem, ...] = ()
    trace: str = ""


def judge(mutant: Mutant) -> Verdict:
    """Check a mutant and compare with what must be found."""
    raw, errors = mutant.text.encode(), ()
    began = time.process_time()  # not the clock on the wall: other work on the machine is not the checker's
    try:
        parse_spec(raw, mutant.file, kind=None)
    except SpecError as error:
        errors = error.problems
    except Exception:  # noqa: BLE001 - any other exception is what a user would see as a traceback
        return Verdict("traceback", None, time.process_time() - began, trace=traceback.format_exc())
    seconds = time.process_time() - began
    errors = tuple(problem for problem in errors if not problem.is_warning)
    return Verdict(_outcome(mutant, errors), _suggested(mutant, errors), seconds, errors)


def _outcome(mutant: Mutant, errors: tuple[Problem, ...]) -> str:
    if any(problem.line in mutant.lines or _is_of_a_rule(mutant, problem) for problem in errors):
        return "right"
    if errors:
        return "elsewhere"
    return "valid" if mutant.allowed and is_valid_for_others(mutant) else "missed"


def _is_of_a_rule(mutant: Mutant, problem: Problem) -> bool:
    """Whether a change that is right by itself, or a loss, breaks a rule that is shown at the other setting."""
    if problem.code == "E0307" and mutant.allowed:  # two items are the same now; the second is shown
        return _within(mutant.path, problem.path.rpartition("[")[0])
    for rule in _RULES.get(problem.code, ()):
        read = [name for name in rule.reads if _within(mutant.path, name)]
        shown = [name for name in rule.reads if _within(problem.path, name)]
        if read and (mutant.allowed or (mutant.operator == "misplace" and read != shown)):
            return True
    return False


def _within(first: str, second: str) -> bool:
    """Whether one of two dotted paths leads to the other."""
    short, long = sorted((first, second), key=len)
    return long.startswith(short) and (len(short) == len(long) or not short or long[len(short)] in ".[")


def _suggested(mutant: Mutant, errors: tuple[Problem, ...]) -> bool | None:
    hint = next((problem.hint for problem in errors if problem.line == mutant.lines[0]), "")
    if mutant.home is not None:
        section = mutant.home.rpartition(".")[2]
        place = f"under `{section}:`" if section else "to the top level"
        return place in hint or f"`{mutant.home}." in hint
    if not mutant.meant:
        return None
    found = _MEANT.search(hint)
    return found is not None and found[1] == mutant.meant


def is_valid_for_others(mutant: Mutant) -> bool:
    """Whether a YAML parser and a JSON Schema validator that know nothing of the checker take a mutant."""
    reader = YAML(typ="safe", pure=True)
    try:
        values = reader.load(StringIO(mutant.text))
    except YAMLError:
        return False
    kind = values.get("kind", EXPERIMENT) if isinstance(values, dict) else EXPERIMENT
    return kind in kinds() and _validator(kind).is_valid(values)


@cache
def _validator(kind: str) -> Any:
    return Draft202012Validator(json.loads(bundle_path(kind).read_text(encoding="utf-8")), registry=Registry())
