"""The shape of the tables: what each key of an earlier system is called now, or why nothing takes it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

UNSET: Any = object()  # no value at all, as opposed to None


def same(value: Any) -> Any:
    """The meaning of a value that is written today as it was then."""
    return value


@dataclass(frozen=True, slots=True)
class Carried:
    """A key that has a setting today. Rows with one setting must agree; the first one with a default has it.

    Attributes:
        old: the dotted key.
        new: the dotted setting.
        default: what the earlier system took without the key.
        meaning: its value → the setting's. What it does not know it hands on, for the check to find; UNSET for a
            value that says nothing.
        refuses: values that cannot be carried over whatever is dropped, in lower case, each with the reason.
        note: what is different now, for the reader of the report.
    """

    old: str
    new: str
    default: Any = UNSET
    meaning: Callable[[Any], Any] = same
    refuses: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A key that never had an effect, or whose work is done otherwise now.

    Attributes:
        old: the dotted key; `*` stands for any text.
        reason: why nothing is lost with it.
    """

    old: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A key whose meaning no setting has.

    Attributes:
        old: the dotted key; `*` stands for any text.
        harmless: whether a value asks for nothing.
        reason: why the meaning of another value cannot be carried over.
        hint: what to do instead, besides dropping it.
    """

    old: str
    harmless: Callable[[Any], bool]
    reason: str
    hint: str = ""


Row = Carried | Dropped | Lost


@dataclass(frozen=True, slots=True)
class Derived:
    """A setting that follows from the value of a key that has a setting of its own.

    Attributes:
        new: the dotted setting.
        reads: the dotted key.
        meaning: the key's value → the setting's.
        reason: how it follows.
    """

    new: str
    reads: str
    meaning: Callable[[Any], Any]
    reason: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """A setting for which the earlier system had no key, because it always did the same.

    Attributes:
        new: the dotted setting.
        value: what it did, in today's words.
        reason: how it did that.
    """

    new: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way in which an earlier system wrote its configurations.

    Attributes:
        name: what `--dialect` takes.
        title: what it is, to be read after "a".
        kind: the kind of document that it becomes.
        rows: what becomes of each of its keys.
        derived: settings that follow from keys.
        fixed: settings that had no keys.
        sections: its sections → those of today, where comments and order are kept.
        names_text: the key that names a text without saying where it is; empty when there is none.
        split_of_text, subset_of_text: the keys that say which part of it is read, where it is on the hub.
        has_options: whether its keys are options of a command, which may be written with their dashes.
    """

    name: str
    title: str
    kind: str
    rows: tuple[Row, ...]
    derived: tuple[Derived, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    names_text: str = ""
    split_of_text: str = ""
    subset_of_text: str = ""
    has_options: bool = False

    def on_hub(self, repository: str, subset: str | None) -> Dialect:
        """The same where the text is a dataset of the hub, so that nobody needs to say where it is."""
        parts = (
            Carried(self.split_of_text, "dataset.source.split", "train"),
            Carried(self.subset_of_text, "dataset.source.subset", subset, lambda given: given or subset),
        )
        source = (
            Fixed("dataset.source.kind", "hub", "the name is one of the Hugging Face hub"),
            Fixed("dataset.source.repository", repository, f"what {self.names_text} means there"),
        )
        others = tuple(row for row in self.rows if row.old not in {part.old for part in parts})
        return replace(self, rows=(*parts, *others), fixed=(*source, *self.fixed), names_text="")

    def row(self, old: str) -> Row | None:
        """What the table says about a dotted key."""
        exact = (row for row in self.rows if row.old == old)
        pattern = (row for row in self.rows if "*" in row.old and fnmatchcase(old, row.old))
        return next(exact, None) or next(pattern, None)

    def has_inside(self, old: str) -> bool:
        """Whether a dotted key is a section of the table."""
        return any(row.old.startswith(f"{old}.") for row in self.rows)


PYTORCH_ADAM = (
    Fixed("optimizer.optimizer_name", "adamw", "the only optimizer it had"),
    Fixed("optimizer.adam_beta1", 0.9, "PyTorch's default"),
    Fixed("optimizer.adam_beta2", 0.999, "PyTorch's default"),
    Fixed("optimizer.adam_epsilon", 1e-8, "PyTorch's default"),
)
NO_BUDGETS = tuple(
    Fixed(f"validation.budgets.{name}", None, "it set no limit")
    for name in ("val_loss", "rss_mb", "peak_mb", "latency_p95_ms", "model_mb", "training_minutes")
)


# Meanings


def words(table: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Texts that are called otherwise now, compared in lower case."""
    return lambda value: table.get(value.lower(), value) if isinstance(value, str) else value


def switch(yes: Any, no: Any) -> Callable[[Any], Any]:
    """What true and false are today."""
    return lambda value: (yes if value else no) if isinstance(value, bool) else value


def unless_null(value: Any) -> Any:
    """A value where there is one."""
    return UNSET if value is None else value


def listed_alone(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


def is_one_of(*harmless: Any) -> Callable[[Any], bool]:
    """Whether a value is one of some; true is not 1."""
    return lambda value: any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in harmless
    )
