"""Several processes at one registry."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import model_folder

from pipeline.records.registry import ModelRegistry

pytestmark = pytest.mark.e2e
PROMOTER = Path(__file__).with_name("promoter.py")


def promoters(versions: list[str], times: int) -> list[subprocess.Popen[str]]:
    """Processes that have opened the registry and begin at once when they are told to."""
    started = [
        subprocess.Popen(
            [sys.executable, PROMOTER, f"tiny@{version}", str(times)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in versions
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


def check_the_trail(registry: ModelRegistry) -> None:
    """The trail tells of one holder at a time, and of the one that holds the tag now."""
    holders: set[str] = set()
    for event in registry.get_history("tiny"):
        if event["action"] == "demoted":
            holders.remove(event["version"])
        if event["action"] == "promoted":
            assert holders == set()
            holders.add(event["version"])
    assert [model.version for model in registry.list_models(tag="production")] == [*holders]


def test_promotions_by_many_processes_leave_exactly_one_holder(registry: ModelRegistry, made: Path) -> None:
    versions = [registry.register_model(made / name).version for name in ("first", "again", "deeper", "words")]

    running = promoters(versions, 10)
    done = [process.communicate() for process in running]

    assert [process.returncode for process in running] == [0] * 4, done
    assert len(registry.list_models(tag="production")) == 1
    check_the_trail(registry)


def test_processes_killed_while_they_promote_leave_exactly_one_holder(registry: ModelRegistry, made: Path) -> None:
    versions = [registry.register_model(made / name).version for name in ("first", "again", "deeper", "words")]
    running = promoters(versions, 10_000)

    for process in running:
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert len(registry.list_models(tag="production")) == 1
    assert len(registry.get_history()) > len(versions) + 1
    check_the_trail(registry)


@pytest.mark.slow
def test_models_registered_by_many_processes_get_versions_of_their_own(registry: ModelRegistry, tmp_path: Path) -> None:
    folders = [model_folder(tmp_path / f"model{seed}", seed=seed) for seed in range(8)]
    register = [sys.executable, "-m", "pipeline", "models", "register"]

    running = [subprocess.Popen([*register, folder], stderr=subprocess.PIPE, text=True) for folder in folders]

    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 8
    assert sorted(model.version for model in registry.list_models()) == [f"1.0.{patch}" for patch in range(8)]
    assert [registry.verify(model.model_id) for model in registry.list_models()] == [[]] * 8
