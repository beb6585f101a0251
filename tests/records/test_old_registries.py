"""A registry of every version is kept, and read with all that is in it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.files import sha256_file
from pipeline.records import registry as registry_module
from pipeline.records.registry import DATABASE, ModelRegistry

pytestmark = pytest.mark.unit

OLD = Path(__file__).parent / "old"
MIGRATIONS = sorted(path.stem for path in registry_module._MIGRATIONS.glob("*.sql"))
RELEASED = {  # migration → SHA-256: databases have been through them, so they are not edited, only followed by others
    "0001_models": "ec63855babeff09fa45cb70a292e2da94cbf41a801fc5e13c49d3276fa4f7ee6",
}


def described(path: Path) -> dict[str, str]:
    """Table, index, view or trigger → how it is made."""
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    connection.close()
    return found


def test_a_migration_that_registries_have_been_through_is_not_edited():
    assert {path.stem: sha256_file(path) for path in registry_module._MIGRATIONS.glob("*.sql")} == RELEASED


def test_a_registry_of_every_version_is_kept():
    kept = [path.stem for path in sorted(OLD.glob("model_registry-*.db"))]

    assert kept == [f"model_registry-{name[:4]}" for name in MIGRATIONS]


@pytest.mark.parametrize("number", [int(name[:4]) for name in MIGRATIONS])
def test_an_old_registry_gets_the_tables_of_a_new_one_and_keeps_its_rows(tmp_path, number):
    (tmp_path / "old").mkdir()
    path = Path(shutil.copy(OLD / f"model_registry-{number:04}.db", tmp_path / "old" / DATABASE))
    connection = sqlite3.connect(path)
    assert [name for (name,) in connection.execute("SELECT name FROM migrations")] == MIGRATIONS[:number]
    connection.close()

    with ModelRegistry(tmp_path / "old") as old, ModelRegistry(tmp_path / "new"):
        newest, first = old.list_models()
        ancestors = old.get_lineage(newest.model_id)["ancestors"]
        production = old.get_model("plays:production")

    assert described(path) == described(tmp_path / "new" / DATABASE)
    assert (first.version, first.tags, first.metrics, first.metadata) == (
        "1.0.0",
        ["staging"],
        {"val_loss": 3.0},
        {"note": "kept"},
    )
    assert first.export_formats == ["pytorch"]
    assert (newest.version, newest.status, production.version) == ("1.0.1", "active", "1.0.1")
    assert [model.version for model in ancestors] == ["1.0.0"]
