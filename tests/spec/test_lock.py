"""The lock: blind to spelling, names and what does not shape the result; awake to everything that does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.files import write_atomic
from pipeline.paths import SPECS, STAGES
from pipeline.spec import load_spec, parse_spec
from pipeline.spec.lock import lock_of, read_lock
from pipeline.spec.schema import schema_at
from pipeline.spec.spec import Section, Spec

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset: {source: {kind: files, paths: [corpus]}}\n"
SHIPPED = load_spec(SPECS / "experiment.yaml")


def spelled(value, draw):
    """A value in one of the ways in which YAML can say it."""
    if isinstance(value, dict):
        entries = draw(st.permutations(list(value.items())))
        return "{" + ", ".join(f"{spelled(name, draw)}: {spelled(inner, draw)}" for name, inner in entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(spelled(item, draw) for item in value) + "]"
    ways = [json.dumps(value)]
    if isinstance(value, bool):
        ways += [str(value), str(value).upper()]
    elif value is None:
        ways += ["~", "Null"]
    elif isinstance(value, int):
        ways += [f"+{value}", f"0x{value:x}", f"{value}.0", f"{value}e0"] if value < 2**50 else []
    elif isinstance(value, float):
        ways += [f"{value!r}", f"{value:.17e}", *([str(int(value))] if value.is_integer() else [])]
    elif "'" not in value and "\n" not in value:
        ways += [f"'{value}'"]
    return draw(st.sampled_from(ways))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_equal_specs_have_one_hash_however_they_are_spelled(data):
    values = SHIPPED.to_dict()
    lines = [f"{name}: {spelled(value, data.draw)} # {name}" for name, value in values.items()]

    found = parse_spec("\n\n".join(data.draw(st.permutations(lines))).encode(), "x.yaml")

    assert lock_of(found) == lock_of(SHIPPED)


def test_defaults_and_aliases_do_not_show():
    plain = lock_of(parse_spec(f"{HEAD}training: {{epochs: 4, batch_size: 4}}".encode(), "x"))

    assert lock_of(parse_spec(f"{HEAD}training: {{batch_size: 4}}".encode(), "x")) == plain
    assert lock_of(parse_spec(f"{HEAD}training: {{epochs: &n 4, batch_size: *n}}".encode(), "x")) == plain


def other(value):
    """Another value of the same type; whether it is in range does not matter to a lock."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if value is None:
        return 7
    return [*value, "other"] if isinstance(value, list) else f"{value}x"


@pytest.mark.parametrize("name", SHIPPED.leaves())
def test_a_setting_changes_the_hash_exactly_when_it_changes_the_result(name):
    keys, schema = name.split("."), schema_at(name.split("."))
    values = SHIPPED.to_dict()
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = other(inner[keys[-1]])
    changed = Spec(SHIPPED.path, SHIPPED.kind, (), Section("", values))

    assert (lock_of(changed).hash != lock_of(SHIPPED).hash) == (schema["x-effect"] == "result")


def test_a_lock_has_every_setting_that_shapes_the_result_in_the_order_of_the_alphabet():
    lock = lock_of(SHIPPED)

    assert list(lock.settings) == sorted(SHIPPED.leaves(effects={"result"}))
    assert {"name", "notes", "kind", "schema_version"}.isdisjoint(lock.settings)


def test_the_lock_of_a_stage_holds_what_it_and_those_before_it_read():
    sections = [{name.split(".")[0] for name in lock_of(SHIPPED, stage).settings} for stage in STAGES]

    assert sections[0] == {"dataset"}
    assert sections[1] == {"dataset", "tokenizer"}
    assert lock_of(SHIPPED, "train") == lock_of(SHIPPED, "validate") == lock_of(SHIPPED, "export") == lock_of(SHIPPED)


def test_the_hash_of_a_spec_is_that_of_its_lock():
    assert SHIPPED.hash() == lock_of(SHIPPED).hash


def test_a_lock_comes_back_from_its_file(tmp_path):
    write_atomic(tmp_path / "x.lock.json", lock_of(SHIPPED).text)

    assert read_lock(tmp_path / "x.lock.json") == lock_of(SHIPPED)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"training.epochs": ', '"training.epochs": 1', "the hash is not that of the settings"),
        ('"format_version": 1', '"format_version": 2', "newer than 1"),
        ('"kind"', '"sort"', "`kind` is missing"),
        ("{", "", "not valid JSON"),
    ],
)
def test_a_damaged_lock_is_refused(tmp_path, old, new, message):
    (tmp_path / "x.lock.json").write_text(lock_of(SHIPPED).text.replace(old, new, 1))

    with pytest.raises(ArtifactError, match=message):
        read_lock(tmp_path / "x.lock.json")


def test_documents_of_other_kinds_lock_all_their_settings(checkout):
    spec = load_spec(next((checkout / "tests/cases/sweep/valid").glob("*.yaml")), kind="sweep")

    assert set(lock_of(spec).settings) == set(spec.leaves()) - {"name", "notes", "kind", "schema_version"}
