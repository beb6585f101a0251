"""Versions of models, and which part of one goes up: by what differs in the spec that a model was made by.

Another vocabulary is a new major version: the same text becomes other tokens, and no weights carry over. Another
architecture is a new minor version: the weights have other shapes or another meaning. All else is a patch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pipeline.errors import FoundryError
from pipeline.spec.difference import Difference

Part = Literal["major", "minor", "patch"]
_FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)
_MAKE_VOCABULARY = {"corpus", "tokenizer"}  # stages: a tokenizer is learned from the corpus
# Settings in `model` that are gone once a model is trained: how weights began, and what training did beside them.
_ONLY_TRAINING = ("model.dropout", "model.attention_dropout", "model.init_std", "model.zero_init")


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A semantic version; versions compare as their numbers do."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.2.3`.

        Raises:
            FoundryError: it is not three whole numbers with points between them.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise FoundryError(f"{text!r} is not a version", hint="a version is three whole numbers, such as 1.2.0")
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def next(self, part: Part) -> Version:
        """The next version that differs in a part; the parts after it begin at 0."""
        after = {
            "major": Version(self.major + 1, 0, 0),
            "minor": Version(self.major, self.minor + 1, 0),
            "patch": Version(self.major, self.minor, self.patch + 1),
        }
        return after[part]


FIRST = Version(1, 0, 0)


@dataclass(frozen=True, slots=True)
class Bump:
    """Which part of a version goes up, and why.

    Attributes:
        part: the part.
        reasons: the settings that make it so; none where no setting differs.
    """

    part: Part
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        why = {"major": "another vocabulary", "minor": "another architecture", "patch": "the same model, trained anew"}
        return f"{self.part}, {why[self.part]}" + (f" ({', '.join(self.reasons)})" if self.reasons else "")


def bump_between(found: Sequence[Difference], *, other_vocabulary: bool | None = None) -> Bump:
    """Which part of the version goes up from one model to another.

    Args:
        found: how their specs differ, from `pipeline.spec.difference`.
        other_vocabulary: whether their tokens or classes differ, where both are at hand: it settles what the settings
            of the corpus only suggest. None: the settings decide.
    """
    shaping = [each for each in found if each.effect == "result"]
    of_vocabulary = tuple(each.path for each in shaping if _MAKE_VOCABULARY.intersection(each.stages))
    if other_vocabulary or (other_vocabulary is None and of_vocabulary):
        return Bump("major", of_vocabulary)
    of_architecture = tuple(each.path for each in shaping if _is_architecture(each.path))
    if of_architecture:
        return Bump("minor", of_architecture)
    return Bump("patch", tuple(each.path for each in shaping))


def _is_architecture(path: str) -> bool:
    return path == "task.task_type" or (path.startswith("model.") and path not in _ONLY_TRAINING)
