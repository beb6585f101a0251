"""What a run was executed with: the interpreter, the machine in general terms, and every installed package."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions
from typing import Any


def environment() -> dict[str, Any]:
    """Python, operating system, processors and packages. No variables of the environment, no names of machines."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": {name: version for name, version in sorted(_packages()) if name},
    }


def _packages() -> set[tuple[str, str]]:
    return {(found.metadata["Name"], found.version) for found in distributions()}
