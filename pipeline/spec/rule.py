"""The shape of rules: what a schema cannot say, each row with a code of its own. The rows stand in rules.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Finding = tuple[str, str] | None  # what is wrong and what to do, or nothing
InnerFinding = tuple[tuple[Any, ...], str, str]  # the keys below the setting, what is wrong and what to do


# Words of the spec that several tables of rules are about.
# Task about pictures → the kinds of dataset.source that have what it learns: one class, or labels.
OF_PICTURES = {"vision_classification": ("digits", "image_folder"), "vision_multilabel": ("image_table",)}
PICTURE_KINDS = tuple(kind for kinds in OF_PICTURES.values() for kind in kinds)
MASKED, MASK = "masked_lm", "<mask>"  # the task, and the token behind which it hides others


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        code: a key of `diagnose.CODES`.
        reads: the dotted settings it looks at; the first one that is in the file is shown.
        broken: takes their values in this order, says what is wrong.
    """

    code: str
    reads: tuple[str, ...]
    broken: Callable[..., Finding]


@dataclass(frozen=True, slots=True)
class InnerRule:
    """A rule about what stands inside a list or a mapping of free names.

    Attributes:
        code: a key of `diagnose.CODES`.
        reads: the dotted settings it looks at; the first is the list or the mapping.
        broken: takes their values in this order, says where in the first what is wrong.
    """

    code: str
    reads: tuple[str, ...]
    broken: Callable[..., Iterable[InnerFinding]]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A setting that is right, but asks for something that this version of the toolkit does not do yet.

    Such a document passes the check, with a warning, and is refused before anything runs.

    Attributes:
        setting: the dotted setting.
        when: whether a value asks for it.
        why: what is not there.
        hint: what to set instead.
    """

    setting: str
    when: Callable[[Any], bool]
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A setting that has no effect while another one has certain values.

    Attributes:
        setting: the dotted setting.
        reads: the other one.
        when: whether a value of the other one makes the setting idle.
        why: the reason, to be read after "because".
    """

    setting: str
    reads: str
    when: Callable[[Any], bool]
    why: str
