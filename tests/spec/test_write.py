"""YAML that people read: complete, commented, and read back as what it was by YAML 1.2 and 1.1 alike."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.paths import SPECS
from pipeline.spec import load_spec, parse_spec
from pipeline.spec.document import parse_document
from pipeline.spec.schema import leaves, schema_of
from pipeline.spec.write import inline, modeline, write_yaml

pytestmark = pytest.mark.unit
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["on", "No", "y", "null", "~", "1e3", "0x1f", "1:30", "2026-01-01", "a: b", "- a", "#", "3.0.0"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read_back(values):
    text = write_yaml(values, {}, comments=False)

    assert parse_document(text.encode(), "x.yaml").values == values


@given(SCALARS)
def test_yaml_1_1_reads_the_same(value):
    assert yaml.safe_load(f"a: {inline(value)}") == {"a": value}


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        (5e-5, "5.0e-5"),
        (1e22, "1.0e+22"),
        (0.001, "0.001"),
        (math.nan, ".nan"),
        (-math.inf, "-.inf"),
        (True, "true"),
        (None, "null"),
        ("bf16-mixed", "bf16-mixed"),
        ("32-true", '"32-true"'),
        ("off", '"off"'),
        ("", '""'),
        ("a\x85b", '"a\\u0085b"'),
        (("x", "y z"), '[x, "y z"]'),
        ({"a": [1, {}]}, "{a: [1, {}]}"),
    ],
)
def test_a_value_is_spelled_as_people_write_it(value, spelling):
    assert inline(value) == spelling


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {3: "a"}])
def test_what_yaml_has_no_word_for_is_refused(value):
    with pytest.raises(TypeError):
        inline(value)


def test_a_whole_spec_has_a_comment_at_every_setting_and_fits_the_line():
    spec = load_spec(SPECS / "experiment.yaml")

    text = write_yaml(spec.to_dict(), schema_of())

    assert parse_spec(text.encode(), "x.yaml") == spec
    assert all(len(line) <= 120 for line in text.splitlines())
    said = " ".join(text.replace("#", " ").split())
    given = {".".join(keys) for keys, _ in leaves()} & set(spec.leaves())
    assert [keys for keys, leaf in leaves() if ".".join(keys) in given and leaf["description"] not in said] == []


def test_settings_come_in_the_order_of_the_schema():
    text = write_yaml({"training": {"epochs": 2, "learning_rate": 1.0}, "name": "x"}, schema_of(), comments=False)

    assert text == "name: x\n\ntraining:\n  learning_rate: 1.0\n  epochs: 2\n"


def test_lists_of_mappings_and_long_lists_take_a_line_for_each_item():
    text = write_yaml({"tools": [{"name": "a", "takes": {"x": 1}}, {"name": "b"}], "long": ["x" * 60] * 2}, {})

    assert text.splitlines() == [
        "tools:",
        "  - name: a",
        "    takes:",
        "      x: 1",
        "  - name: b",
        "long:",
        f"  - {'x' * 60}",
        f"  - {'x' * 60}",
    ]


def test_choices_that_the_description_does_not_name_are_listed():
    schema = {"properties": {"split": {"description": "Which.", "enum": ["one", None]}}}

    assert write_yaml({"split": "one"}, schema) == "split: one # Which. One of one, null.\n"


def test_editors_find_the_schema_of_a_file_inside_the_project(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(checkout)
    line = modeline(checkout / "specs" / "presets" / "x.yaml", "preset")
    monkeypatch.chdir(tmp_path)

    assert line == ["yaml-language-server: $schema=../../schemas/v1/bundle/preset.json"]
    assert modeline(tmp_path / "x.yaml", "preset") == []
