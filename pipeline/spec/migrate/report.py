"""What a migration did, for the reader: each key of the earlier file, each setting of the new one, and the edit."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.spec.migrate.translate import FROM_CALLER, FROM_DEFAULT, FROM_FILE, Fate, Translation
from pipeline.spec.words import spelled

if TYPE_CHECKING:
    from pipeline.spec.spec import Spec

_WIDTH = 120  # columns


def key_table(found: Translation) -> list[str]:
    """Each key of the earlier document with what became of it."""
    width = max((len(fate.old) for fate in found.fates), default=0)
    return [f"  {fate.old:<{width}}  {_became(found, fate)}" for fate in found.fates]


def _became(found: Translation, fate: Fate) -> str:
    if not fate.new:
        return fate.reason if fate.accepted else f"dropped: {fate.reason}"
    value = found.settings.get(fate.new, fate.value)
    changed = "" if value == fate.value else f" = {spelled(value)}"
    return f"→ {fate.new}{changed}" + (f" ({fate.reason})" if fate.reason else "")


def setting_table(found: Translation, spec: Spec) -> Iterator[str]:
    """Where each setting of the new document comes from, and what both resolve to."""
    names = [name for name in spec.leaves() if name not in ("schema_version", "kind")]
    origins = {name: source.origin for name, source in found.sources.items()}
    written = [name for name in names if origins.get(name) == FROM_FILE]
    given = [name for name in names if origins.get(name) == FROM_CALLER]
    unsaid = [name for name in names if name in origins and name not in (*written, *given)]
    agreed = [name for name in names if name in (*found.agreed, *found.idle) and name not in origins]
    new = [name for name in names if name not in (*origins, *agreed)]
    yield f"{len(names)} settings:"
    yield f"  {len(written)} from the file"
    if given:
        yield f"  {len(given)} from the command line: {', '.join(given)}"
    if unsaid:
        yield f"  {len(unsaid)} as the earlier system had them without saying so, now written out:"
    for name in unsaid:
        source = found.sources[name]
        reason = "its default" if source.origin == FROM_DEFAULT else source.reason
        yield f"    {name}: {spelled(found.settings[name])} ({reason})"
    yield f"  {len(agreed)} that both have by default"
    yield f"  {len(new)} that the earlier system did not have, at their defaults:"
    yield from textwrap.wrap(", ".join(new), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield f"earlier and new settings resolve to the same {spec.hash()[:16]}…"


def edit(before: str, after: str, old: str, new: str) -> str:
    """The edit as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), old, new, lineterm="")
    return "\n".join(lines)
