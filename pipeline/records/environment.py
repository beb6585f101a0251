"""What a run was executed with: the interpreter, the machine in general terms, the code, and every installed package.

Never variables of the environment, never names of machines, users or folders.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.revision import revision

ENVIRONMENT_FORMAT = 1
_DISTRIBUTION = "model-foundry"
_CPUINFO = Path("/proc/cpuinfo")
# Instructions by which libraries of linear algebra choose their kernels, as Linux calls them.
_FEATURES = ("fma", "avx", "avx2", "f16c", "avx512", "avx_vnni", "amx", "asimd", "sve", "bf16", "i8mm")


def environment() -> dict[str, Any]:
    """Python, operating system, processors and packages: the part that costs no time to find out."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "processor": processor(),
        "packages": {name: version for name, version in sorted(_packages()) if name},
    }


def processor() -> dict[str, Any]:
    """What kind of processor this is: its `model` by its maker's name, and the `features` that matter for arithmetic.

    Where the system does not say, the model is empty and so are the features.
    """
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        return {"model": said, "features": []}
    facts = _first_processor(_CPUINFO.read_text(encoding="utf-8")) if _CPUINFO.exists() else {}
    flags = facts.get("flags", facts.get("Features", "")).split()  # x86; ARM
    features = sorted(flag for flag in flags if flag.startswith(_FEATURES))
    return {"model": facts.get("model name", ""), "features": features}


def _first_processor(text: str) -> dict[str, str]:
    lines = text.partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def snapshot(folder: Path, execution: Mapping[str, Any] | None) -> dict[str, Any]:
    """This environment as an artefact of kind `environment`.

    Args:
        folder: whose state in git counts.
        execution: how training is executed, as reports/training_metrics.json says it; None: not known.
    """
    return _artefact(environment(), toolkit_version=__version__, git=revision(folder), execution=execution)


def snapshot_of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a recorded run as an artefact of kind `environment`; what is not known is None."""
    known = record["environment"] or {}
    git = None if record["git_commit"] is None else {"commit": record["git_commit"], "dirty": bool(record["git_dirty"])}
    return _artefact(
        known, toolkit_version=record["toolkit_version"], git=git, execution=known.get("execution") or None
    )


def snapshot_of_report(training: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What reports/training_metrics.json in a folder says about the environment; what is not known is None."""
    return _artefact(
        {}, toolkit_version=training["toolkit_version"], git=revision(folder), execution=training["execution"]
    )


def _artefact(known: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format_version": ENVIRONMENT_FORMAT,
        **{name: known.get(name) for name in ("python", "platform", "processors", "processor", "packages")},
        **more,
    }


def requirements(packages: Mapping[str, str]) -> str:
    """Packages as a file for `pip install -r`.

    Without Model Foundry itself, which is installed from its checkout, and without what was added to a version where
    it was built (`2.13.0+cpu` is `2.13.0`), which the index does not know.
    """
    lines = [f"{name}=={version.partition('+')[0]}\n" for name, version in packages.items() if name != _DISTRIBUTION]
    return "".join(sorted(lines, key=str.lower))


def _packages() -> set[tuple[str, str]]:
    return {(found.metadata["Name"], found.version) for found in distributions()}
