"""Sweeps whose trials are ended by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENT, document

from pipeline.sweeps.place import Place
from pipeline.sweeps.study import Sweep


@pytest.fixture
def address(request, tmp_path) -> str:
    """A storage in a file: a journal, or what the test asks for."""
    return getattr(request, "param", "journal://{}/sweeps.log").format(tmp_path)


@pytest.fixture
def opened(tmp_path, address) -> Callable[..., Sweep]:
    """Opens the sweep as a process of its own would."""

    def open_(text: str = DOCUMENT, *, at: Path | None = None, **more: Any) -> Sweep:
        return Sweep(document(text, **more.pop("changed", {})), address, Place(at or tmp_path / "here"), **more)

    return open_
