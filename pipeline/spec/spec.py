"""A checked, complete and frozen spec."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.spec.schema import Schema, schema_of

if TYPE_CHECKING:
    from pipeline.spec.diagnose import Problem


class Section:
    """The values of one section, read by name: `spec.training.learning_rate`. Lists come as tuples."""

    __slots__ = ("_name", "_values")

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        frozen = {key: _freeze(f"{name}.{key}" if name else key, value) for key, value in values.items()}
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_values", frozen)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # also what copy and pickle ask for
            raise AttributeError(key)
        try:
            return self._values[key]
        except KeyError:
            known = ", ".join(self._values)
            raise AttributeError(f"the spec has no {self._name}.{key}; {self._name} has {known}") from None

    def __setattr__(self, key: str, value: Any) -> NoReturn:
        raise AttributeError(f"a spec cannot be changed: {self._name}.{key}")

    def __delattr__(self, key: str) -> NoReturn:
        raise AttributeError(f"a spec cannot be changed: {self._name}.{key}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Section) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __dir__(self) -> list[str]:
        return list(self._values)

    def __reduce__(self) -> tuple[type[Section], tuple[str, dict[str, Any]]]:
        return Section, (self._name, {key: _thaw(value) for key, value in self._values.items()})

    def __repr__(self) -> str:
        return f"Section({self._name!r}, {self._values!r})"


@dataclass(frozen=True, eq=False)
class Spec:
    """One experiment (or another kind of document): every setting, explicit and in range. Made by `load_spec` only.

    Attributes:
        path: the file it came from.
        kind: the kind of document; `experiment` for what the stages read.
        warnings: what is odd in it without being wrong (codes W), in the order of the file.
    """

    path: Path
    kind: str
    warnings: tuple[Problem, ...]
    _root: Section

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        return getattr(self._root, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self._root == other._root

    def __hash__(self) -> int:
        return hash(self._root)

    def section(self, name: str) -> dict[str, Any]:
        """A section as a plain dict of its own, to unpack into keyword arguments.

        Raises:
            AttributeError: there is no such section.
            TypeError: the name is that of a value beside the sections.
        """
        section = getattr(self._root, name)
        if not isinstance(section, Section):
            raise TypeError(f"{name} is a value of the spec, not a section")
        values: dict[str, Any] = _thaw(section)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and scalars, in the order of the schema; writing to it changes nothing."""
        values: dict[str, Any] = _thaw(self._root)
        return values

    def hash(self) -> str:
        """The hash of its lock: equal for specs that give the same result; see `pipeline.spec.lock`."""
        from pipeline.spec.lock import lock_of  # noqa: PLC0415 - which is made from specs

        return lock_of(self).hash

    def leaves(self, stage: str | None = None, effects: Collection[str] | None = None) -> list[str]:
        """The dotted names of the settings that a stage reads, in the order of the schema.

        Args:
            stage: a stage of the pipeline; None takes every setting.
            effects: which `x-effect` to keep, of `result`, `speed`, `output`, `none`; None keeps all.
        """
        return [".".join(keys) for keys, _ in _chosen(schema_of(self.kind), self.to_dict(), stage, effects)]


def stage_values(spec: Spec, stage: str, effects: Collection[str] | None = None) -> dict[str, Any]:
    """The settings that a stage reads, as nested dicts: what its fingerprint and its manifest are made of.

    Args:
        spec: the spec.
        stage: a stage of the pipeline.
        effects: which `x-effect` to keep; `("result",)` gives what changes the trained weights; None keeps all.
    """
    values: dict[str, Any] = {}
    for keys, value in _chosen(schema_of(spec.kind), spec.to_dict(), stage, effects):
        inner = values
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value
    return values


def _chosen(
    schema: Schema, values: Mapping[str, Any], stage: str | None, effects: Collection[str] | None
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        child = schema["properties"][name]
        if "properties" in child:
            for keys, leaf in _chosen(child, value, stage, effects):
                yield (name, *keys), leaf
        elif (stage is None or stage in child.get("x-stages", ())) and (
            effects is None or child.get("x-effect") in effects
        ):
            yield (name,), value


def _freeze(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return Section(name, value)
    if isinstance(value, list):
        return tuple(_freeze(f"{name}[{index}]", item) for index, item in enumerate(value))
    return copy.copy(value)


def _thaw(value: Any) -> Any:
    if isinstance(value, Section):
        return {key: _thaw(inner) for key, inner in value._values.items()}  # noqa: SLF001 - this file's own class
    return [_thaw(item) for item in value] if isinstance(value, tuple) else value
