"""Why a document cannot be carried over."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.spec.diagnose import Problem, SpecError


class MigrationError(SpecError):
    """A document that cannot be carried over; `problems` holds every reason, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(problems)
        one = len(self.problems) == 1
        self.message = self.message.replace("the spec has", "the file cannot be migrated:", 1)
        self.args = (self.message,)
        self.hint = f"settle {'it' if one else f'all {len(self.problems)}'}, then run foundry migrate again"
