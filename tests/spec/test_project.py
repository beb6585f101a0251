"""What a spec is compared with in its project: folders that it names, and reports that belong to it."""

import json

import pytest

from pipeline.spec.check import check
from pipeline.spec.document import parse_document
from pipeline.spec.project import Project

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset:\n  dataset_name: mine\n  source: {kind: files, paths: [corpus]}\n"
SPLIT = {
    "split_method": "document",
    "validation_split": 0.1,
    "test_split": 0.0,
    "split_seed": 42,
    "max_train_samples": None,
    "max_val_samples": None,
}


@pytest.fixture
def project(tmp_path):
    """Characters and tokens of the training split → a project in which they were reported."""

    def make(characters, tokens, **changed):
        (tmp_path / "reports").mkdir()
        corpus = {
            "dataset_name": "mine",
            "split": {**SPLIT, **changed},
            "splits": {"train": {"characters": characters}},
        }
        tokenizer = {"tokenizer_type": "unigram", "vocab_size": 512, "splits": {"train": {"tokens": tokens}}}
        (tmp_path / "reports" / "corpus.json").write_text(json.dumps(corpus))
        (tmp_path / "reports" / "tokenizer.json").write_text(json.dumps(tokenizer))
        return Project(tmp_path)

    return make


def found(text, project):
    return [
        (problem.code, problem.path) for problem in check(parse_document((HEAD + text).encode(), "x.yaml"), project)
    ]


def test_a_vocabulary_that_its_corpus_cannot_fill_is_a_warning(project):
    assert found("tokenizer: {vocab_size: 512}", project(15_000, 5_000)) == [("W0112", "tokenizer.vocab_size")]


def test_a_step_that_takes_more_than_an_epoch_is_a_warning(project):
    text = "tokenizer: {vocab_size: 512}\ntraining: {batch_size: 20, gradient_accumulation_steps: 2}"

    assert found(text, project(30_000, 256 * 39)) == [("W0113", "training.batch_size")]


def test_what_fits_is_no_warning(project):
    text = "tokenizer: {vocab_size: 512}\ntraining: {batch_size: 20, gradient_accumulation_steps: 2}"

    assert found(text, project(512 * 30, 256 * 39 + 1)) == []


def test_reports_of_another_corpus_say_nothing(project):
    assert found("tokenizer: {vocab_size: 512}", project(100, 10, split_seed=7)) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"splits": {}}', "\x00"])
def test_reports_that_are_not_reports_say_nothing(tmp_path, text):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "corpus.json").write_text(text)

    assert found("tokenizer: {vocab_size: 512}", Project(tmp_path)) == []


def test_weights_that_are_not_there_are_a_warning(tmp_path):
    text = "training: {resume_from_checkpoint: earlier}"
    missing = found(text, Project(tmp_path))
    (tmp_path / "earlier").mkdir()
    empty = found(text, Project(tmp_path))
    (tmp_path / "earlier" / "model.safetensors").touch()

    assert missing == empty == [("W0111", "training.resume_from_checkpoint")]
    assert found(text, Project(tmp_path)) == []


def test_a_registered_model_without_a_registry_is_a_warning(tmp_path):
    text = 'training: {resume_from_checkpoint: "tiny:production"}'
    missing = found(text, Project(tmp_path))
    (tmp_path / "registry").mkdir()

    assert missing == [("W0111", "training.resume_from_checkpoint")]
    assert found(text, Project(tmp_path)) == []


def test_without_a_project_nothing_else_is_looked_at():
    assert found("training: {resume_from_checkpoint: earlier}", None) == []


# Sweeps over the experiment of a project


def swept(tmp_path, space, base="model: {d_model: 192, num_heads: 3}", method="grid"):
    """The errors of a sweep beside an experiment with these settings."""
    (tmp_path / "specs").mkdir(exist_ok=True)
    (tmp_path / "specs" / "experiment.yaml").write_text(HEAD + base)
    text = f"schema_version: 1\nkind: sweep\nname: x\nmethod: {method}\nbudget: {{max_trials: 9}}\nspace:\n{space}"
    problems = check(parse_document(text.encode(), "sweep.yaml"), Project(tmp_path))
    return [problem for problem in problems if problem.code == "E0527"]


def test_values_that_the_base_cannot_have_are_shown_where_they_stand(tmp_path):
    [problem] = swept(tmp_path, "  model.num_heads: [1, 3,\n    5]\n")

    assert (problem.path, problem.line) == ("space.model.num_heads[2]", 8)
    assert "`model.num_heads: 5` cannot be tried with specs/experiment.yaml: num_heads 5 does" in problem.message
    assert "[E0401]" in problem.message


def test_values_that_exclude_each_other_are_named_together(tmp_path):
    space = (
        "  model.d_model: [192, 200]\n  model.num_heads: {kind: choice, values: [3, 4]}\n  training.epochs: [1, 2, 3]\n"
    )

    [problem] = swept(tmp_path, space)

    assert (problem.path, problem.line) == ("space.model.num_heads.values[0]", 8)
    assert "`model.num_heads: 3` and `model.d_model: 200` cannot be tried together" in problem.message


@pytest.mark.parametrize(
    ("space", "broken"),
    [
        ("  model.num_heads: {kind: range, low: 2, high: 6, step: 2}\n", ["6"]),
        ("  model.num_heads: {kind: range, low: 1, high: 5, points: 3}\n", ["3"]),
        ("  model.num_heads: {kind: log_range, low: 1, high: 9, points: 3}\n", ["3", "9"]),
        ("  dataset.validation_split: {kind: range, low: 0, high: 0.5}\n", ["0"]),  # both ends of what is drawn from
    ],
)
def test_the_values_of_a_range_are_tried_too(tmp_path, space, broken):
    found = swept(tmp_path, space, base="model: {d_model: 200, num_heads: 4}", method="random")

    assert [problem.message.split("`")[1].split(": ")[1] for problem in found] == broken


def test_a_rule_that_a_hundred_combinations_break_is_not_said_a_hundred_times(tmp_path):
    heads, widths = ", ".join(map(str, range(5, 15, 2))), ", ".join(map(str, range(1024, 1044)))

    found = swept(tmp_path, f"  model.d_model: [{widths}]\n  model.num_heads: [{heads}]\n")

    assert 1 <= len([problem for problem in found if "[E0401]" in problem.message]) <= 5


def test_a_sweep_of_an_experiment_that_is_not_there_is_a_warning(tmp_path):
    text = (
        "schema_version: 1\nkind: sweep\nname: x\nmethod: grid\nbase: specs/gone.yaml\nspace: {model.num_layers: [2]}\n"
    )

    [problem] = check(parse_document(text.encode(), "sweep.yaml"), Project(tmp_path))

    assert (problem.code, problem.path) == ("W0214", "base")
