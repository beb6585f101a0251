"""Bundles that someone made to do harm, or that were damaged on their way: each is refused, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forged import (
    encrypted,
    exchanged,
    flipped,
    huge,
    incomplete,
    index_last,
    listed_twice,
    many,
    members_of,
    nested,
    other_name_inside,
    other_spec,
    other_weights,
    overlapping,
    prepended,
    renamed,
    unlisted,
    with_a_gap,
    with_code,
    with_index,
    with_member,
    with_members,
    with_packages,
    with_raw_index,
    without,
    zipped,
)

from pipeline.bundles.content import Bundle
from pipeline.bundles.replay import Plan, replay
from pipeline.errors import FoundryError

pytestmark = pytest.mark.integration
BOMB = bytes(50_000_000)

HOSTILE = {
    # Names
    "escape": (with_member("reports/../../x.json"), "leads out of its folder"),
    "escape-at-the-start": (with_member("../x.json"), "leads out of its folder"),
    "absolute": (with_member("/etc/x.json"), "is an absolute path"),
    "backslash": (renamed(b"a.b.json", b"..\\.json"), "holds a backslash"),
    "drive": (renamed(b"a.b.json", b"C:x.json"), "holds a colon"),
    "nul": (renamed(b"a.b.json", b"a\0b.json"), "holds a control character"),
    "newline": (renamed(b"a.b.json", b"a\nb.json"), "holds a control character"),
    "not-utf-8": (renamed(b"a.b.json", b"a\xff\xfe.json"), "is damaged"),
    "device": (with_member("data/aux.txt"), "is a device elsewhere"),
    "empty-part": (with_member("reports//x.json"), "has an empty part"),
    "folder": (with_member("reports/x/"), "has an empty part"),
    "trailing-point": (with_member("data/x.txt."), "ends in a point or a space"),
    "long": (with_member(f"data/{'x' * 300}.txt"), "longer than that many members|more than 240 bytes"),
    # Several members that are one file
    "duplicate": (listed_twice, "does not begin where the one before it ends"),
    "duplicate-by-case": (with_members("data/Text.txt", "data/text.txt"), "one file on some systems"),
    "duplicate-by-form": (with_members("data/\u00e9.txt", "data/e\u0301.txt"), "one file on some systems"),
    "duplicate-by-width": (with_members("data/\uff41.txt", "data/a.txt"), "one file on some systems"),
    "file-and-folder": (with_members("data/x.txt", "data/x.txt/y.txt"), "a file and a folder"),
    # Kinds of members
    "link": (with_member("data/x.txt", b"/etc/passwd", external_attr=0o120777 << 16), "is a link"),
    "pipe": (with_member("data/x.txt", external_attr=0o010644 << 16), "is not a plain file"),
    "device-file": (with_member("data/x.txt", external_attr=0o060644 << 16), "is not a plain file"),
    "setuid": (with_member("data/x.txt", external_attr=0o104755 << 16), "is not a plain file"),
    "encrypted": (encrypted, "is encrypted"),
    "unix-extra": (with_member("data/x.txt", extra=b"ux\4\0abcd"), "has fields that no bundle has"),
    "zip64-extra": (with_member("data/x.txt", extra=b"\1\0\x10\0" + b"\0" * 16), "has fields that no bundle has"),
    "other-date": (with_member("data/x.txt", date_time=(2020, 1, 1, 0, 0, 0)), "has fields that no bundle has"),
    "comment-of-a-member": (with_member("data/x.txt", comment=b"hello"), "has fields that no bundle has"),
    # Bombs
    "bomb": (with_member("data/x.txt", BOMB, compress_type=8), "is compressed"),
    "nested-bomb": (
        with_member("data/x.zip", zipped({"x": bytes(1_000_000)}, compress_type=8)),
        "is no member of a bundle",
    ),
    "huge": (huge, "the two headers of .* differ"),
    "many": (many, "30,000 members"),
    "overlapping": (overlapping, "does not begin where the one before it ends"),
    # The archive as a whole
    "prepended": (prepended, "does not begin where the one before it ends"),
    "prepended-plainly": (lambda raw: b"#!/bin/sh\n" + raw, "something was added or cut out"),
    "trailing": (lambda raw: raw + b"more", "does not end as a bundle does"),
    "archive-behind": (lambda raw: raw + zipped({"evil.txt": b"x"}), "something was added or cut out"),
    "nested-in-the-comment": (nested, "something was added or cut out"),
    "comment": (lambda raw: zipped(members_of(raw), archive_comment=b"hello"), "does not end as a bundle does"),
    "gap": (with_a_gap, "does not begin where the one before it ends"),
    "truncated": (lambda raw: raw[:-30], "does not end as a bundle does"),
    "halved": (lambda raw: raw[: len(raw) // 2], "does not end as a bundle does"),
    "empty": (lambda _: b"", "does not end as a bundle does"),
    "no-members": (lambda _: zipped({}), "its first member is not bundle.json"),
    "no-zip": (lambda _: b"spec: {}\n" * 100, "does not end as a bundle does"),
    "two-names": (other_name_inside, "the two headers of .* differ"),
    "crc": (flipped, "the CRC differs"),
    # The index
    "other-bytes": (exchanged, "is not the file that the index lists: the SHA-256 differs"),
    "unlisted": (unlisted, "the index does not list 'reports/zz.json'"),
    "incomplete": (incomplete, "is missing, the index lists it"),
    "index-last": (index_last, "its first member is not bundle.json"),
    "newer": (with_index(format_version=2), "2 is newer than 1"),
    "older": (with_index(format_version=0), "`format_version` must be 1"),
    "files-a-list": (with_raw_index("[]"), "must be a mapping"),
    "index-no-json": (with_raw_index("{"), "not valid JSON"),
    "index-nan": (with_raw_index('{"format_version": NaN}'), "NaN is not a number"),
    "index-deep": (with_raw_index("[" * 100_000), "nests too deeply"),
    "index-key": (with_index(surprise=1), "`surprise` is not a key"),
    "size-a-text": (with_index(environment=[]), "`environment` must be a mapping"),
    # What would be acted upon
    "code": (with_member("pipeline/cli.py"), "is no member of a bundle"),
    "git-hook": (with_member("data/.git/hooks/post-checkout.txt"), "is no member of a bundle"),
    "dvc-stage": (with_member("data/sub/dvc.yaml"), "is no member of a bundle"),
    "python-in-data": (with_member("data/torch/__init__.py"), "is no member of a bundle"),
    "download-of-another-name": (with_member(f"downloads/{'0' * 64}/x.whl"), "is not what was downloaded"),
    "commit-an-option": (with_code(commit="--upload-pack=touch /tmp/x"), "`code.commit`"),
    "folder-above": (with_code(folder="../.."), "`code.folder`"),
    "package-an-address": (with_packages({"torch": "2 @ https://example.org/x.whl"}), "`environment.packages.torch`"),
    "package-an-option": (with_packages({"--index-url": "1"}), "`environment.packages`"),
    # What does not belong together
    "other-weights": (other_weights, "is not the file that the manifest beside it lists"),
    "other-spec": (other_spec, "are not of one run"),
    "no-spec": (without("spec.json"), "it has no spec.json"),
    "no-model": (without("artifacts/model/manifest.json"), "it has no artifacts/model/manifest.json"),
    "report-no-json": (with_member("reports/validation.json", b"{"), "not valid JSON"),
    "report-no-text": (with_member("reports/validation.json", b"\xff"), "is not UTF-8 text"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_with_one_reason_and_nothing_is_written(sound, tmp_path, monkeypatch, name):
    forge, reason = HOSTILE[name]
    path = tmp_path / "hostile.zip"
    path.write_bytes(forge(sound.read_bytes()))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FoundryError, match=reason) as caught, Bundle(path) as bundle:
        replay(bundle, Plan(tmp_path / "into"))

    assert str(path) in caught.value.where
    assert caught.value.hint
    assert [*tmp_path.iterdir()] == [path]


def test_what_is_refused_is_refused_for_its_flaw_alone(sound, tmp_path):
    """A bundle that Python's own writer makes with the same members is the same file, and is read."""
    raw = sound.read_bytes()
    again = tmp_path / "again.zip"
    again.write_bytes(zipped(members_of(raw)))

    assert again.read_bytes() == raw
    with Bundle(again) as bundle:
        assert bundle.names


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "bundle.zip"
    {"missing": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()

    with pytest.raises(FoundryError, match="there is no such file"):
        Bundle(path)


@pytest.mark.e2e
def test_the_command_refuses_with_one_error_and_code_1(sound, tmp_path):
    path = tmp_path / "hostile.zip"
    path.write_bytes(flipped(sound.read_bytes()))

    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "bundle", "verify", str(path)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path}: ")
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr


def test_a_bundle_that_changes_after_it_was_checked_writes_no_false_file(sound, tmp_path):
    path = tmp_path / "bundle.zip"
    path.write_bytes(sound.read_bytes())
    target = tmp_path / "out" / "model.safetensors"

    with Bundle(path) as bundle:
        path.write_bytes(flipped(sound.read_bytes()))
        with pytest.raises(FoundryError, match="the CRC differs"):
            bundle.unpack("artifacts/model/model.safetensors", target)

    assert not target.exists()


def test_a_file_that_is_there_is_never_replaced(sound, tmp_path):
    target = tmp_path / "there"
    target.symlink_to(tmp_path / "elsewhere")

    with Bundle(sound) as bundle, pytest.raises(FoundryError, match="would replace one that is there"):
        bundle.unpack("spec.json", target)

    assert not (tmp_path / "elsewhere").exists()


def test_the_index_says_what_is_in_every_member(sound):
    with Bundle(sound) as bundle:
        index = json.loads(Path(sound).read_bytes()[30 + len("bundle.json") :].split(b"PK\3\4")[0])

        assert index == bundle.index
        assert all(bundle.index["files"][name]["bytes"] == len(bundle.read(name)) for name in bundle.names)
