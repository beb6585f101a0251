"""A database that many processes share: whole transactions, numbered migrations, clear refusals."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.records import store as store_module
from pipeline.records.store import RecordsError, Store

pytestmark = pytest.mark.integration

FIRST = """\
CREATE TABLE parents (id INTEGER PRIMARY KEY);
-- children; of parents
CREATE TABLE children (parent INTEGER NOT NULL REFERENCES parents (id));
"""
SECOND = "ALTER TABLE parents ADD COLUMN name TEXT;\n"


@pytest.fixture
def chain(tmp_path) -> Path:
    """A folder with one migration."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(FIRST)
    return folder


def opened(tmp_path: Path, chain: Path, *, durable: bool = False) -> Store:
    return Store(tmp_path / "records" / "some.db", migrations=chain, mend="make it again", durable=durable)


def names(store: Store, table: str) -> list[str]:
    return [row["name"] for row in store.rows(f"PRAGMA table_info({table})")]


def test_a_new_database_has_every_migration_and_a_second_opening_applies_none(tmp_path, chain):
    with opened(tmp_path, chain) as store:
        first = [tuple(row) for row in store.rows("SELECT * FROM migrations")]

    with opened(tmp_path, chain) as store:
        again = [tuple(row) for row in store.rows("SELECT * FROM migrations")]

    assert [name for name, _ in first] == ["0001_first"]
    assert again == first


def test_a_database_of_an_earlier_version_gets_what_it_lacks_and_keeps_its_rows(tmp_path, chain):
    with opened(tmp_path, chain) as store, store.transaction() as connection:
        connection.execute("INSERT INTO parents VALUES (7)")
    (chain / "0002_second.sql").write_text(SECOND)

    with opened(tmp_path, chain) as store:
        assert names(store, "parents") == ["id", "name"]
        assert [tuple(row) for row in store.rows("SELECT * FROM parents")] == [(7, None)]


def test_a_table_that_is_made_anew_keeps_the_rows_that_refer_to_it(tmp_path, chain):
    with opened(tmp_path, chain) as store, store.transaction() as connection:
        connection.execute("INSERT INTO parents VALUES (7)")
        connection.execute("INSERT INTO children VALUES (7)")
    (chain / "0002_anew.sql").write_text(
        "CREATE TABLE other (id INTEGER PRIMARY KEY, name TEXT);\nINSERT INTO other (id) SELECT id FROM parents;\n"
        "DROP TABLE parents;\nALTER TABLE other RENAME TO parents;\n"
    )

    with opened(tmp_path, chain) as store:
        assert [row["parent"] for row in store.rows("SELECT parent FROM children")] == [7]


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path, chain):
    opened(tmp_path, chain).close()
    (chain / "0002_wrong.sql").write_text("CREATE TABLE more (id);\nINSERT INTO nowhere VALUES (1);\n")

    with pytest.raises(RecordsError, match="no such table: nowhere"):
        opened(tmp_path, chain)

    (chain / "0002_wrong.sql").unlink()
    with opened(tmp_path, chain) as store:
        assert names(store, "more") == []


def test_a_migration_that_leaves_a_row_without_what_it_refers_to_is_refused(tmp_path, chain):
    (chain / "0002_orphan.sql").write_text("INSERT INTO children VALUES (9);\n")

    with pytest.raises(AssertionError, match="children"):
        opened(tmp_path, chain)


def test_a_database_of_a_newer_version_is_refused(tmp_path, chain):
    (chain / "0002_second.sql").write_text(SECOND)
    opened(tmp_path, chain).close()
    (chain / "0002_second.sql").unlink()

    with pytest.raises(RecordsError, match="newer Model Foundry has changed the database \\(0002_second\\)") as caught:
        opened(tmp_path, chain)

    assert caught.value.where.endswith("some.db")
    assert caught.value.hint


@pytest.mark.parametrize("durable", [True, False])
def test_foreign_keys_hold(tmp_path, chain, durable):
    with opened(tmp_path, chain, durable=durable) as store:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), store.transaction() as connection:
            connection.execute("INSERT INTO children VALUES (1)")

        assert store.rows("SELECT * FROM children") == []


def test_a_block_that_raises_leaves_nothing_and_the_next_one_works(tmp_path, chain):
    with opened(tmp_path, chain) as store:
        with pytest.raises(sqlite3.IntegrityError), store.transaction() as connection:
            connection.executemany("INSERT INTO parents VALUES (?)", [(1,), (1,)])

        with store.transaction() as connection:
            connection.execute("INSERT INTO parents VALUES (2)")

        assert [row["id"] for row in store.rows("SELECT id FROM parents")] == [2]


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path, chain):
    path = tmp_path / "records" / "some.db"
    path.parent.mkdir()
    path.write_text("not a database, " * 100)

    with pytest.raises(RecordsError, match="no SQLite database") as caught:
        opened(tmp_path, chain)

    assert caught.value.hint == "make it again"


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path, chain):
    path = tmp_path / "records" / "some.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    connection.close()

    with pytest.raises(RecordsError, match="another program"):
        opened(tmp_path, chain)

    with sqlite3.connect(path) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["theirs"]
    connection.close()


def test_a_folder_in_the_place_of_the_database_is_refused(tmp_path, chain):
    (tmp_path / "records" / "some.db").mkdir(parents=True)

    with pytest.raises(RecordsError, match="cannot be opened"):
        opened(tmp_path, chain)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, chain):
    (tmp_path / "records").touch()

    with pytest.raises(RecordsError, match="the folder of the database cannot be made: File exists"):
        opened(tmp_path, chain)


def test_who_never_gets_the_right_to_write_is_told_so(tmp_path, chain, monkeypatch):
    monkeypatch.setattr(store_module, "_PATIENCE_SECONDS", 0.1)
    with opened(tmp_path, chain) as holder, holder.transaction(), opened(tmp_path, chain) as waiter:
        with pytest.raises(RecordsError, match="another process has held the database"), waiter.transaction():
            pass

        assert waiter.rows("SELECT * FROM parents") == []  # readers do not wait


def test_many_processes_that_make_the_database_and_write_at_once_lose_nothing(tmp_path, chain):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pipeline.records.store import Store
        for number in range(20):
            with Store(Path(sys.argv[1]), migrations=Path(sys.argv[2]), mend="") as store:
                with store.transaction() as connection:
                    (most,) = connection.execute("SELECT coalesce(max(id), 0) FROM parents").fetchone()
                    connection.execute("INSERT INTO parents VALUES (?)", (most + 1,))
    """)
    arguments = [sys.executable, "-c", script, str(tmp_path / "some.db"), str(chain)]

    writers = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [writer.communicate()[1] for writer in writers]

    assert said == [""] * 6
    with Store(tmp_path / "some.db", migrations=chain, mend="") as store:
        assert [row["id"] for row in store.rows("SELECT id FROM parents ORDER BY id")] == list(range(1, 121))


def test_a_writer_that_is_killed_loses_nothing_that_was_committed(tmp_path, chain):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pipeline.records.store import Store
        store = Store(Path(sys.argv[1]), migrations=Path(sys.argv[2]), mend="")
        number = 0
        while True:
            number += 1
            with store.transaction() as connection:
                connection.execute("INSERT INTO parents VALUES (?)", (number,))
            print(number, flush=True)
    """)
    arguments = [sys.executable, "-c", script, str(tmp_path / "some.db"), str(chain)]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    acknowledged = [int(writer.stdout.readline()) for _ in range(50)]

    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.communicate()[0].splitlines()]

    with Store(tmp_path / "some.db", migrations=chain, mend="") as store:
        kept = {row["id"] for row in store.rows("SELECT id FROM parents")}
        assert kept >= set(acknowledged)
        assert [row[0] for row in store.rows("PRAGMA integrity_check")] == ["ok"]
