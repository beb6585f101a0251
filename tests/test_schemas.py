"""The shipped schemas: valid themselves, complete in what each setting says, and in step with specs/experiment.yaml."""

import json

import pytest
from jsonschema import Draft202012Validator

from pipeline.paths import SCHEMAS, SPECS, STAGES
from pipeline.spec.document import read_document
from pipeline.spec.schema import is_leaf, kinds, leaves, schema_at, schema_of

pytestmark = pytest.mark.unit
FILES = sorted(SCHEMAS.rglob("*.json"))
PARTIAL = ("preset",)  # laid over a whole, so nothing in it has to be there
FREE = ("template.parameters.*.default", "template.parameters.*.example")  # of whatever type the parameter is


def mappings(schema, keys=()):
    """Every mapping of settings in a schema with the way to it, those in lists and under free names among them."""
    if not is_leaf(schema):
        yield keys, schema
    for name, child in schema.get("properties", {}).items():
        yield from mappings(child, (*keys, name))
    if "items" in schema:
        yield from mappings(schema["items"], (*keys, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from mappings(schema["additionalProperties"], (*keys, "*"))


MAPPINGS = [
    pytest.param(kind, owner, id=".".join((kind, *keys)))
    for kind in kinds()
    for keys, owner in mappings(schema_of(kind))
]
SETTINGS = [
    pytest.param(kind, owner, name, leaf, id=".".join((kind, *keys, name)))
    for kind in kinds()
    for keys, owner in mappings(schema_of(kind))
    for name, leaf in owner["properties"].items()
    if is_leaf(leaf)
]


def test_the_settings_in_lists_and_under_free_names_are_looked_at():
    names = {case.id for case in SETTINGS}

    assert "sweep.space.*.low" in names
    assert "finetune.tools.[].parameters.properties.*.items.type" in names
    assert "policy.triggers.[].triggers.[].triggers.[].threshold" in names


@pytest.mark.parametrize("path", [pytest.param(path, id=path.relative_to(SCHEMAS).as_posix()) for path in FILES])
def test_a_schema_is_valid_under_its_metaschema(path):
    schema = json.loads(path.read_text(encoding="utf-8"))

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("kind", "owner", "name", "leaf"), SETTINGS)
def test_a_setting_says_what_it_is(kind, owner, name, leaf):
    assert leaf["type"]
    assert leaf["title"]
    assert leaf["description"].endswith(".")


@pytest.mark.parametrize(("keys", "leaf"), [pytest.param(keys, leaf, id=".".join(keys)) for keys, leaf in leaves()])
def test_a_setting_of_an_experiment_says_who_reads_it_and_what_it_changes(keys, leaf):
    assert set(leaf["x-stages"]) <= set(STAGES)
    assert leaf["x-effect"] in ("result", "speed", "output", "none")


@pytest.mark.parametrize(
    ("kind", "owner", "name", "leaf"),
    [case for case in SETTINGS if case.values[0] not in PARTIAL and case.id not in FREE],
)
def test_a_setting_has_a_valid_default_or_is_required(kind, owner, name, leaf):
    required = {
        *owner.get("required", ()),
        *(key for part in owner.get("allOf", ()) for key in part["then"].get("required", ())),
    }

    assert "default" in leaf or name in required
    if "default" in leaf:
        Draft202012Validator(leaf).validate(leaf["default"])


@pytest.mark.parametrize(
    ("kind", "owner", "name", "leaf"),
    [case for case in SETTINGS if "integer" in case.values[3]["type"] and case.id not in FREE],
)
def test_a_whole_number_has_limits(kind, owner, name, leaf):
    assert leaf.get("const") or leaf["minimum"] <= leaf["maximum"] < 2**63


@pytest.mark.parametrize(("kind", "owner"), MAPPINGS)
def test_a_mapping_is_closed_and_described(kind, owner):
    assert owner["additionalProperties"] is False
    assert owner["title"]
    assert owner["description"].endswith(".")


@pytest.mark.parametrize("kind", kinds())
def test_a_document_says_its_version_and_its_kind_and_has_a_name(kind):
    schema = schema_of(kind)

    assert list(schema["properties"])[:3] == ["schema_version", "kind", "name"]
    assert schema["properties"]["schema_version"]["const"] == 1
    assert schema["properties"]["kind"]["const"] == kind
    # A document that does not say its kind is an experiment.
    assert {"schema_version", "kind", "name"} - set(schema["required"]) == ({"kind"} if kind == "experiment" else set())


def test_names_of_settings_are_unique_across_sections():
    names = [keys[-1] for keys, _ in leaves() if len(keys) <= 2]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(("kind", "owner"), [case for case in MAPPINGS if "x-discriminator" in case.values[1]])
def test_branches_agree_with_the_conditions_that_enforce_them(kind, owner):
    discriminator, branches = owner["x-discriminator"], owner["x-branches"]

    conditions = {part["if"]["properties"][discriminator]["const"]: part["then"] for part in owner["allOf"]}

    assert all(part["if"]["required"] == [discriminator] for part in owner["allOf"])
    assert list(conditions) == owner["properties"][discriminator]["enum"] == list(branches)
    assert {discriminator, *(name for names in branches.values() for name in names)} == set(owner["properties"])
    for choice, then in conditions.items():
        assert then["propertyNames"]["enum"] == [discriminator, *branches[choice]]
        assert set(then.get("required", ())) <= set(branches[choice])


def test_the_shipped_experiment_spells_out_every_setting_in_the_order_of_the_schema():
    document = read_document(SPECS / "experiment.yaml")
    kind = document.values["dataset"]["source"]["kind"]
    source = schema_at(("dataset", "source"))
    others = set(source["properties"]) - {"kind", *source["x-branches"][kind]}

    expected = [keys for keys, _ in leaves() if not (keys[:2] == ("dataset", "source") and keys[-1] in others)]

    settings = set(expected)
    assert [keys for keys in document.keys if keys in settings] == expected
