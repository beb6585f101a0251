"""Versions of documents: the newest that is read here, and what to say about a document of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import __version__

if TYPE_CHECKING:
    from pipeline.spec.diagnose import Problem
    from pipeline.spec.document import Document

CURRENT = 1


def other_version(document: Document) -> Problem | None:
    """What is wrong with the version of a document that cannot be checked for that reason; None if it can.

    Only a version that is too new and a document of an earlier system are told apart here; what else can stand in
    `schema_version` is for the schema to refuse.
    """
    if "schema_version" not in document.values:
        from pipeline.spec.migrate.dialects import earlier  # noqa: PLC0415 - tables that few documents need

        return earlier(document)
    version = document.values["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version <= CURRENT:
        return None
    message = f"schema version {version} is newer than this toolkit: {__version__} reads up to version {CURRENT}"
    hint = f"a newer toolkit than {__version__} reads it: pip install --upgrade model-foundry"
    return document.problem("E0206", message, document.place_of(("schema_version",)), path="schema_version", hint=hint)
