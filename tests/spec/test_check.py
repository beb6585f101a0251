"""What the schema check says beyond its codes: the words and the help."""

import pytest

from pipeline.spec.check import _REPORTERS
from pipeline.spec.schema import kinds, schema_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("training: {learning_rate: '5e-5'}",
         '`training.learning_rate` must be a number above 0, but is the text "5e-5"',
         "take the quotes away: 5e-5"),
        ("training: {epochs: true}", "`training.epochs` must be a whole number from 1 to 1000000, but is true", ""),
        ("training: {batch_size: 1_024}",
         '`training.batch_size` must be a whole number from 1 to 65536, but is the text "1_024"', "write 1024"),
        ("training: {max_grad_norm: None}",
         "`training.max_grad_norm` must be a number above 0, or null, but is the text None", "write null"),
        ("optimizer: {weight_decay: }",
         "`optimizer.weight_decay` must be a number from 0 to 10, but is null",
         "remove the line to take the default, 0.1"),
        ("reproducibility: {deterministic: off}",
         "`reproducibility.deterministic` must be true or false, but is the text off", "write false"),
        ("export: {formats: onnx}", None, "write a list: [onnx]"),
        ("task: {task_name: 3.10}", None, 'put it in quotes: "3.10"'),
        ("hardware: {precision: 32}", None, 'put it in quotes: "32"'),
        ("hardware: {device: gpu}", "`hardware.device` cannot be gpu", "did you mean `cuda`?"),
        ("export: {formats: [onxx]}", "`export.formats[0]` cannot be onxx", "did you mean `onnx`?"),
        ("training:", "the section `training` is empty, but must be a mapping of keys",
         "add its keys, indented, or remove it"),
        ("validation: {budgets: [1]}", "the section `validation.budgets` is a list, but must be a mapping of keys",
         "a section holds keys, not items: take the `-` or the brackets away"),
        ("model: gpt2", "the section `model` is the text gpt2, but must be a mapping of keys",
         "write `model_type: gpt` below it, indented"),
        ("export: onnx", None, "write `formats: [onnx]` below it, indented"),
        ("model: banana", None, "add its keys, indented, or remove it"),
        ("model:\n  d_model:128", None, "put a space after the `:`"),
        ("training: {batch_size: '32,'}", None, "write 32"),
        ("training: {learning_rate: '1,5e-3'}", None, "write 1.5e-3"),
        ("model: {dropout: 10%}", None, "write 0.1"),
        ("training: {epochs: 10%}", None, ""),
        ("hardware: {devices: 'cuda:0'}", '`hardware.devices` does not have the right form: "cuda:0"', ""),
        ("training: {output_dir: out}", "`output_dir` is not a key of `training`",
         "leave it out: artifacts/ holds what is made, reports/ its figures, .work/ the checkpoints"),
        ("m\u043edel: {}", "`m\u043edel` is not a key of the top level",
         "did you mean `model`? It has the letter U+043E in it"),
        ("optimizer: {name: adamw}", "`name` is not a key of `optimizer`", "did you mean `optimizer_name`?"),
        ("epochs: 1", "`epochs` belongs in `training`, not in the top level", "move it under `training:`"),
        ("model: {notes: x}", "`notes` belongs in the top level, not in `model`",
         "move it to the top level, without indentation"),
        ("model: {lr: 1}", "`lr` is not a key of `model`", "did you mean `training.learning_rate`?"),
        ("training: {lr: 1, learning_rate: 1}", "`lr` is not a key of `training`",
         "`learning_rate` is set on line 5 already: keep one of them, under that name"),
        ("colour: 1", "`colour` is not a key of the top level", ""),
    ],
)  # fmt: skip
def test_a_problem_is_said_in_the_words_of_someone_who_writes_yaml(problems_of, text, message, hint):
    [problem] = problems_of(text)

    assert message is None or problem.message == message
    assert problem.hint == hint


def test_a_key_of_another_kind_is_reported_as_such(problems_of):
    head = "schema_version: 1\nname: x\ndataset:\n  source: {kind: files, paths: [a], url: 'https://x.org'}\n"

    [problem] = problems_of("", head)

    assert problem.message == "`url` is a key of kind `url`, but this `dataset.source` is of kind `files`"
    assert problem.hint == "remove it, or set `kind: url`"
    assert problem.allowed == "kind, paths, format or text_field"


def test_a_key_of_another_kind_that_is_nearly_one_of_this_kind_is_taken_for_it(problems_of):
    head = "schema_version: 1\nname: x\ndataset:\n  source: {kind: files, path: a.txt}\n"

    found = {problem.code: problem.hint for problem in problems_of("", head)}

    assert found["E0203"] == "did you mean `paths`? Otherwise remove it, or set `kind: image_folder`"


def test_what_other_tools_must_be_told_is_refused_in_other_kinds_without_a_word_about_it(problems_of):
    [problem] = problems_of("shuffle: true", "schema_version: 1\nkind: evaluation\nname: x\n")

    assert "leave it out" not in problem.hint


def test_what_a_kind_needs_is_named(problems_of):
    [problem] = problems_of("", "schema_version: 1\nname: x\ndataset:\n  source: {kind: url}\n")

    assert problem.message == "`dataset.source` of kind `url` needs `url`"
    assert (problem.line, problem.column) == (4, 3)


def test_a_misspelt_key_is_not_reported_missing_as_well(problems_of):
    [problem] = problems_of("", "schema_version: 1\nnmae: x\ndataset: {source: {kind: files, paths: [a]}}\n")

    assert (problem.code, problem.hint) == ("E0201", "did you mean `name`?")


def test_every_keyword_of_the_schemas_has_words_of_its_own():
    inside = {"properties", "items", "additionalProperties", "allOf", "if", "then"}
    silent = {"title", "description", "default", *inside} - {"additionalProperties"}

    def keywords(schema):
        for keyword, value in schema.items():
            if not keyword.startswith("x-"):
                yield keyword
            inner = value.values() if keyword == "properties" else value if keyword == "allOf" else [value]
            for child in inner:
                if isinstance(child, dict) and keyword in inside:
                    yield from keywords(child)

    used = {word for kind in kinds() for word in keywords(schema_of(kind))}

    assert used - silent <= set(_REPORTERS)
    assert {"minProperties", "const", "propertyNames"} <= used


def test_what_a_rule_says_of_a_whole_section_stands_at_its_name(problems_of):
    head = "schema_version: 1\nkind: template\nname: x\ndescription: y\nfor: experiment\n"

    [problem] = problems_of("values:\n  traning:\n    epochs: 1\n", head)

    assert (problem.code, problem.line, problem.hint) == ("E0704", 7, "did you mean `training`?")
