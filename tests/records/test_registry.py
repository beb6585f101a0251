"""The registry: what it keeps, what it refuses, and that what it did is all there or not at all."""

from __future__ import annotations

import math
import resource
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tiny_models import export_folder, flip, model_folder

import pipeline
from pipeline.errors import ArtifactError, FoundryError
from pipeline.files import read_artefact, write_manifest
from pipeline.models.store import load_model
from pipeline.records import registry_files
from pipeline.records.registered import RegistryError
from pipeline.records.registry import DATABASE, ModelRegistry, model_at
from pipeline.records.store import RecordsError

pytestmark = pytest.mark.integration


def actions(registry: ModelRegistry) -> list[str]:
    return [f"{event['action']} {event['name']}@{event['version']}" for event in registry.get_history()]


def test_a_registered_model_is_a_copy_that_outlives_its_source(registry: ModelRegistry, made: Path) -> None:
    source = Path(shutil.copytree(made / "first", "model"))

    model = registry.register_model(source, metadata={"notes": "a word"})
    shutil.rmtree(source)

    assert (model.name, model.version, model.status, model.tags) == ("tiny", "1.0.0", "active", [])
    assert model.metrics == {"val_loss": 3.0}
    assert model.metadata == {"notes": "a word"}
    assert model.training_run_id == "00000000-0000-4000-8000-000000000000"
    assert model.model_size_mb == (model.checkpoint_path / "model.safetensors").stat().st_size / 1e6
    load_model(registry.get_folder("tiny@1.0.0"))


def test_models_that_differ_in_nothing_have_one_config_hash(
    registry: ModelRegistry, made: Path, tmp_path: Path
) -> None:
    same = model_folder(tmp_path / "same", seed=9)

    hashes = {registry.register_model(made / "first").config_hash, registry.register_model(same).config_hash}

    assert len(hashes) == 1
    assert registry.register_model(made / "again").config_hash not in hashes


def test_the_version_follows_from_the_one_before(registry: ModelRegistry, made: Path) -> None:
    versions = [registry.register_model(made / name).version for name in ("first", "again", "deeper", "words")]

    assert versions == ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]
    assert [event["details"]["bump"] for event in registry.get_history()] == [
        None,
        "patch, the same model, trained anew (training.epochs)",
        "minor, another architecture (model.num_layers)",  # and epochs, which weigh less
        "major, another vocabulary",
    ]


def test_what_would_be_registered_is_said_without_doing_it(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")

    name, version, bump = registry.propose_version(made / "deeper")

    assert (name, str(version), bump and bump.reasons) == ("tiny", "1.1.0", ("model.num_layers",))
    assert len(registry.list_models()) == 1


def test_a_version_is_given_once_even_after_its_model_was_deleted(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")
    registry.delete_model("tiny@1.0.0")

    with pytest.raises(RegistryError, match=r"tiny@1\.0\.0 was registered before"):
        registry.register_model(made / "first", version="1.0.0")
    assert registry.register_model(made / "first").version == "1.0.1"


def test_the_same_weights_are_registered_once_under_a_name(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")

    with pytest.raises(RegistryError, match=r"the same weights are registered as tiny@1\.0\.0"):
        registry.register_model(made / "first")
    assert registry.register_model(made / "first", name="other").version == "1.0.0"


def test_a_model_is_found_by_id_by_tag_and_by_version(registry: ModelRegistry, made: Path) -> None:
    model = registry.register_model(made / "first", tags=["production"])

    found = [registry.get_model(reference) for reference in (1, "1", "tiny:production", "tiny@1.0.0")]

    assert found == [model] * 4


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("7", "there is no model 7"),
        ("tiny:staging", "there is no model tiny:staging"),
        ("tiny@9.9.9", "there is no model tiny@9.9.9"),
        ("tiny@latest", "'latest' is not a version"),
        ("tiny", "'tiny' does not name one registered model"),
        ("tiny:", "does not name one"),
        ("", "does not name one"),
    ],
)
def test_what_names_no_model_is_refused(registry: ModelRegistry, made: Path, reference: str, message: str) -> None:
    registry.register_model(made / "first", tags=["production"])

    with pytest.raises(FoundryError, match=message):
        registry.get_model(reference)


def test_promoting_takes_the_tag_from_the_models_of_the_same_name_only(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", tags=["production", "blessed"])
    registry.register_model(made / "first", name="other", tags=["production"])
    registry.register_model(made / "again")

    registry.promote_model("tiny@1.0.1", "production")

    tags = {str(model): model.tags for model in registry.list_models()}
    assert tags == {"tiny@1.0.0": ["blessed"], "tiny@1.0.1": ["production"], "other@1.0.0": ["production"]}
    assert actions(registry)[-2:] == ["demoted tiny@1.0.0", "promoted tiny@1.0.1"]


def test_a_tag_that_several_keep_names_none_of_them(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", tags=["production"])
    registry.register_model(made / "again")

    registry.promote_model("tiny@1.0.1", "production", keep_others=True)

    assert len(registry.list_models(tag="production")) == 2
    with pytest.raises(RegistryError, match="2 models hold tiny:production"):
        registry.get_folder("tiny:production")


def test_promoting_again_changes_nothing_and_is_not_noted(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", tags=["production"])
    before = registry.get_history()

    registry.promote_model("tiny@1.0.0", "production")

    assert registry.get_history() == before


def test_a_model_that_does_not_exist_is_not_promoted(registry: ModelRegistry) -> None:
    with pytest.raises(RegistryError, match="there is no model 3"):
        registry.promote_model(3, "production")


def test_a_tagged_model_is_neither_retired_nor_deleted_unless_forced(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", tags=["production"])

    for act in (registry.retire_model, registry.delete_model):
        with pytest.raises(RegistryError, match=r"tiny@1\.0\.0 is production and is not"):
            act("tiny:production")
    retired = registry.retire_model("tiny:production", force=True)

    assert (retired.status, retired.tags) == ("retired", [])
    with pytest.raises(RegistryError, match="is retired"):
        registry.promote_model("tiny@1.0.0", "production")
    assert registry.get_folder("tiny@1.0.0").is_dir()


def test_a_deleted_model_leaves_no_file_and_stays_in_the_audit_trail(registry: ModelRegistry, made: Path) -> None:
    parent = registry.register_model(made / "first", tags=["production"])
    child = registry.register_model(made / "again", parent=parent.model_id)
    registry.add_export(parent.model_id, made / "export")

    registry.delete_model("tiny:production", force=True)

    assert not (registry.folder / "models/tiny/1.0.0").exists()
    assert registry.get_model(child.model_id).parent_model_id is None
    assert actions(registry)[-1] == "deleted tiny@1.0.0"


def test_the_audit_trail_can_be_neither_changed_nor_removed(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first")

    with sqlite3.connect(registry.folder / DATABASE) as connection:
        for statement in ("UPDATE model_events SET actor = 'x'", "DELETE FROM model_events"):
            with pytest.raises(sqlite3.IntegrityError, match="audit trail"):
                connection.execute(statement)


def test_models_are_filtered_by_metric_tag_and_status_and_one_without_the_metric_is_left_out(
    registry: ModelRegistry, made: Path
) -> None:
    for name, tags in (("first", ["production"]), ("again", []), ("deeper", [])):
        registry.register_model(made / name, tags=tags)
    registry.retire_model("tiny@1.1.0")

    def names(**filters: Any) -> list[str]:
        return [model.version for model in registry.list_models(**filters)]

    assert names() == ["1.1.0", "1.0.1", "1.0.0"]
    assert names(metric="val_loss") == ["1.0.1", "1.0.0"]
    assert names(metric="val_loss", max_metric_value=2.5) == ["1.0.1"]
    assert names(metric="val_loss", min_metric_value=2.5) == ["1.0.0"]
    assert names(tag="production") == names(status="active", metric="val_loss", min_metric_value=3) == ["1.0.0"]
    assert names(status="retired") == ["1.1.0"]
    assert names(name="other") == names(task_type="seq2seq") == []


def test_a_model_comes_from_the_one_whose_weights_its_training_began_with(
    registry: ModelRegistry, made: Path, tmp_path: Path
) -> None:
    first = registry.register_model(made / "first")
    second = registry.register_model(model_folder(tmp_path / "2", seed=5, start=first.weights_sha256))
    third = registry.register_model(model_folder(tmp_path / "3", seed=6, start=second.weights_sha256))
    other = registry.register_model(made / "words", parent=str(first))

    line = registry.get_lineage(second.model_id)

    assert line == {"ancestors": [first], "descendants": [third]}
    assert registry.get_lineage(first.model_id)["descendants"] == [second, other, third]


def test_models_are_compared_by_metrics_and_by_the_settings_that_differ(registry: ModelRegistry, made: Path) -> None:
    for name in ("first", "again", "deeper"):
        registry.register_model(made / name)

    found = registry.compare_models(1, 2, 3)

    assert found["metrics"] == {"val_loss": [3.0, 2.0, None]}
    assert found["settings"] == {"model.num_layers": [4, 4, 3], "training.epochs": [2, 3, 2]}


def test_an_export_is_registered_with_the_model_inside_it(registry: ModelRegistry, made: Path) -> None:
    model = registry.register_model(made / "export")

    assert model.export_formats == ["pytorch"]
    assert read_artefact(registry.get_export("tiny@1.0.0") / "manifest.json", "manifest")["stage"] == "export"
    load_model(registry.get_folder("tiny@1.0.0"))


def test_an_export_of_another_model_is_refused(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "again")

    with pytest.raises(RegistryError, match="made from another model"):
        registry.add_export("tiny@1.0.0", made / "export")
    with pytest.raises(RegistryError, match="has no registered export"):
        registry.get_export("tiny@1.0.0")


def test_exports_of_one_model_stand_beside_each_other_and_the_newest_is_given(
    registry: ModelRegistry, made: Path, tmp_path: Path
) -> None:
    registry.register_model(made / "export")
    more = export_folder(tmp_path / "more", made / "first", formats=("pytorch", "onnx"))

    model = registry.add_export("tiny@1.0.0", more)

    assert model.export_formats == ["pytorch", "onnx"]
    assert registry.get_export("tiny@1.0.0").name == "2"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "the file is missing"),
        ("corpus", "this is no model folder"),
        ("weightless", "does not hold the model"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    registry: ModelRegistry, made: Path, tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "corpus").mkdir()
    write_manifest(tmp_path / "corpus", stage="corpus", sections={}, inputs={})
    (tmp_path / "weightless").mkdir()
    write_manifest(tmp_path / "weightless", stage="export", sections={"export": {"formats": ["onnx"]}}, inputs={})

    with pytest.raises(ArtifactError, match=message):
        registry.register_model(tmp_path / source)
    registry.register_model(made / "first")
    with pytest.raises(ArtifactError, match="this is no export"):
        registry.add_export(1, made / "first")


def test_a_damaged_folder_is_not_registered_and_leaves_nothing(registry: ModelRegistry, made: Path) -> None:
    source = Path(shutil.copytree(made / "first", "model"))
    flip(source / "model.safetensors")

    with pytest.raises(ArtifactError, match=r"model/model\.safetensors: the file is not the one"):
        registry.register_model(source)

    assert registry.list_models() == []
    assert not [path for path in registry.folder.iterdir() if not path.name.startswith(DATABASE)]


def test_a_folder_that_changes_while_it_is_copied_is_refused(
    registry: ModelRegistry, made: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(made / "first", tmp_path / "model"))
    flip(changed / "tokenizer.model")

    with pytest.raises(RegistryError, match="changed while it was copied"):
        registry_files.copy(changed, tmp_path / "copy", registry.register_model(made / "first").manifest_sha256)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "../away"}, "cannot be the name"),
        ({"name": "a:b"}, "cannot be the name"),
        ({"name": "7"}, "would be taken for an id"),
        ({"tags": ["in use"]}, "cannot be the tag"),
        ({"version": "1.0"}, "is not a version"),
        ({"parent": 9}, "there is no model 9"),
        ({"metrics": {"loss": math.nan}}, "the metric loss is nan"),
        ({"metrics": {"loss": "3"}}, "the metric loss is '3'"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(
    registry: ModelRegistry, made: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(FoundryError, match=message):
        registry.register_model(made / "first", **given)

    assert registry.list_models() == []
    assert registry.get_history() == []
    assert not (registry.folder / "models").exists()


def test_what_a_killed_process_left_is_in_nobodys_way(registry: ModelRegistry, made: Path) -> None:
    (registry.folder / "models/tiny/1.0.0/model").mkdir(parents=True)

    model = registry.register_model(made / "first")

    loaded, _ = load_model(registry.get_folder(model.model_id))
    assert sum(weights.numel() for weights in loaded.parameters()) > 0
    assert registry.list_models() == [model]


def test_a_full_disk_is_one_error_and_leaves_nothing(registry: ModelRegistry, made: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # less than the weights are
    try:
        with pytest.raises(RegistryError, match=r"the operating system refused: \[Errno \d+\] File too large"):
            registry.register_model(made / "first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not [path for path in registry.folder.iterdir() if not path.name.startswith(DATABASE)]
    assert registry.register_model(made / "first").version == "1.0.0"


def test_a_registry_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RegistryError, match="the operating system refused"):
        ModelRegistry(tmp_path / "file")


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "spec.json", "tokenizer.model", "model.json"])
def test_one_flipped_bit_is_refused_and_named(registry: ModelRegistry, made: Path, name: str) -> None:
    model = registry.register_model(made / "first", tags=["production"])
    flip(model.checkpoint_path / name, at=-3)

    for act in (model_at, registry.get_folder, lambda reference: registry.promote_model(reference, "staging")):
        with pytest.raises(ArtifactError, match="what was registered has changed") as caught:
            act("tiny:production")
        assert caught.value.where.endswith(name)
    with pytest.raises(ArtifactError, match="what was registered has changed"):
        registry.compare_models(1, 1)
    with pytest.raises(RegistryError, match=r"cannot follow from tiny@1\.0\.0"):
        registry.register_model(made / "again")
    assert len(registry.verify(1)) == 1


def test_a_folder_that_was_changed_and_signed_anew_is_refused(registry: ModelRegistry, made: Path) -> None:
    model = registry.register_model(made / "first")
    flip(model.checkpoint_path / "model.safetensors")
    (model.checkpoint_path / "manifest.json").unlink()
    write_manifest(model.checkpoint_path, stage="train", sections={}, inputs={})

    with pytest.raises(ArtifactError, match="the manifest is not the one that was registered"):
        registry.get_folder(1)


def test_a_damaged_export_is_refused(registry: ModelRegistry, made: Path) -> None:
    model = registry.register_model(made / "export")
    flip(registry.get_export(1) / "pytorch/model.safetensors")

    with pytest.raises(ArtifactError, match="what was registered has changed"):
        registry.get_export(1)
    assert registry.get_folder(1) == model.checkpoint_path
    assert len(registry.verify(1)) == 1


def test_a_damaged_database_is_one_error(registry: ModelRegistry) -> None:
    registry.close()
    (registry.folder / DATABASE).write_bytes(b"no database" * 100)

    with pytest.raises(RecordsError, match="no SQLite database"):
        ModelRegistry()


def test_the_registry_comes_from_the_package_and_from_a_shared_folder(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_REGISTRY", str(tmp_path / "shared"))

    with pipeline.ModelRegistry() as registry:
        registry.register_model(made / "first", tags=["production"])

    assert model_at("tiny:production") == tmp_path / "shared/models/tiny/1.0.0/model"
    assert not (tmp_path / "registry").exists()


def test_asking_for_a_model_makes_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RegistryError, match="there is no model registry here"):
        model_at("tiny:production")

    assert list(tmp_path.iterdir()) == []
    assert model_at("./tiny:production") == Path("tiny:production")
