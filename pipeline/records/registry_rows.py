"""The rows of the registry: how a reference is looked up, how a line of descent is followed, what is written."""

from __future__ import annotations

import json
import os
import pwd
from sqlite3 import Connection
from typing import Any

from pipeline.records.registered import Reference, RegisteredModel
from pipeline.records.store import now

# The models that a model comes from, the nearest first.
ANCESTORS = """
    WITH RECURSIVE line (model_id, depth) AS (
        SELECT parent_model_id, 1 FROM models WHERE model_id = ?
        UNION ALL
        SELECT models.parent_model_id, depth + 1 FROM models JOIN line USING (model_id)
    )
    SELECT registered.* FROM registered JOIN line USING (model_id) ORDER BY depth
"""
# The models that come from a model, the nearest first.
DESCENDANTS = """
    WITH RECURSIVE line (model_id, depth) AS (
        SELECT model_id, 1 FROM models WHERE parent_model_id = ?
        UNION ALL
        SELECT models.model_id, depth + 1 FROM models JOIN line ON models.parent_model_id = line.model_id
    )
    SELECT registered.* FROM registered JOIN line USING (model_id) ORDER BY depth, model_id
"""


def query_of(wanted: Reference) -> tuple[str, tuple[Any, ...]]:
    """The query that finds the models of a reference, and its parameters."""
    if wanted.tag is not None:
        return (
            "SELECT registered.* FROM registered JOIN model_tags USING (model_id) WHERE name = ? AND tag = ?",
            wanted.tag,
        )
    if wanted.version is not None:
        return "SELECT * FROM registered WHERE name = ? AND version = ?", wanted.version
    return "SELECT * FROM registered WHERE model_id = ?", (wanted.model_id,)


def insert(connection: Connection, table: str, **values: Any) -> int:
    """Add a row, given by the names of its columns; returns its id."""
    places = ", ".join(f":{name}" for name in values)
    statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"  # noqa: S608 - the names are ours
    added = connection.execute(statement, values)
    assert added.lastrowid is not None
    return added.lastrowid


def note(connection: Connection, action: str, model: RegisteredModel, **details: Any) -> None:
    """Add a line to the audit trail: who did what to which model, and when."""
    insert(
        connection,
        "model_events",
        created_at=now(),
        actor=_actor(),
        action=action,
        model_id=model.model_id,
        name=model.name,
        version=model.version,
        details=json.dumps(details),
    )


def _actor() -> str:
    """The user that this process runs as: the name, or the number of one without a name."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
