"""Every row of tests/cases/constraints.yaml: one case keeps the constraint, another breaks it at that setting."""

from pathlib import Path

import pytest
import yaml

from pipeline.spec import CODES, SpecError, load_spec
from pipeline.spec.document import dotted, read_document
from pipeline.spec.schema import kinds

pytestmark = pytest.mark.unit
CASES = Path(__file__).parents[1] / "cases"
ROWS = yaml.safe_load((CASES / "constraints.yaml").read_text(encoding="utf-8"))
ABOUT_KEYS = ("E0201",)  # what it is about does not stand in a valid case


def problems(path):
    try:
        return load_spec(path, kind=None).warnings
    except SpecError as error:
        return error.problems


def rows():
    return [pytest.param(row, id=f"{row['setting']}: {row['constraint']}") for row in ROWS]


@pytest.mark.parametrize("row", rows())
def test_a_constraint_can_be_kept(row):
    document = read_document(CASES / row["valid"])

    load_spec(CASES / row["valid"], kind=None)

    assert row["code"] in ABOUT_KEYS or row["setting"] in {dotted(keys) for keys in document.places}
    assert row["code"] not in {found.code for found in problems(CASES / row["valid"]) if found.path == row["setting"]}


@pytest.mark.parametrize("row", rows())
def test_a_broken_constraint_is_found_at_its_setting(row):
    found = problems(CASES / row["invalid"])

    assert (row["code"], row["setting"]) in {(problem.code, problem.path) for problem in found}
    assert row["code"].startswith("W") == (Path(row["invalid"]).parent.name == "valid")


def test_the_rows_are_well_formed_and_none_stands_twice():
    keys = {"constraint", "setting", "valid", "invalid", "code"}

    assert all(row.keys() - {"differs"} == keys for row in ROWS)
    assert {row["code"] for row in ROWS} <= CODES.keys()
    seen = [tuple(row[key] for key in sorted(keys)) for row in ROWS]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_document_has_cases_of_both_sorts(kind):
    assert any((CASES / kind / "valid").iterdir())
    assert any((CASES / kind / "invalid").iterdir())
