"""Why a run starts afresh although there are checkpoints: what differs from the earlier run of the same experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import read_artefact
from pipeline.spec import Spec
from pipeline.spec.difference import IMPOSSIBLE, Difference, classify, differences_of, shown

_MOST = 3  # differences that a line has room for


def why_afresh(spec: Spec, run_folder: Path) -> str:
    """One line about the newest run of this experiment that has checkpoints under another fingerprint.

    Args:
        spec: the experiment.
        run_folder: the folder of the run that is about to start; the others stand beside it.

    Returns:
        What keeps the present run from going on with that one; empty when there is none.
    """
    states = sorted(run_folder.parent.glob("*/checkpoint-*/state.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(states):
        if path.parent.parent != run_folder and (settings := _settings(path)).get("name") == spec.name:
            found = differences_of(settings, spec.to_dict(), kind=spec.kind)
            return f"starting afresh: {_reason(found)}; the earlier run stays under {path.parent.parent}"
    return ""


def _settings(state: Path) -> dict[str, Any]:
    """The resolved spec of a checkpoint; empty when it is damaged or of a version that did not keep it."""
    try:
        settings: dict[str, Any] = read_artefact(state, "checkpoint_state").get("spec", {})
    except ArtifactError:
        return {}  # nothing goes on from it, so there is nothing to explain either
    return settings


def _reason(found: list[Difference]) -> str:
    change = classify(found)
    if not change.paths:
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
