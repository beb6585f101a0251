"""Training runs for tests, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_bench import Bench


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[..., Bench]:
    """(**changes of the settings) → a run with a folder of its own."""
    made = []

    def make(**changes: Any) -> Bench:
        folder = tmp_path / f"run-{len(made)}"
        folder.mkdir()
        made.append(Bench(folder, **changes))
        return made[-1]

    return make
