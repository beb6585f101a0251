"""The environment of a run: which packages differ here, and an environment in which none does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from .errors import BundleError

_DISTRIBUTION = "model-foundry"
_NOT_RUN = {"dev"}  # extras that no stage imports


def differing(packages: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The packages that the toolkit uses here and whose version was another: name → (there, here).

    A package that only one of the two has does not count: what the toolkit cannot do without it says itself.

    Args:
        packages: name → version, of the environment that a bundle was made in.
    """
    there = {canonicalize_name(name): version for name, version in packages.items()}
    return {
        name: (there[name], version)
        for name, version in sorted(_used())
        if name in there and _public(there[name]) != _public(version)
    }


def build(folder: Path, project: Path, packages: Mapping[str, str]) -> Path:
    """Make a virtual environment with the toolkit of a project and the packages of a bundle.

    Only what the toolkit itself asks for is installed; the bundle says nothing but which version. So no package comes
    from a bundle.

    Args:
        folder: the environment, which must not exist.
        project: the toolkit's checkout.
        packages: name → version.

    Returns:
        Its Python.

    Raises:
        BundleError: it cannot be made, or a version cannot be had.
    """
    names = {canonicalize_name(name) for name in packages}
    lines = [f"{name}=={_public(version)}\n" for name, version in packages.items() if name != _DISTRIBUTION]
    extras = ",".join(sorted(extra for extra, needed in _extras().items() if needed <= names))
    _run([sys.executable, "-m", "venv", str(folder)])
    python, pins = folder / "bin" / "python", folder / "packages.txt"
    pins.write_text("".join(sorted(lines)), encoding="utf-8")
    quiet = ("-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input", "--prefer-binary")
    _run([str(python), *quiet, "-c", str(pins), "-e", f"{project.resolve()}[{extras}]"])
    return python


def _used() -> Iterator[tuple[NormalizedName, str]]:
    """Name and version of every package that the toolkit needs here, directly or not."""
    left, seen = [_DISTRIBUTION], {canonicalize_name(_DISTRIBUTION)}
    while left:
        for needed in _needs(left.pop()):
            name = canonicalize_name(needed.name)
            if name in seen:
                continue
            seen.add(name)
            try:
                yield name, distribution(name).version
            except PackageNotFoundError:
                continue
            left.append(name)


def _needs(name: str) -> list[Requirement]:
    extras = _extras() if name == _DISTRIBUTION else {}
    every = [Requirement(line) for line in requires(name) or []]
    return [
        each
        for each in every
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def _extras() -> dict[str, set[str]]:
    """Extra of the toolkit → the packages that it asks for."""
    found: dict[str, set[str]] = {}
    for line in requires(_DISTRIBUTION) or []:
        each = Requirement(line)
        if said := re.search(r"extra == ['\"]([\w-]+)['\"]", str(each.marker)):
            found.setdefault(said[1], set()).add(canonicalize_name(each.name))
    return {extra: needed for extra, needed in found.items() if extra not in _NOT_RUN}


def _public(version: str) -> str:
    """A version without what was added where it was built: `2.13.0+cpu` is `2.13.0`."""
    return version.partition("+")[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")]
        hint = "replay with the packages that are installed here: --here"
        raise BundleError(f"the environment cannot be built: {(said or ['pip failed'])[-1]}", hint=hint)
