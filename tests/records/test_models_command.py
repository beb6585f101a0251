"""`foundry models`, and registered models at every door that takes a model folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_models import flip, model_folder

from pipeline.cli import foundry
from pipeline.errors import ArtifactError, ExportError, TrainingError
from pipeline.export.making import export_model
from pipeline.records.registered import RegistryError
from pipeline.records.registry import ModelRegistry
from pipeline.stages.door import start_folder
from pipeline.training.warm_start import read_start

pytestmark = pytest.mark.integration


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(foundry, [str(argument) for argument in arguments])


def models(*arguments: str | Path) -> str:
    done = run("models", *arguments)
    assert done.exit_code == 0, done
    return done.stdout


def test_a_model_goes_from_its_folder_through_production_to_its_end(registry: ModelRegistry, made: Path) -> None:
    assert models("register", made / "first", "--tag", "production", "--metric", "accuracy=0.5").startswith("1  tiny@1")
    assert "tiny@1.0.1  (patch, the same model" in models("register", made / "again", "--dry-run")
    models("register", made / "again")

    assert models("promote", "tiny@1.0.1", "production") == "tiny@1.0.1 is production\n"
    assert [line.split()[1] for line in models("list").splitlines()] == ["model", "tiny@1.0.1", "tiny@1.0.0"]
    assert [row["version"] for row in json.loads(models("list", "--tag", "production", "--json"))] == ["1.0.1"]
    assert [row["version"] for row in json.loads(models("list", "--metric", "accuracy", "--json"))] == ["1.0.0"]
    assert models("list", "--metric", "val_loss", "--max", "1") == "no such models are registered in registry\n"
    assert "metrics.accuracy: 0.5" in models("get", "1")
    assert json.loads(models("get", "tiny:production", "--json"))["tags"] == ["production"]
    shown = models("compare", "1", "2")
    assert "val_loss" in shown and "better" in shown and "training.epochs" in shown  # noqa: PT018 - one page
    assert models("add-export", "1", made / "export") == "tiny@1.0.0 is exported as pytorch\n"
    assert models("verify") == "sound    tiny@1.0.1\nsound    tiny@1.0.0\n"
    assert models("retire", "1") == "tiny@1.0.0 is retired\n"
    assert models("delete", "1") == "tiny@1.0.0 is deleted\n"
    assert [line.split()[2] for line in models("history", "tiny").splitlines()] == [
        "registered", "promoted", "registered", "demoted", "promoted", "exported", "retired", "deleted"
    ]  # fmt: skip


def test_lineage_is_a_tree(registry: ModelRegistry, made: Path) -> None:
    models("register", made / "first")
    models("register", made / "again", "--parent", "tiny@1.0.0")
    models("register", made / "deeper", "--parent", "tiny@1.0.1")

    assert models("lineage", "tiny@1.0.1") == "tiny@1.0.0\n  tiny@1.0.1  ←\n    tiny@1.1.0\n"
    assert [each["version"] for each in json.loads(models("lineage", "1", "--json"))["descendants"]] == [
        "1.0.1",
        "1.1.0",
    ]


def test_a_list_without_a_registry_is_empty_and_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert models("list") == "no such models are registered in registry\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("list", "--min", "1"), ("compare", "1"), ("register", "--metric", "loss")])
def test_a_wrong_command_line_is_refused(registry: ModelRegistry, arguments: tuple[str, ...]) -> None:
    done = run("models", *arguments)

    assert done.exit_code == 2  # Click's own; the entry point makes it 1
    assert "Error" in done.stderr


def test_what_the_last_validation_said_of_these_weights_is_kept_and_of_others_not(
    registry: ModelRegistry, made: Path, checkout: Path
) -> None:
    report = json.loads((checkout / "reports/validation.json").read_text())
    first, again = made / "first", made / "again"
    with ModelRegistry(Path("scratch")) as scratch:
        report["model"]["weights_sha256"] = scratch.register_model(first).weights_sha256
    Path("reports").mkdir()
    Path("reports/validation.json").write_text(json.dumps(report))

    models("register", first)
    models("register", again)

    assert registry.get_model(1).metrics == report["metrics"]
    assert registry.get_model(1).memory_req_gb == report["inference"]["peak_mb"] / 1000
    assert registry.get_model(2).metrics == {"val_loss": 2.0}


def test_production_is_what_the_commands_load(registry: ModelRegistry, made: Path) -> None:
    wanted = registry.register_model(made / "first", tags=["production"])
    registry.register_model(made / "again")

    by_name = run("generate", "--model", "tiny:production", "the fox", "--max-new-tokens", "5")
    by_folder = run("generate", "--model", made / "first", "the fox", "--max-new-tokens", "5")

    assert by_name.exit_code == 0
    assert by_name.output == by_folder.output
    assert read_start(start_folder("tiny:production")).sha256 == wanted.weights_sha256


# Every door that takes a model folder, given one of the registry by its tag.
DOORS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "--model", "tiny:production", "the fox"),
    "classify": ("classify", "--model", "tiny:production", "the fox"),
    "tiers": ("tiers", "--model", "tiny:production", "--tiers", "1"),
    "health of an export": ("health", "export", "--model", "tiny:production"),
    "health of a registered export": ("health", "tiny:production"),
    "promote": ("models", "promote", "tiny:production", "staging"),
    "compare": ("models", "compare", "tiny:production", "1"),
    "export": ("models", "export", "tiny:production", "--format", "pytorch"),
    "add-export": ("models", "add-export", "tiny:production", "export"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("door", DOORS)
def test_a_flipped_bit_is_refused_at_every_door(registry: ModelRegistry, made: Path, door: str, name: str) -> None:
    shutil.copytree(made / "export", "export")
    model = registry.register_model(made / "export", tags=["production"])
    flip(model.checkpoint_path / name, at=-3)

    done = run(*DOORS[door])

    assert isinstance(done.exception, ArtifactError | ExportError)
    assert "what was registered has changed" in str(done.exception)
    assert str(model.checkpoint_path / name) in str(done.exception)
    assert done.stdout == ""


def test_a_flipped_bit_is_refused_as_the_start_of_training_and_for_an_export_from_python(
    registry: ModelRegistry, made: Path
) -> None:
    model = registry.register_model(made / "first", tags=["production"])
    flip(model.checkpoint_path / "model.safetensors")

    with pytest.raises(ArtifactError, match="what was registered has changed"):
        read_start(start_folder("tiny:production"))
    with pytest.raises(ArtifactError, match="what was registered has changed"):
        export_model(registry.get_folder("tiny:production"), Path("out"))
    for folder in (model.checkpoint_path, Path(start_folder(str(model.checkpoint_path)))):  # past the registry
        with pytest.raises(TrainingError, match="SHA-256 differs"):
            read_start(str(folder))


def test_verify_ends_with_1_and_names_what_is_damaged(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")
    flip(registry.register_model(made / "again").checkpoint_path / "spec.json", at=-3)

    done = run("models", "verify")

    assert done.exit_code == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()][0::2] == [
        ["damaged", "tiny@1.0.1"],
        ["sound", "tiny@1.0.0"],
    ]
    assert "spec.json" in done.stdout


def test_a_name_that_is_not_there_is_one_error_with_a_hint(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")

    done = run("generate", "--model", "tiny:production", "the fox")

    assert isinstance(done.exception, RegistryError)
    assert "foundry models list" in done.exception.hint


@pytest.mark.slow
def test_an_export_of_a_registered_model_is_checked_kept_and_checked_again(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", tags=["production"])

    assert models("export", "tiny:production", "--format", "onnx", "--format", "pytorch").endswith("onnx, pytorch\n")
    assert run("health", "tiny:production").exit_code == 0


@pytest.mark.e2e
def test_the_command_line_ends_with_1_and_two_lines_when_a_registered_model_was_changed(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    model = registry.register_model(model_folder(tmp_path / "model"), tags=["production"])
    flip(model.checkpoint_path / "model.safetensors")

    command = [sys.executable, "-m", "pipeline", "generate", "--model", "tiny:production", "the fox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "hint:"]
