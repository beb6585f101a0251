"""Each prerequisite, when it is missing, is named with the way to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.commands import prerequisites
from pipeline.errors import FoundryError

pytestmark = pytest.mark.unit


def test_this_environment_has_what_it_needs():
    for check in (prerequisites.python_version, prerequisites.packages, prerequisites.python_for_stages):
        assert check().ok, check()


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))

    finding = prerequisites.python_version()

    assert (finding.ok, finding.detail) == (False, "Python 3.10.13")


def test_missing_and_old_packages_are_named(monkeypatch):
    lines = ["click>=8.1", "click>=999", "no-such-package>=1", "other>=1; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)

    finding = prerequisites.packages()

    assert not finding.ok
    assert "no-such-package is missing" in finding.detail
    assert "needed is >=999" in finding.detail
    assert "other" not in finding.detail


def test_a_folder_that_is_no_project_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    finding = prerequisites.project()

    assert not finding.ok
    assert "dvc.yaml" in finding.detail


def test_a_full_disk_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - the shape of shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(1, 1, 1 << 30))

    finding = prerequisites.disk()

    assert (finding.ok, finding.detail) == (False, "1.0 GB free")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o500)

    finding = prerequisites.output()

    tmp_path.chmod(0o700)
    assert not finding.ok


def test_a_file_in_the_place_of_an_output_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("artifacts").touch()

    finding = prerequisites.output()

    assert not finding.ok
    assert "artifacts" in finding.detail


def test_all_that_is_missing_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FoundryError) as caught:
        prerequisites.require_all()

    assert "dvc.yaml" in str(caught.value)
    assert "specs/experiment.yaml" in str(caught.value)


def test_a_setting_that_dvc_tracks_has_to_stand_in_the_spec(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").mkdir()
    whole = (checkout / "specs" / "experiment.yaml").read_text(encoding="utf-8")
    spec = tmp_path / "specs" / "experiment.yaml"
    shutil.copy(checkout / "dvc.yaml", tmp_path)

    spec.write_text(whole)
    assert prerequisites.spec().ok

    spec.write_text("".join(line for line in whole.splitlines(keepends=True) if "sample_temperature" not in line))
    finding = prerequisites.spec()
    assert not finding.ok
    assert "logging.sample_temperature: 0.7" in finding.hint

    (tmp_path / "dvc.yaml").write_text("stages: [")  # DVC says what is wrong with it
    assert prerequisites.spec().ok
