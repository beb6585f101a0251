"""The proof of exact resume can fail: a sample of what `negative_controls.py` loses is found, by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from forgetful import DEFECTS, OVERWRITTEN, TIMES
from negative_controls import certificate_of, project, proof_with, unequal

from pipeline.artefacts import check_artefact
from pipeline.commands.proof import Ended
from pipeline.spec import Spec, load_spec
from pipeline.training.progress import Progress

Straight = tuple[Spec, Path, Ended]
SAMPLE = ("random state: torch", "a schedule that begins anew")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A tiny experiment, its project, and its run when left alone."""
    folder = tmp_path_factory.mktemp("controls").resolve()
    spec = load_spec(project(folder / "project"))
    return spec, folder / "project", proof_with(None, spec, folder / "project").leave_alone(folder / "straight")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "item", [pytest.param(item, marks=[] if item in SAMPLE else pytest.mark.slow) for item in DEFECTS]
)
def test_what_is_lost_at_restore_is_found_by_name(straight: Straight, tmp_path: Path, item: str) -> None:
    spec, folder, ended = straight

    certificate = certificate_of(item, spec, folder, ended, tmp_path / "killed")

    check_artefact("resume_certificate", certificate, "certificate")
    assert not certificate["equal"]
    assert DEFECTS[item].shows in unequal(certificate)
    if item == "a schedule that begins anew":  # it shows at once
        assert certificate["first_difference"]["step"] == certificate["resumed_after_steps"][0] + 1
        assert certificate["first_difference"]["resumed_after"] == certificate["resumed_after_steps"][0]
        assert "learning_rate" in certificate["first_difference"]["figures"]


@pytest.mark.unit
def test_every_field_of_the_progress_is_lost_once_or_has_nothing_to_lose() -> None:
    lost = {item.removeprefix("progress: ") for item in DEFECTS if item.startswith("progress: ")}

    assert lost | {*OVERWRITTEN, *TIMES} == {field.name for field in fields(Progress)}
    assert lost.isdisjoint((*OVERWRITTEN, *TIMES))
