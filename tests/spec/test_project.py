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
    text = "training: {resume_from_checkpoint: artifacts/model}"
    missing = found(text, Project(tmp_path))
    (tmp_path / "artifacts" / "model").mkdir(parents=True)

    assert ("W0111", "training.resume_from_checkpoint") in missing
    assert ("W0111", "training.resume_from_checkpoint") not in found(text, Project(tmp_path))


def test_without_a_project_nothing_else_is_looked_at():
    text = "training: {resume_from_checkpoint: artifacts/model}"

    assert found(text, None) == [("W0103", "training.resume_from_checkpoint")]
