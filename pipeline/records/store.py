"""SQLite files that many processes share: write-ahead log, foreign keys, numbered migrations, patience when it is busy.

A database is a path and a folder of migrations, `0001_name.sql`, `0002_name.sql`, …: SQL that brings the tables from
one version to the next. Each is applied once, in order, and noted in the table `migrations`. They are append-only: what
has been released is not edited.

    store = Store(path, migrations=folder, mend="what to do when the file is damaged")
    with store.transaction() as connection:
        connection.execute("INSERT INTO …", (…))
    for row in store.rows("SELECT … WHERE id = ?", (…)):
        print(row["name"])
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.closing import Closing
from pipeline.errors import FoundryError

_PATIENCE_SECONDS = 60.0  # a write takes a millisecond: who waits longer than this has met a process that hangs
_LONGEST_PAUSE_SECONDS = 0.05  # between two attempts, drawn at random, so that many waiters do not wake together

_MIGRATIONS = "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)"

Parameters = Sequence[Any] | Mapping[str, Any]


class RecordsError(FoundryError):
    """A database of records cannot be opened, read or written."""


class Store(Closing):
    """An open database. Belongs to the process and the thread that opened it; close it, or use it as a context.

    One that may not be written, or whose folder may not, is opened for reading: `read_only` says so. What someone else,
    who may, commits meanwhile is perhaps not seen.

    Args:
        path: the file; it and its folder are made where there is none.
        migrations: the folder of migrations.
        mend: what the user can do when the file is damaged, for the hint.
        durable: whether what is committed also survives a power cut. Each commit then waits for the disk: 280 a second
            where 35,000 are possible without. A process that is killed loses nothing in either case.

    Raises:
        RecordsError: the file is damaged, of another program or of a newer version, or cannot be opened or written.
    """

    def __init__(self, path: Path, *, migrations: Path, mend: str, durable: bool = False) -> None:
        self.path = path
        self._mend = mend
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the folder of the database cannot be made: {error.strerror}"
            raise RecordsError(message, where=str(path.parent), hint="see that it may be written") from error
        self.read_only = False
        with self._explained():
            self._connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        try:
            with self._explained():
                try:
                    _patiently(lambda: self._connection.execute("PRAGMA journal_mode = WAL"))
                except sqlite3.OperationalError as error:
                    if _code(error) not in _NOT_WRITABLE or not path.is_file():
                        raise
                    self._open_for_reading()
                self._connection.row_factory = sqlite3.Row
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._migrate(sorted(migrations.glob("*.sql")))
                # Only now: a migration that makes a table anew must not take along the rows that refer to it.
                self._connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _open_for_reading(self) -> None:
        """Open the file anew without its log, which SQLite would have to make beside it."""
        self._connection.close()
        log = self.path.with_name(f"{self.path.name}-wal")
        # What a process that was killed left in the log counts: SQLite reads it if it can, and refuses otherwise.
        immutable = "" if log.exists() and log.stat().st_size else "&immutable=1"
        uri = f"{self.path.absolute().as_uri()}?mode=ro{immutable}"
        self._connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None)
        self.read_only = True

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Read and write as if alone: all of the block is committed at its end, or nothing of it when it raises.

        Raises:
            RecordsError: the file cannot be written, or another process holds it for a minute.
            sqlite3.IntegrityError: a statement breaks a rule of the tables (a key, a foreign key, a check).
        """
        if self.read_only:
            message, hint = _REASONS[sqlite3.SQLITE_READONLY]
            raise RecordsError(message, where=str(self.path), hint=hint or "")
        with self._explained():
            # IMMEDIATE takes the right to write at once: one that reads first and asks later may be refused it.
            _patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself takes back what a full disk cut off
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """What a query finds, as it was committed last; columns by name.

        Raises:
            RecordsError: the file cannot be read.
        """
        with self._explained():
            return self._connection.execute(query, parameters).fetchall()

    def _migrate(self, chain: Sequence[Path]) -> None:
        names = [path.stem for path in chain]
        if self._applied() == names:
            return
        with self.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)"
            )
            applied = self._applied()  # again: another process may have been quicker
            if applied != names[: len(applied)]:
                raise RecordsError(
                    f"a newer Model Foundry has changed the database ({applied[-1]}); this version knows"
                    f" {names[-1]} as the last change",
                    where=str(self.path),
                    hint="use that version, or move the file away",
                )
            for path in chain[len(applied) :]:
                for statement in _statements(path.read_text(encoding="utf-8")):
                    connection.execute(statement)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (path.stem, now()))
            broken = connection.execute("PRAGMA foreign_key_check").fetchone()
            assert broken is None, f"a migration left a row of {broken['table']} that refers to nothing"

    def _applied(self) -> list[str]:
        """The migrations that the database has seen, in order."""
        tables = [row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables and "migrations" not in tables:
            raise RecordsError("the database is of another program", where=str(self.path), hint="name another file")
        if not tables:
            return []
        return [row["name"] for row in self.rows("SELECT name FROM migrations ORDER BY name")]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite says about the file into an error that a user can act on."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            message, hint = _REASONS.get(_code(error), (f"SQLite refused: {error}", ""))
            raise RecordsError(message, where=str(self.path), hint=self._mend if hint is None else hint) from error


def now() -> str:
    """The time, UTC, ISO 8601, to the microsecond: rows are sorted by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


# What SQLite's result codes mean, and what to do; None stands for what mends this database.
_REASONS: Mapping[int, tuple[str, str | None]] = {
    sqlite3.SQLITE_BUSY: ("another process has held the database for a minute", "find it with `fuser`, and end it"),
    sqlite3.SQLITE_CANTOPEN: ("the database cannot be opened", "see that its folder may be written, and is a folder"),
    sqlite3.SQLITE_READONLY: ("the database may not be written", "see who owns the file and its folder"),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space and run the same command again"),
    sqlite3.SQLITE_NOTADB: ("the file is no SQLite database, or is damaged", None),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", None),
}


_NOT_WRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)  # what SQLite says of a folder, too


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors that Python's module raises itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _patiently(attempt: Callable[[], object]) -> None:
    """Make an attempt again while the database is busy.

    SQLite waits by itself (`timeout`), except where it sees that waiting could be in vain: when a file is made or
    recovered by several processes at once.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            attempt()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))
        else:
            return


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), f"the script ends within a statement: {statement.strip()[:60]}"
