"""Proof that a new document says what the earlier one said: both are resolved and compared setting by setting."""

from __future__ import annotations

from pipeline.errors import FoundryError
from pipeline.spec.load import parse_spec
from pipeline.spec.migrate.translate import Translation
from pipeline.spec.schema import resolve, schema_of
from pipeline.spec.spec import Section, Spec


def proven(found: Translation, text: str, file: str) -> Spec:
    """The spec that a new text holds.

    Args:
        found: the earlier document by the table of its dialect: its values, its system's defaults and habits.
        text: the new document.
        file: the name that it will have.

    Raises:
        FoundryError: the new text does not resolve to the settings that the table gives.
        SpecError: it is not right by itself.
    """
    spec = parse_spec(text.encode(), file, found.dialect.kind)
    resolved = resolve(schema_of(found.dialect.kind), found.values)
    expected = Spec(spec.path, spec.kind, (), Section("", resolved))
    if spec != expected:  # not their hashes, which leave out what shapes no result
        differing = sorted(_differing(resolved, spec.to_dict()))
        message = f"the new text does not say what the earlier file said: {', '.join(differing)}; nothing is written"
        raise FoundryError(message, where=found.document.file, hint="please report this, with the file")
    return spec


def _differing(first: object, second: object, prefix: str = "") -> set[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        names = first.keys() | second.keys()
        return {
            path
            for name in names
            for path in _differing(first.get(name), second.get(name), f"{prefix}.{name}" if prefix else name)
        }
    return set() if first == second else {prefix}
