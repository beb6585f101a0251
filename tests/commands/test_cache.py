"""Damaged objects in DVC's cache are found by their names."""

from __future__ import annotations

import hashlib
import json

import pytest

from pipeline.commands.repro import damaged_objects, locked_outputs, object_path

pytestmark = pytest.mark.unit


def store(cache, data: bytes, suffix: str = "") -> str:
    name = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
    path = object_path(cache, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


@pytest.fixture
def folder_object(tmp_path) -> tuple[str, list[str]]:
    members = [store(tmp_path, data) for data in (b"one", b"two")]
    listing = json.dumps([{"md5": name, "relpath": name} for name in members]).encode()
    return store(tmp_path, listing, ".dir"), members


def test_sound_objects_are_left_alone(tmp_path, folder_object):
    name, _members = folder_object

    assert list(damaged_objects(tmp_path, [name])) == []


def test_a_damaged_member_is_found(tmp_path, folder_object):
    name, members = folder_object
    damaged = object_path(tmp_path, members[1])
    damaged.write_bytes(b"twp")

    assert list(damaged_objects(tmp_path, [name])) == [damaged]


def test_a_damaged_listing_is_found_and_not_read(tmp_path, folder_object):
    name, _members = folder_object
    listing = object_path(tmp_path, name)
    listing.write_bytes(b"[not json")

    assert list(damaged_objects(tmp_path, [name])) == [listing]


def test_an_object_that_is_not_there_is_not_damaged(tmp_path):
    assert list(damaged_objects(tmp_path, ["0" * 32])) == []


def test_the_outputs_of_a_stage_are_those_that_the_lock_file_records(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "stages:\n  a:\n    outs:\n    - {path: x, md5: aa.dir}\n  b:\n    outs:\n    - {path: y, md5: bb}\n"
    )

    assert locked_outputs(lock, ["a", "c"]) == ["aa.dir"]


@pytest.mark.parametrize("text", ["", "stages: [", "other: 1", "- list"])
def test_a_lock_file_that_cannot_be_read_records_nothing(tmp_path, text):
    lock = tmp_path / "dvc.lock"
    lock.write_text(text)

    assert locked_outputs(lock, ["a"]) == []
