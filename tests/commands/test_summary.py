"""What `foundry run` says at the end."""

import json
import shutil

import pytest

from pipeline.commands.summary import summarize

pytestmark = pytest.mark.unit


@pytest.fixture
def reports(tmp_path, monkeypatch, checkout):
    """A copy of the committed reports, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(checkout / "reports", tmp_path / "reports")


def said():
    return summarize(ran={}, restored=[], seconds=3.0)


def test_a_language_model_is_told_by_its_tokens_and_its_text(reports):
    assert "nats per token" in said()
    assert "tokens/s in training" in said()
    assert "Next: foundry generate" in said()


def test_a_classifier_of_pictures_is_told_by_its_pictures_and_classes(reports):
    path = reports / "training_metrics.json"
    metrics = json.loads(path.read_text())
    metrics["configuration"]["task"]["task_type"] = "vision_classification"
    path.write_text(json.dumps(metrics))

    assert "nats per picture, accuracy " in said()
    assert "pictures/s in training" in said()
    assert "Next: foundry classify FILE" in said()


def test_reports_that_cannot_be_read_leave_the_figures_out(reports):
    for path in reports.glob("*.json"):
        path.write_text("{")

    assert "validation loss" not in said()
    assert "finished in 3" in said()
