"""Edits of a text: what was asked for changes, and nothing else does."""

import difflib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FoundryError
from pipeline.paths import SPECS
from pipeline.spec.document import parse_document, value_at
from pipeline.spec.edit import edit, parse_assignment
from pipeline.spec.schema import leaves
from pipeline.spec.write import inline

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset:\n  source: {kind: files, paths: [corpus]}\n"


def edited(text, *assignments, file="x.yaml"):
    return edit(parse_document(text.encode(), file), text, [parse_assignment(each) for each in assignments])


def changes(before, after):
    """The lines that went and came."""
    return [line for line in difflib.ndiff(before.splitlines(True), after.splitlines(True)) if line[0] in "+-"]


def test_a_value_changes_and_its_comment_and_its_spelling_stay():
    text = f"{HEAD}training:\n    epochs:   3    # many\n\n\n    learning_rate: 1e-3   # 'fast'\n"

    assert edited(text, "training.epochs=4") == text.replace("3    # many", "4    # many")
    assert edited(text, "training.learning_rate=5.0e-4") == text.replace("1e-3", "5.0e-4")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_only_the_line_of_the_value_changes_in_the_shipped_experiment(data):
    text = (SPECS / "experiment.yaml").read_text()
    document = parse_document(text.encode(), "x.yaml")
    given_leaves = [keys for keys, _ in leaves() if keys in document.places]
    keys = data.draw(st.sampled_from(given_leaves))
    value = data.draw(st.sampled_from(["7", "1e-3", "null", "true", "[a, 'b, c']", '"x: # y"', "plain text"]))

    after = edited(text, f"{'.'.join(keys)}={value}")

    found = parse_document(after.encode(), "x.yaml")
    assert value_at(found.values, keys) == parse_assignment(f"a={value}").value
    line = document.places[keys].line - 1
    old, new = text.splitlines(True), after.splitlines(True)
    assert (old[:line], old[line + 1 :]) == (new[:line], new[line + 1 :])


def test_several_values_are_set_at_once_and_in_order():
    text = f"{HEAD}training: {{epochs: 3}}\n"

    after = edited(text, "training.epochs=4", "name=y", "training.epochs=5")

    assert after == text.replace("epochs: 3", "epochs: 5").replace("name: x", "name: y")


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("training.learning_rate=1e-3", "  learning_rate: 1e-3\n"),
        ("training.batch_size=8", "  batch_size: 8\n"),
        ("training.early_stopping_patience=1", "  early_stopping_patience: 1\n"),
    ],
)
def test_a_new_setting_goes_where_the_schema_has_it(assignment, line):
    text = f"{HEAD}training:\n  # how often\n  epochs: 3 # x\n  max_steps: 9\n\nexport:\n  opset: 18\n"

    after = edited(text, assignment)

    assert changes(text, after) == [f"+ {line}"]
    names = list(parse_document(after.encode(), "x.yaml").values["training"])
    order = [keys[1] for keys, _ in leaves() if keys[0] == "training"]
    assert names == sorted(names, key=order.index)


def test_a_new_first_setting_stands_above_the_comment_of_the_next():
    text = f"{HEAD}training:\n  # how often\n  epochs: 3\n"

    assert edited(text, "training.learning_rate=1") == text.replace("  # how", "  learning_rate: 1\n  # how")


def test_a_new_section_stands_apart_where_sections_do():
    apart = f"{HEAD}\nexport:\n  opset: 18 # newest\n  # foot\n"

    assert edited(apart, "training.epochs=3") == apart.replace("\nexport", "\ntraining:\n  epochs: 3\n\nexport")
    assert edited(HEAD, "validation.budgets.rss_mb=3") == f"{HEAD}validation:\n  budgets:\n    rss_mb: 3\n"
    assert edited(apart.replace("export:", "model:").replace("opset: 18", "d_model: 8"), "export.opset=18").endswith(
        "  # foot\n\nexport:\n  opset: 18\n"
    )


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_last_line_without_an_end_gets_one_before_something_follows(end):
    text = f"{HEAD}training:\n  epochs: 3{end}"

    assert edited(text, "training.max_steps=4") == f"{HEAD}training:\n  epochs: 3\n  max_steps: 4\n"


def test_line_ends_are_those_of_the_file():
    text = f"{HEAD}training:\n  epochs: 3\n".replace("\n", "\r\n")

    after = edited(text, "training.epochs=4", "training.max_steps=4", "export.opset=18")

    assert after == text.replace("3\r\n", "4\r\n  max_steps: 4\r\n") + "export:\r\n  opset: 18\r\n"


def test_between_brackets_text_with_a_comma_goes_into_quotes():
    after = edited(HEAD, "dataset.source.paths[0]=a, b", "dataset.source.format=text")

    assert after == HEAD.replace("{kind: files, paths: [corpus]}", '{kind: files, paths: ["a, b"], format: text}')


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("formats: # which\n  - onnx # a\n  - pytorch # b\n", "formats: [onnx] # which\n"),
        ("formats:\n    [onnx,\n     pytorch] # c\n", "formats: [onnx]\n"),
        ("formats: [onnx, # a\n    pytorch] # b\n", "formats: [onnx] # b\n"),
        ("formats:\n", "formats: [onnx]\n"),
        ("formats: # none yet\n", "formats: [onnx] # none yet\n"),
    ],
)
def test_a_value_of_several_lines_becomes_one_of_one(old, new):
    text = f"{HEAD}export:\n  {old}  opset: 18\n"

    assert edited(text, "export.formats=[onnx]") == f"{HEAD}export:\n  {new}  opset: 18\n"


def test_a_block_of_text_is_replaced_whole():
    text = f"{HEAD}notes: |\n  # no comment\n\n  more\n\ntask: {{}}\n"

    assert edited(text, "notes=short") == f"{HEAD}notes: short\n\ntask: {{}}\n"


def test_a_section_that_is_set_keeps_the_lines_of_the_keys_that_stay():
    head, foot = "dataset:\n  source: # where\n", "    format: auto # how\n  test_split: 0.1\n"
    text = f"{head}    kind: wheel # what\n    package: x\n{foot}"

    after = edited(text, "dataset.source={kind: files, paths: [a], format: text}")

    assert after == f"{head}    kind: files # what\n    paths: [a]\n{foot}".replace("auto", "text")


def test_json_stays_json():
    text = '{\n\t"schema_version": 1,\n\t"name": "x",\n\t"dataset": {"source": {"kind": "files", "paths": ["c"]}}\n}\n'

    after = edited(text, "name=y", "training.epochs=3", "dataset.source.format=text", "notes='a\"b'", file="x.json")

    assert after == text.replace('"x"', '"y",\n\t"notes": "a\\"b"').replace('"c"]', '"c"], "format": "text"').replace(
        "}}\n", '}},\n\t"training": {"epochs": 3}\n'
    )


@pytest.mark.parametrize(
    ("text", "assignment", "message"),
    [
        ("", "training.learning_rat=1", "did you mean `training.learning_rate`"),
        ("", "lr=1", "did you mean `training.learning_rate`"),
        ("", "trainig.epochs=1", "did you mean `training.epochs`"),
        ("", "training.epochs.x=1", "`training.epochs` takes a whole number"),
        ("", "name[0]=1", "`name` takes text"),
        ("", "dataset.source.paths[7]=x", "set the whole list"),
        ("", "epochs", "write it like"),
        ("", "training.epochs=[1", "close it with"),
        ("", "training.epochs=*x", "the alias"),
        ("", "training.epochs=!!int 3", "leave the tag out"),
        ("", "training.epochs=1\nname: y", "one value on one line"),
        ("model: &m {d_model: 96}\ntask: *m\n", "task.task_name=x", "write its values out there"),
        ("training: {epochs: &e 3, batch_size: *e}\n", "training.epochs=4", "a value of its own first"),
    ],
)
def test_what_cannot_be_set_is_refused_with_advice(text, assignment, message):
    with pytest.raises(FoundryError) as caught:
        edited(HEAD + text, assignment)

    assert message in f"{caught.value} {caught.value.hint}"


def test_an_alias_can_be_given_a_value_of_its_own():
    text = f"{HEAD}training: {{epochs: &e 3, batch_size: *e}}\n"

    after = edited(text, "training.batch_size=8", "training.epochs=4")

    assert after == text.replace("*e", "8").replace("&e 3", "4")


@pytest.mark.parametrize(
    "notes",
    [
        "? notes\n: z",
        '"notes": z',
        "notes : z",
        "notes: 'z\n\n  y' # c",
        "notes: z\n  y",
        "notes: &a z",
        "notes: >-\n  z\n",
    ],
)
def test_a_value_is_set_however_it_was_written(notes):
    text = f"%YAML 1.2\n---\n{HEAD}{notes}\ntask: {{}}\n...\n"

    after = edited(text, "notes=other")

    assert parse_document(after.encode(), "x").values == {
        **parse_document(text.encode(), "x").values,
        "notes": "other",
    }


def test_a_text_with_rare_line_ends_is_left_alone_when_it_would_not_come_out_right():
    text = "schema_version: 1\rname: x\rtraining:\r  epochs: 3\r  max_steps: 4\r"

    with pytest.raises(FoundryError, match="without changing something else"):
        edited(text, "training.batch_size=4")


@pytest.mark.parametrize(
    "keys", [keys for keys, leaf in leaves() if "default" in leaf and keys[:2] != ("dataset", "source")]
)
def test_a_setting_that_was_taken_out_comes_back_to_its_place(keys):
    text = (SPECS / "experiment.yaml").read_text()
    document = parse_document(text.encode(), "x.yaml")
    lines = text.splitlines(keepends=True)
    del lines[document.keys[keys].line - 1]
    value = inline(value_at(document.values, keys))

    after = edited("".join(lines), f"{'.'.join(keys)}={value}")

    assert list(parse_document(after.encode(), "x.yaml").keys) == list(document.keys)
    assert len(changes(text, after)) in (0, 2)  # its comment went with the line
