"""Every row of tests/cases/earlier-keys.yaml: a key of an earlier system has a setting, a reason, or an error."""

import copy
from pathlib import Path

import pytest
import yaml

from pipeline.spec.document import dotted, parse_document
from pipeline.spec.migrate.dialects import DIALECTS
from pipeline.spec.migrate.translate import translate

pytestmark = pytest.mark.unit
CASES = Path(__file__).parents[1] / "cases"
ROWS = yaml.safe_load((CASES / "earlier-keys.yaml").read_text(encoding="utf-8"))
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
ALONE = {  # the rest of a file in which one key is looked at
    "training-config": {"task_name": "lm_tiny", "num_layers": 2},
    "trainer": {"model": {"architecture": "gpt2"}, "data": {"training_corpus": "corpora/plays"}},
    "finetuning": {
        "model": {"name": "owner/model"},
        "training": {"method": "sft"},
        "data": {"strategy": "toolbench", "generation_type": "real"},
        "tools": [{"name": "search", "description": "Looks up.", "parameters": {"properties": {}}}],
    },
    "one-command": {"vocab-size": 4000, "max-seq-length": 64},
}


def old_file(row):
    """The text of an earlier file in which the key of a row has its value."""
    values = copy.deepcopy(ALONE[row["system"]])
    for key, value in {**row.get("beside", {}), row["key"]: row["value"]}.items():
        *above, last = key.split(".")
        section = values
        for name in above:
            section = section.setdefault(name, {})
        section[last] = value
    return yaml.safe_dump(values, sort_keys=False)


def translated(row):
    document = parse_document(old_file(row).encode(), "old.yaml")
    dialect = BY_NAME[row["system"]]
    return translate(document, dialect, text=["corpus"] if dialect.names_text else ())


def rows(outcome):
    found = [row for row in ROWS if outcome in row]
    return [pytest.param(row, id=f"{row['system']}: {row['key']}: {row['value']}") for row in found]


@pytest.mark.parametrize("row", rows("setting"))
def test_a_key_with_a_setting_today_gives_it_its_value(row):
    found = translated(row)

    [fate] = [fate for fate in found.fates if dotted(fate.keys) == row["key"]]
    assert (fate.new, found.problems) == (row["setting"], [])
    assert found.settings[row["setting"]] == row.get("becomes", row["value"])


@pytest.mark.parametrize("row", rows("dropped"))
def test_a_key_with_nothing_to_lose_goes_with_a_reason(row):
    found = translated(row)

    [fate] = [fate for fate in found.fates if dotted(fate.keys) == row["key"]]
    assert (fate.new, found.problems) == ("", [])
    assert row["dropped"] in fate.reason


@pytest.mark.parametrize("row", rows("refused"))
def test_what_cannot_be_carried_over_is_an_error_on_the_line_of_its_key(row):
    found = translated(row)

    [problem] = found.problems
    first = found.document.place_of(tuple(row["key"].split(".")), key=True).line
    last = first + (len(row["value"]) if isinstance(row["value"], list) else 0)  # the item that is wrong
    assert problem.code == row["refused"]
    assert first <= problem.line <= last


@pytest.mark.parametrize("system", sorted(ALONE))
def test_every_key_of_a_system_has_a_row(system):
    known = {row["key"].replace("-", "_") if system == "one-command" else row["key"] for row in ROWS}
    synonyms = {"training.optimizer", "training.dpo_beta", "training.lora_target_modules"}

    assert [row.old for row in BY_NAME[system].rows if "*" not in row.old and row.old not in known | synonyms] == []


def test_each_row_says_one_outcome():
    assert all(len({"setting", "dropped", "refused"} & row.keys()) == 1 for row in ROWS)
