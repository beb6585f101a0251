"""What may not be written can still be asked, and says so when it is to be changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from privileges import plain_user

from pipeline.cli import foundry
from pipeline.errors import FoundryError
from pipeline.records.experiments import ExperimentDB
from pipeline.records.registry import DATABASE, ModelRegistry, model_at
from pipeline.records.store import RecordsError, Store

pytestmark = pytest.mark.integration


@pytest.fixture
def protect() -> Iterator[Callable[[Path], None]]:
    """(folder) → nothing in it may be written until the test ends."""
    protected: list[Path] = []

    def take(folder: Path) -> None:
        paths = [folder, *folder.rglob("*")]
        protected.extend(paths)
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)

    with plain_user():
        yield take
        for path in protected:
            path.chmod(0o755 if path.is_dir() else 0o644)


def foundry_says(*arguments: str) -> str:
    done = CliRunner().invoke(foundry, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def shared(registry: ModelRegistry, made: Path, protect: Callable[[Path], None]) -> ModelRegistry:
    """A registry with a model in production that may not be written."""
    registry.register_model(made / "first", name="plays", tags=["production"])
    registry.close()
    protect(registry.folder)
    return ModelRegistry()


def test_a_registry_that_may_not_be_written_gives_its_models_and_proves_them(shared: ModelRegistry) -> None:
    folder = model_at("plays:production")

    assert (folder / "model.safetensors").is_file()
    assert [model.version for model in shared.list_models()] == [shared.get_model("plays:production").version]
    assert "plays" in foundry_says("models", "list")
    assert "plays" in foundry_says("models", "get", "plays:production")
    foundry_says("models", "verify")
    assert not list(shared.folder.glob("*-wal")) + list(shared.folder.glob("*-shm"))


def test_a_registry_that_may_not_be_written_refuses_every_change_and_stays_as_it_is(
    shared: ModelRegistry, made: Path
) -> None:
    before = (shared.folder / DATABASE).read_bytes()

    for change in (
        lambda: shared.promote_model("plays:production", "staging"),
        lambda: shared.retire_model("plays:production", force=True),
        lambda: shared.delete_model("plays:production", force=True),
        lambda: shared.register_model(made / "again", name="plays"),
    ):
        with pytest.raises(FoundryError) as caught:
            change()
        assert caught.value.hint

    assert (shared.folder / DATABASE).read_bytes() == before
    assert (model_at("plays:production") / "model.safetensors").is_file()


def test_a_registry_on_which_only_the_file_is_protected_is_read_too(registry: ModelRegistry, made: Path) -> None:
    registry.register_model(made / "first", name="plays")
    registry.close()
    (registry.folder / DATABASE).chmod(0o444)

    with plain_user(), ModelRegistry() as opened:
        assert len(opened.list_models()) == 1
        with pytest.raises(RecordsError, match="may not be written"):
            opened.promote_model("plays@1.0.0", "production")


def test_records_that_may_not_be_written_are_listed_and_a_gone_run_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protect: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExperimentDB() as database:
        database.log_run("one", {}, run_id="a")
        record = {**database.get_record("a"), "origin": "stage", "toolkit_version": "0", "message": ""}
        database.register_run({**record, "environment": {}, "git_diff": ""})
    protect(tmp_path / ".work")

    assert "running" in foundry_says("runs", "list")
    with ExperimentDB() as database, pytest.raises(RecordsError, match="may not be written"):
        database.update_run_status("a", "failed")


def test_rows_that_are_only_in_the_log_of_a_killed_writer_are_not_left_out(
    tmp_path: Path, protect: Callable[[Path], None]
) -> None:
    chain = tmp_path / "migrations"
    chain.mkdir()
    (chain / "0001_first.sql").write_text("CREATE TABLE things (id INTEGER);\n")
    folder = tmp_path / "records"
    Store(folder / "some.db", migrations=chain, mend="").close()
    writer = sqlite3.connect(folder / "some.db", isolation_level=None)
    writer.execute("INSERT INTO things VALUES (7)")  # and it never closes
    protect(folder)

    with Store(folder / "some.db", migrations=chain, mend="") as store:
        assert [row["id"] for row in store.rows("SELECT id FROM things")] == [7]
    writer.close()


def test_a_database_of_an_earlier_version_that_may_not_be_written_is_refused(
    tmp_path: Path, protect: Callable[[Path], None]
) -> None:
    chain = tmp_path / "migrations"
    chain.mkdir()
    (chain / "0001_first.sql").write_text("CREATE TABLE things (id INTEGER);\n")
    folder = tmp_path / "records"
    Store(folder / "some.db", migrations=chain, mend="").close()
    (chain / "0002_second.sql").write_text("ALTER TABLE things ADD COLUMN name TEXT;\n")
    protect(folder)

    with pytest.raises(RecordsError, match="may not be written"):
        Store(folder / "some.db", migrations=chain, mend="")


def test_a_folder_without_a_database_that_may_not_be_written_is_one_error(
    tmp_path: Path, protect: Callable[[Path], None]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    protect(folder)

    with pytest.raises(RecordsError, match="cannot be opened"):
        ExperimentDB(folder / "some.db")
