"""What a run was executed with is written down without naming anyone, and compared by what it may change."""

from __future__ import annotations

import getpass
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artefacts import check_artefact
from pipeline.records import environment as environment_module
from pipeline.records.environment import environment, processor, requirements, snapshot, snapshot_of_record
from pipeline.records.environment_differences import differing

pytestmark = pytest.mark.unit

ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes bf16 i8mm sve
CPU part\t: 0xd40

processor\t: 1
Features\t: nothing
"""


def known(**changes: Any) -> dict[str, Any]:
    """An environment of which everything is known."""
    found = {
        "format_version": 1,
        "toolkit_version": "0.1.0",
        "python": "3.11.2",
        "platform": "Linux x86_64",
        "processors": 2,
        "processor": {"model": "one", "features": ["avx2", "fma"]},
        "packages": {"torch": "2.13.0+cpu", "rich": "14.0", "PyYAML": "6.0"},
        "git": {"commit": "c" * 40, "dirty": False},
        "execution": {"num_threads": 2, "torch": "2.13.0+cpu"},
    }
    check_artefact("environment", found | changes, "it")
    return found | changes


def found(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any, bool]]:
    return {each.name: (each.first, each.second, each.may_change_weights) for each in differing(first, second)}


def test_the_environment_is_what_its_schema_says_and_names_no_one(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hidden-value")

    taken = snapshot(tmp_path, None)

    check_artefact("environment", taken, "it")
    assert taken["python"] == platform.python_version()
    assert {"torch", "numpy"} <= taken["packages"].keys()
    assert taken["git"] is None
    text = str({**taken, "packages": None})
    assert not [name for name in ("hidden-value", platform.node(), getpass.getuser(), str(Path.home())) if name in text]


def test_a_processor_of_another_kind_is_described_too(monkeypatch, tmp_path):
    monkeypatch.setattr(environment_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(sys, "platform", "linux")

    assert processor() == {"model": "", "features": []}
    (tmp_path / "cpuinfo").write_text(ARM)
    assert processor() == {"model": "", "features": ["asimd", "bf16", "i8mm", "sve"]}


def test_a_record_of_an_earlier_version_leaves_open_what_it_does_not_say():
    record = {"environment": None, "git_commit": None, "git_dirty": None, "toolkit_version": None}

    taken = snapshot_of_record(record)

    check_artefact("environment", taken, "it")
    assert found(taken, known()) == {}


def test_equal_environments_do_not_differ():
    assert found(known(), known()) == {}


@pytest.mark.parametrize(
    ("changes", "name", "may_change"),
    [
        ({"execution": {"num_threads": 4, "torch": "2.13.0+cpu"}}, "execution.num_threads", True),
        ({"packages": known()["packages"] | {"torch": "2.12.0"}}, "packages.torch", True),
        ({"packages": known()["packages"] | {"rich": "15.0"}}, "packages.rich", False),
        ({"packages": known()["packages"] | {"nvidia-cublas-cu12": "12"}}, "packages.nvidia-cublas-cu12", True),
        ({"git": {"commit": "d" * 40, "dirty": False}}, "git.commit", True),
        ({"git": {"commit": "c" * 40, "dirty": True}}, "git.dirty", True),
        ({"python": "3.12.0"}, "python", True),
        ({"processors": 64}, "processors", False),
    ],
)
def test_a_difference_is_judged_by_whether_it_may_change_the_weights(changes, name, may_change):
    ((only, (_, _, judged)),) = found(known(), known(**changes)).items()

    assert (only, judged) == (name, may_change)


def test_of_lists_only_what_the_other_lacks_is_shown():
    other = known(processor={"model": "one", "features": ["avx512f", "fma"]})

    assert found(known(), other) == {"processor.features": (["avx2"], ["avx512f"], True)}


def test_a_package_that_only_one_has_counts_and_spelling_does_not():
    other = known(packages={"torch": "2.13.0+cpu", "pyyaml": "6.0"})

    assert found(known(), other) == {"packages.rich": ("14.0", None, False)}


def test_the_reason_names_what_to_set():
    (each,) = differing(known(), known(execution={"num_threads": 4, "torch": "2.13.0+cpu"}))

    assert each.reason == "set hardware.num_threads to 2"


def test_requirements_name_what_the_index_knows():
    lines = requirements({"torch": "2.13.0+cpu", "PyYAML": "6.0", "model-foundry": "0.1.0"})

    assert lines == "PyYAML==6.0\ntorch==2.13.0\n"


def test_pip_understands_the_requirements_of_this_environment(tmp_path):
    (tmp_path / "requirements.txt").write_text(requirements(environment()["packages"]))

    # Everything is there already, so nothing is asked of the index.
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-q", "-r"]
    done = subprocess.run([*pip, tmp_path / "requirements.txt"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
