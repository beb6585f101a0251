"""Where the trials of a sweep are kept: Optuna's storages, by an address."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.errors import FoundryError

_JOURNAL, _SQLITE, _POSTGRESQL = "journal://", "sqlite:///", "postgresql://"
_PATIENCE_SECONDS = 60  # for SQLite, while another process writes

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to tell, `foundry sweep` tells


def default_address(folder: Path, name: str) -> str:
    """Where the trials of a sweep without `storage` are.

    Args:
        folder: the folder of the sweeps of this machine.
        name: of the sweep.
    """
    return f"{_SQLITE}{folder / name}.db"


def open_storage(address: str) -> BaseStorage:
    """Open a storage; it is made where there is none.

    Args:
        address: `sqlite:///path`, `journal://path` or `postgresql://user@host/database`.

    Raises:
        FoundryError: it cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - comes with Optuna, but is not needed for a journal

    try:
        if address.startswith(_JOURNAL):
            path = Path(address.removeprefix(_JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        if address.startswith(_SQLITE):
            Path(address.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            return RDBStorage(address, engine_kwargs={"connect_args": {"timeout": _PATIENCE_SECONDS}})
        # A connection that the server or a network has cut is noticed before it is used.
        return RDBStorage(
            address.replace(_POSTGRESQL, "postgresql+psycopg://", 1), engine_kwargs={"pool_pre_ping": True}
        )
    except (SQLAlchemyError, OSError, RuntimeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        hint = "see that the storage is there and may be written; PostgreSQL takes a password from PGPASSWORD"
        raise FoundryError(f"the storage of the sweep cannot be opened: {reason}", where=address, hint=hint) from error
