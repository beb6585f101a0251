"""A registry with models in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import export_folder, model_folder

from pipeline.records.registry import ModelRegistry


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders, each made once; tests that change one copy it. `first` and what was made after it."""
    folder = tmp_path_factory.mktemp("models")
    model_folder(folder / "first")
    model_folder(folder / "again", seed=1, changes={"training.epochs": 3}, val_loss=2.0)
    model_folder(folder / "deeper", seed=2, changes={"model.num_layers": 3}, val_loss=None)
    model_folder(folder / "words", seed=3, text="hello world, this is another text.\n" * 30)
    export_folder(folder / "export", folder / "first")
    return folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """An empty registry, of the project in the current folder."""
    monkeypatch.chdir(tmp_path)
    return ModelRegistry()
