"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline import paths

# Tiny models gain nothing from threads, and threads that wait by spinning starve the tests beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell starts what stands before `&` deaf to Ctrl-C, and so would be every process that a test sends SIGINT to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds pipeline/, tests/ and dvc.yaml."""
    return paths.SCHEMAS.parent


@pytest.fixture(autouse=True)
def _no_traces_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test behaves the same under `foundry run`, under `dvc repro` and alone."""
    ours = ("FOUNDRY_EXACT", "FOUNDRY_WORK", "FOUNDRY_REGISTRY", "FOUNDRY_RUN", "FOUNDRY_RECORD", "FOUNDRY_PREFIX")
    for name in (*ours, "DVC_STAGE", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
