"""The shipped schemas: valid themselves, complete in what each setting says, and in step with specs/experiment.yaml."""

import json

import pytest
from jsonschema import Draft202012Validator

from pipeline.paths import SCHEMAS, SPECS, STAGES
from pipeline.spec.document import read_document
from pipeline.spec.schema import is_leaf, leaves, schema_at, schema_of

pytestmark = pytest.mark.unit
FILES = sorted(SCHEMAS.rglob("*.json"))
LEAVES = [pytest.param(keys, leaf, id=".".join(keys)) for keys, leaf in leaves()]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.relative_to(SCHEMAS).as_posix()) for path in FILES])
def test_a_schema_is_valid_under_its_metaschema(path):
    schema = json.loads(path.read_text(encoding="utf-8"))

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("keys", "leaf"), LEAVES)
def test_a_setting_says_what_it_is_who_reads_it_and_what_it_changes(keys, leaf):
    assert leaf["type"]
    assert leaf["title"]
    assert leaf["description"].endswith(".")
    assert set(leaf["x-stages"]) <= set(STAGES)
    assert leaf["x-effect"] in ("result", "speed", "output", "none")


@pytest.mark.parametrize(("keys", "leaf"), LEAVES)
def test_a_setting_has_a_valid_default_or_is_required(keys, leaf):
    owner = schema_at(keys[:-1])
    required = {
        *owner.get("required", ()),
        *(name for part in owner.get("allOf", ()) for name in part["then"]["required"]),
    }

    assert "default" in leaf or keys[-1] in required
    if "default" in leaf:
        Draft202012Validator(leaf).validate(leaf["default"])


@pytest.mark.parametrize(("keys", "leaf"), [case for case in LEAVES if "integer" in case.values[1]["type"]])
def test_a_whole_number_has_limits(keys, leaf):
    assert leaf.get("const") or leaf["minimum"] <= leaf["maximum"] < 2**63


def test_mappings_are_closed_and_described():
    def walk(schema):
        yield schema
        for child in schema.get("properties", {}).values():
            yield from walk(child)

    mappings = [schema for schema in walk(schema_of()) if not is_leaf(schema)]

    assert all(schema["additionalProperties"] is False for schema in mappings)
    assert all(schema["title"] and schema["description"] for schema in mappings)


def test_names_of_settings_are_unique_across_sections():
    names = [keys[-1] for keys, _ in leaves() if len(keys) <= 2]

    assert len(names) == len(set(names))


def test_branches_agree_with_the_conditions_that_enforce_them():
    source = schema_at(("dataset", "source"))

    conditions = {part["if"]["properties"]["kind"]["const"]: part["then"] for part in source["allOf"]}

    assert list(conditions) == source["properties"]["kind"]["enum"] == list(source["x-branches"])
    for kind, then in conditions.items():
        assert then["propertyNames"]["enum"] == ["kind", *source["x-branches"][kind]]
        assert set(then["required"]) <= set(source["x-branches"][kind])


def test_the_shipped_experiment_spells_out_every_setting_in_the_order_of_the_schema():
    document = read_document(SPECS / "experiment.yaml")
    kind = document.values["dataset"]["source"]["kind"]
    source = schema_at(("dataset", "source"))
    others = set(source["properties"]) - {"kind", *source["x-branches"][kind]}

    expected = [keys for keys, _ in leaves() if not (keys[:2] == ("dataset", "source") and keys[-1] in others)]

    settings = set(expected)
    assert [keys for keys in document.keys if keys in settings] == expected
