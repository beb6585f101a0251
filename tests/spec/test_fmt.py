"""The one layout: it changes no value, loses no comment, and comes out as it went in."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.paths import SPECS
from pipeline.spec import SpecError, parse_spec
from pipeline.spec.document import parse_document
from pipeline.spec.fmt import formatted
from pipeline.spec.load import build_spec

pytestmark = pytest.mark.unit
CASES = Path(__file__).parents[1] / "cases"
HEAD = "schema_version: 1\nname: x\ndataset: {source: {kind: files, paths: [corpus]}}\n"
SUFFIXES = (".yaml", ".yml", ".json")
FILES = sorted(
    path
    for path in [*SPECS.rglob("*"), *(path for folder in CASES.glob("*/valid") for path in folder.rglob("*"))]
    if path.suffix in SUFFIXES
)


def tidy(text, file="x.yaml"):
    return formatted(parse_document(text.encode(), file), text)


def body_of(text, name):
    """A section of what comes out."""
    return re.search(rf"^{name}:.*\n(?:(?: .*)?\n)*", tidy(HEAD + text), re.MULTILINE)[0].rstrip("\n") + "\n"


def remarks(text):
    return sorted(re.findall(r"(?<=\s)#.*|^#.*", text, re.MULTILINE))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in FILES])
def test_a_valid_document_keeps_its_values_and_comments_and_is_formatted_once_and_for_all(path):
    text = path.read_text()

    once = tidy(text, path.name)

    before, after = (build_spec(parse_document(each.encode(), path.name), None) for each in (text, once))
    assert after == before
    assert remarks(once) == remarks(text)
    assert tidy(once, path.name) == once


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in FILES if path.is_relative_to(SPECS)])
def test_a_shipped_spec_is_in_the_one_layout(path):
    text = path.read_text()

    assert tidy(text, path.name) == text


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_layout_is_final_however_lines_comments_and_indentation_came(data):
    lines = (SPECS / "experiment.yaml").read_text().splitlines()
    width = data.draw(st.sampled_from([1, 2, 3, 5]))
    text = "# top\n"
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        if line and data.draw(st.integers(0, 9)) == 0:
            column = data.draw(st.integers(0, 8))
            text += data.draw(st.sampled_from(["\n", f"{' ' * column}# remark\n", f"\n\n{' ' * column}#remark\n\n"]))
        text += " " * (depth * width) + line.strip() + data.draw(st.sampled_from(["", "  "])) + "\n"

    once = tidy(text)

    assert len(remarks(once)) == len(remarks(text))
    assert tidy(once) == once
    assert build_spec(parse_document(once.encode(), "x")) == build_spec(parse_document(text.encode(), "x"))


@settings(max_examples=30, deadline=None)
@given(st.permutations([*HEAD.splitlines(), "training: {epochs: 3}", "notes: z", "model: {}"]))
def test_the_order_of_a_file_does_not_show(lines):
    assert tidy("\n".join(lines)) == tidy("\n".join(sorted(lines)))


@pytest.mark.parametrize(
    ("written", "comes_out"),
    [
        ("training: {learning_rate: 1e-3}", "  learning_rate: 0.001\n"),
        ("training: {learning_rate: 1}", "  learning_rate: 1.0\n"),
        ("training: {learning_rate: 5E-6}", "  learning_rate: 5.0e-6\n"),
        ("training: {epochs: 0x10}", "  epochs: 16\n"),
        ("training: {epochs: 3.0}", "  epochs: 3\n"),
        ("training: {max_steps: ~}", "  max_steps: null\n"),
        ("validation: {budgets: {rss_mb: 4e2}}", "  budgets:\n    rss_mb: 400\n"),
        ("reproducibility: {deterministic: TRUE}", "  deterministic: true\n"),
        ("model: {model_name: 'tiny'}", "  model_name: tiny\n"),
        ("model: {model_name: '3'}", '  model_name: "3"\n'),
        ("model: {model_name: no}", '  model_name: "no"\n'),
        ("export:\n  formats:\n  - onnx\n", "  formats: [onnx]\n"),
    ],
)
def test_a_value_has_one_spelling(written, comes_out):
    assert body_of(written, written.split(":")[0]).partition("\n")[2] == comes_out


def test_comments_move_with_their_keys():
    text = """\
training: # how long
    # why so slow
    max_steps: 9 # nine
    learning_rate: 1 # one
    # the end of training

# held out
"""
    after = tidy(HEAD + text)

    assert after.endswith("""
training: # how long
  learning_rate: 1.0 # one
  # why so slow
  max_steps: 9 # nine
  # the end of training

# held out
""")


def test_what_stands_on_top_stays_on_top():
    text = f"# modeline\n\n# about x\nname: x\n{HEAD.replace('name: x', '# version')}"

    after = tidy(text)

    assert after.startswith("# modeline\nschema_version: 1\n\n# about x\nname: x\n\n# version\ndataset:\n")


def test_a_list_with_comments_has_an_item_a_line():
    text = "export:\n  formats: [onnx, # first\n    # second\n    pytorch\n    # last\n    ] # all\n"

    assert body_of(text, "export") == (
        "export:\n  formats: # first\n    - onnx\n    # second\n    - pytorch # all\n    # last\n"
    )


def test_a_long_list_has_an_item_a_line():
    prompts = [f"prompt {index} of a list" for index in range(8)]

    assert body_of(f"logging: {{sample_prompts: {prompts}}}", "logging").count('\n    - "prompt') == 8


def test_text_of_several_lines_stands_as_a_block():
    assert "notes: |\n  # no comment\n\n  - more\n\ndataset" in tidy(f'{HEAD}notes: "# no comment\\n\\n- more\\n"')
    assert "notes: |- # why\n  one\n   two\n" in tidy(f"{HEAD}notes: |- # why\n  one\n   two")
    assert 'notes: "one \\ntwo"' in tidy(f'{HEAD}notes: "one \\ntwo"')


def test_an_alias_becomes_its_value():
    assert (
        body_of("training: {epochs: &e 3, batch_size: *e}", "training") == "training:\n  batch_size: 3\n  epochs: 3\n"
    )


def test_json_stays_json_in_the_order_of_the_schema():
    spec = '{"name": "x", "dataset": {"source": {"paths": ["c"], "kind": "files"}}, "schema_version": 1}'

    found = tidy(spec, "x.json")

    assert found.startswith('{\n  "schema_version": 1,\n  "name": "x",\n  "dataset": {\n    "source": {\n      "kind"')
    assert parse_spec(found.encode(), "x.json") == parse_spec(spec.encode(), "x.json")


def test_a_wrong_document_is_not_formatted():
    with pytest.raises(SpecError, match="E0303"):
        tidy(f"{HEAD}training: {{epochs: 0}}")
