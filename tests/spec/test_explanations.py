"""Every code is explained, and every example is run: the wrong one has exactly that problem, the right one none."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.commands.explain import command
from pipeline.errors import FoundryError
from pipeline.spec import CODES, SpecError
from pipeline.spec.check import check
from pipeline.spec.document import parse_document
from pipeline.spec.explanations import EXPLANATIONS
from pipeline.spec.pages import _GROUPS, DOCS, PAGES, explained, known_kind
from pipeline.spec.project import Project

pytestmark = pytest.mark.unit
# May stand beside others: an example may show what this version cannot act upon, or name a folder that is not here.
VAIN = {"W0103", "W0111"}
# Those need a missing file, a large one, other bytes, reports of a project, or the command `foundry migrate`.
WITHOUT_EXAMPLE = {"E0101", "E0102", "E0103", "E0308", "W0112", "W0113", *(f"E060{number}" for number in range(1, 9))}
EXAMPLES = [pytest.param(code, told, id=code) for code, told in EXPLANATIONS.items() if told.wrong]


def codes_of(text):
    try:
        problems = check(parse_document(text.encode(), "example.yaml"), Project(Path("nowhere")))
    except SpecError as error:
        problems = error.problems
    return {problem.code for problem in problems}


def test_every_code_is_explained():
    assert EXPLANATIONS.keys() == CODES.keys()
    assert {code for code, told in EXPLANATIONS.items() if not told.wrong} == WITHOUT_EXAMPLE
    assert {code[:3] for code in CODES} <= _GROUPS.keys()


@pytest.mark.parametrize(("code", "told"), EXAMPLES)
def test_the_wrong_example_has_exactly_that_problem(code, told):
    found = codes_of(told.head + told.wrong)

    assert code in found
    assert found - VAIN == {code} - VAIN


@pytest.mark.parametrize(("code", "told"), EXAMPLES)
def test_the_right_example_has_no_problem(code, told):
    assert codes_of(told.head + told.right) <= VAIN - {code}


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_made_from_tables_are_fresh(name):
    text = (DOCS / name).read_text(encoding="utf-8")

    assert text == PAGES[name](), "write them again: python -m pipeline.spec.pages"


@pytest.mark.parametrize("written", ["E0201", "e0201", "[E0201]"])
def test_a_code_is_explained_with_both_examples(written):
    text = explained(written)

    assert text.startswith("E0201: unknown key\n\n")
    assert "Wrong:\n\n    training:\n      learning_rte: 1e-3" in text
    assert "Right:\n\n    training:\n      learning_rate: 1e-3" in text


@pytest.mark.parametrize("code", ["E0221", "E020", "E02011"])
def test_an_unknown_code_is_answered_with_a_near_one(code):
    with pytest.raises(FoundryError) as caught:
        explained(code)

    assert "did you mean E0" in caught.value.hint


def test_without_a_code_all_are_listed():
    lines = CliRunner().invoke(command, []).output.splitlines()

    assert [line.split()[0] for line in lines] == sorted(CODES)


def test_an_unknown_kind_is_answered_with_a_near_one():
    with pytest.raises(FoundryError) as caught:
        known_kind("experimnet")

    assert caught.value.hint == "did you mean experiment?"
