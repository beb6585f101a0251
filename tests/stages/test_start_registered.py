"""Training that starts from a registered model, in processes of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_project import SPEC, encoded_project

from pipeline.commands.run import changed_start
from pipeline.files import read_json
from pipeline.records.registry import ModelRegistry

pytestmark = pytest.mark.e2e
NAME = "custom-transformer:production"
WARM = SPEC.replace("epochs: 3", f'epochs: 1, learning_rate: 0.01, resume_from_checkpoint: "{NAME}"')


def test_training_starts_from_production_and_again_when_another_model_is_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = encoded_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert project.run("train") == (0, "")
    with ModelRegistry() as registry:
        first = registry.register_model(Path("artifacts/model"), tags=["production"])
        Path("specs/experiment.yaml").write_text(WARM)

        assert project.run("train") == (0, "")
        assert read_json(Path("artifacts/model/manifest.json"))["inputs"]["start"] == first.weights_sha256
        assert not changed_start()

        second = registry.register_model(Path("artifacts/model"), tags=["production"])
        assert (second.version, second.parent_model_id) == ("1.0.1", first.model_id)
        assert changed_start() == NAME

        weights = second.checkpoint_path / "model.safetensors"
        raw = weights.read_bytes()
        weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        code, message = project.run("train")
    assert code == 4
    assert "what was registered has changed" in message
