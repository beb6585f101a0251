"""Why a run starts afresh although there are checkpoints: what differs from the earlier run of the same experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import read_artefact
from pipeline.spec import Spec
from pipeline.spec.difference import IMPOSSIBLE, Difference, classify, differences_of, shown
from pipeline.training.run_folder import STATE
from pipeline.training.warm_start import Start

_MOST = 3  # differences that a line has room for


def why_afresh(spec: Spec, run_folder: Path, start: Start | None) -> str:
    """One line about the newest run of this experiment that has checkpoints under another fingerprint.

    Args:
        spec: the experiment.
        run_folder: the folder of the run that is about to start; the others stand beside it.
        start: what that run begins with, unless it is random weights.

    Returns:
        What keeps the present run from going on with that one; empty when there is none.
    """
    states = sorted(run_folder.parent.glob(f"*/checkpoint-*/{STATE}"), key=lambda path: path.stat().st_mtime)
    for path in reversed(states):
        state = {} if path.parent.parent == run_folder else _read(path)
        settings = state.get("spec", {})
        if settings.get("name") == spec.name:
            reason = _reason(differences_of(settings, spec.to_dict(), kind=spec.kind), state.get("start"), start)
            return f"starting afresh: {reason}; the earlier run stays under {path.parent.parent}"
    return ""


def _read(path: Path) -> dict[str, Any]:
    """The state of a checkpoint; empty when it is damaged."""
    try:
        state: dict[str, Any] = read_artefact(path, "checkpoint_state")
    except ArtifactError:
        return {}  # nothing goes on from it, so there is nothing to explain either
    return state


def _reason(found: list[Difference], before: Mapping[str, str] | None, now: Start | None) -> str:
    change = classify(found)
    if not change.paths:
        if before is not None and now is not None and before["sha256"] != now.sha256:
            return f"the weights in {now.path} are not those that the earlier run began with"
        return "the code or the data is not that of the earlier run"
    changed = {each.path: f"{each.path} {shown(each.old)} → {shown(each.new)}" for each in found}
    named = [changed[path] for path in change.paths]
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    one = len(named) == 1
    if change.verdict == IMPOSSIBLE:
        effect = "makes" if one else "make"
        effect += " another vocabulary or architecture"
    else:
        effect = "changes the result" if one else "change the result"
    return f"{', '.join(named[:_MOST])}{more} {effect}"
