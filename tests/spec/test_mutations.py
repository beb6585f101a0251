"""Every line of the shipped experiment, broken in every usual way: the error is at that line and the help is right.

The mutants are made from the text, as a hand would make them, so positions are checked against what is on the screen.
"""

import random
from pathlib import Path

import pytest

from pipeline.paths import SPECS
from pipeline.spec import SpecError, parse_spec
from pipeline.spec.document import dotted, parse_document
from pipeline.spec.schema import is_leaf, leaves, schema_at

pytestmark = pytest.mark.unit
TEXT = Path(SPECS / "experiment.yaml").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
DOCUMENT = parse_document(TEXT.encode(), "experiment.yaml")
KEYS = list(DOCUMENT.keys)
SETTINGS = [keys for keys in KEYS if is_leaf(schema_at(keys))]
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def problems(text):
    try:
        parse_spec(text.encode(), "experiment.yaml")
    except SpecError as error:
        return error.problems
    return ()


def with_line(number, line):
    """The experiment with other text in one line; None leaves the line out."""
    lines = [*LINES[: number - 1], *([] if line is None else [line]), *LINES[number:]]
    return "\n".join(lines) + "\n"


def with_key(keys, name):
    place = DOCUMENT.keys[keys]
    line = LINES[place.line - 1]
    return with_line(place.line, line[: place.column - 1] + name + line[place.column - 1 + place.length :])


def with_value(keys, value):
    """The experiment with another value on the line of a setting."""
    place = DOCUMENT.keys[keys]
    return with_line(place.line, LINES[place.line - 1][: place.column - 1 + place.length] + f": {value}")


def slips(name, random_):
    """One of each kind of slip of the hand."""
    at = random_.randrange(len(name))
    swap = random_.randrange(len(name) - 1)
    yield name[:at] + name[at + 1 :]
    yield name[:at] + name[at] + name[at:]
    yield name[:at] + random_.choice(LETTERS) + name[at + 1 :]
    yield name[:swap] + name[swap + 1] + name[swap] + name[swap + 2 :]


def test_at_least_95_of_100_single_slips_in_a_key_get_the_right_suggestion_and_all_the_right_line():
    random_ = random.Random(20261121)
    right, wrong = 0, []

    for keys in KEYS:
        known = set(schema_at(keys[:-1])["properties"])
        for name in random_.sample([slip for slip in slips(keys[-1], random_) if slip not in known], 2):
            found = problems(with_key(keys, name))

            # A section under another name leaves nothing else to say; a needed key is not called missing as well.
            assert [problem.line for problem in found] == [DOCUMENT.keys[keys].line], (name, found)
            if f"did you mean `{keys[-1]}`?" in found[0].hint:
                right += 1
            else:
                wrong.append((dotted(keys), name, found[0].hint))

    assert right + len(wrong) == 2 * len(KEYS)
    assert right / (right + len(wrong)) >= 0.95, wrong


def test_a_key_that_stands_twice_is_reported_at_the_second():
    for keys in SETTINGS:
        place = DOCUMENT.keys[keys]
        line = LINES[place.line - 1]

        [found] = problems(with_line(place.line, f"{line}\n{line}"))

        assert (found.code, found.line, found.path) == ("E0108", place.line + 1, dotted(keys))


def test_a_setting_left_out_takes_its_default_or_is_missed_at_its_section():
    for keys in SETTINGS:
        place = DOCUMENT.keys[keys]

        found = problems(with_line(place.line, None))

        needed = keys[-1] in schema_at(keys[:-1]).get("required", ()) or "default" not in schema_at(keys)
        if keys == ("dataset", "source", "kind"):
            assert found
        elif needed or keys == ("dataset", "source", "sha256"):
            assert [(problem.code, problem.path) for problem in found] == [("E0204", dotted(keys))]
            assert found[0].line == DOCUMENT.keys.get(keys[:-1], DOCUMENT.places[()]).line
        elif keys == ("model", "num_heads"):  # without it 3, which is what it is
            assert found == ()
        else:
            assert all(problem.code.startswith("E04") for problem in found)


@pytest.mark.parametrize("value", ["{a: 1}", "[[]]", '"no such value"', "nothing like it"])
def test_a_value_of_another_type_is_reported_at_its_line(value):
    for keys in SETTINGS:
        schema = schema_at(keys)
        if "string" in schema["type"] and "enum" not in schema and "pattern" not in schema and value[0] not in "{[":
            continue  # text where text is wanted

        found = problems(with_value(keys, value))

        assert [problem.line for problem in found] == [DOCUMENT.keys[keys].line]
        assert found[0].code in ("E0207", "E0301", "E0304", "E0305")


@pytest.mark.parametrize("value", ["true", "null", '"3"'])
def test_booleans_null_and_quoted_numbers_are_no_numbers(value):
    for keys in SETTINGS:
        kinds = schema_at(keys)["type"]
        if not {"integer", "number"} & set([kinds] if isinstance(kinds, str) else kinds) or "string" in kinds:
            continue
        if value == "null" and "null" in kinds:
            continue

        [found] = problems(with_value(keys, value))

        assert found.line == DOCUMENT.keys[keys].line
        assert found.code in ("E0301", "E0302")


def test_a_number_beyond_each_limit_is_reported_at_its_line():
    beyond = {"minimum": -1, "maximum": 1, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
    tried = 0

    for keys in SETTINGS:
        schema = schema_at(keys)
        for keyword in beyond.keys() & schema.keys():
            if schema[keyword] == 2**63 - 1:
                continue  # the largest integer that YAML values can have here
            tried += 1

            [found] = problems(with_value(keys, schema[keyword] + beyond[keyword]))

            assert (found.code, found.line) == ("E0303", DOCUMENT.keys[keys].line)
            assert found.allowed

    assert tried > 50


def test_a_setting_in_another_section_is_sent_home():
    sections = [name for name in DOCUMENT.values if isinstance(DOCUMENT.values[name], dict)]
    unique = [keys for keys, _ in leaves() if len(keys) == 2]

    for keys in unique:
        wrong = sections[(sections.index(keys[0]) + 5) % len(sections)]
        place = DOCUMENT.keys[wrong,]
        written = DOCUMENT.keys[keys].line
        moved = [*LINES]
        moved.insert(place.line, LINES[written - 1])
        del moved[written if written > place.line else written - 1]

        found = problems("\n".join(moved))

        line = place.line + 1 if written > place.line else place.line
        assert [(problem.code, problem.line) for problem in found if not problem.code.startswith("E04")] == [
            ("E0202", line)
        ]
        assert found[0].hint == f"move it under `{keys[0]}:`"


def test_lines_cut_short_anywhere_never_end_in_a_traceback():
    random_ = random.Random(20261121)

    for _ in range(60):
        cut = TEXT[: random_.randrange(len(TEXT))]
        at = random_.randrange(len(TEXT))
        for mutant in (cut, TEXT[:at] + random_.choice("{}[]:,&*!|>'\"%@`\t\n#-?") + TEXT[at:]):
            found = problems(mutant)

            assert all(problem.line <= mutant.count("\n") + 1 for problem in found)
