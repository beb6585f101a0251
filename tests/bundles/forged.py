"""Bundles that are wrong in one way each, made from a sound one."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from pipeline.bundles.archive import Entry
from pipeline.bundles.content import INDEX
from pipeline.files import json_text, sha256_bytes

Members = dict[str, bytes]
_END = 22  # bytes of the end record


def members_of(raw: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def plain(name: str) -> zipfile.ZipInfo:
    """How a member stands in a bundle, in the words of Python's own writer."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def zipped(members: Members, *, archive_comment: bytes = b"", **changed: Any) -> bytes:
    """An archive of members.

    Args:
        members: name → bytes.
        archive_comment: of the whole.
        changed: attributes of the last member's ZipInfo.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number, (name, data) in enumerate(members.items(), start=1):
            info = plain(name)
            if number == len(members):
                for key, value in changed.items():
                    setattr(info, key, value)
            archive.writestr(info, data)
        archive.comment = archive_comment
    return target.getvalue()


def indexed(members: Members, **changes: Any) -> Members:
    """The same members with an index that lists them all, and says something else."""
    index = json.loads(members[INDEX])
    others = {name: data for name, data in members.items() if name != INDEX}
    index["files"] = {name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in others.items()}
    return {INDEX: json_text({**index, **changes}).encode(), **others}


def with_member(name: str, data: bytes = b"x", **changed: Any) -> Callable[[bytes], bytes]:
    """A member more, which the index lists."""
    return lambda raw: zipped(indexed({**members_of(raw), name: data}), **changed)


def with_members(*names: str) -> Callable[[bytes], bytes]:
    return lambda raw: zipped(indexed({**members_of(raw), **dict.fromkeys(names, b"x")}))


def with_index(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda raw: zipped(indexed(members_of(raw), **changes))


def with_code(**changes: str) -> Callable[[bytes], bytes]:
    def forge(raw: bytes) -> bytes:
        members = members_of(raw)
        return zipped(indexed(members, code={**json.loads(members[INDEX])["code"], **changes}))

    return forge


def with_packages(packages: dict[str, str]) -> Callable[[bytes], bytes]:
    def forge(raw: bytes) -> bytes:
        members = members_of(raw)
        environment = {**json.loads(members[INDEX])["environment"], "packages": packages}
        return zipped(indexed(members, environment=environment))

    return forge


def with_raw_index(text: str) -> Callable[[bytes], bytes]:
    return lambda raw: zipped({**members_of(raw), INDEX: text.encode()})


def renamed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """The name of the last member, changed in both headers to what no writer would write."""
    assert len(old) == len(new)

    def forge(raw: bytes) -> bytes:
        made = zipped(indexed({**members_of(raw), f"reports/{old.decode()}": b"x"}))
        return made.replace(b"reports/" + old, b"reports/" + new)

    return forge


def entries_of(raw: bytes) -> tuple[list[Entry], bytes]:
    """The members as they are listed, and all that stands before the list."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        found = [Entry(each.filename, each.CRC, each.file_size, each.header_offset) for each in archive.infolist()]
        return found, raw[: archive.start_dir]


def listed(before: bytes, headers: list[bytes]) -> bytes:
    """An archive from what stands before the list, and the headers of the list."""
    size = sum(map(len, headers))
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, len(headers), len(headers), size, len(before), 0)
    return before + b"".join(headers) + end


def listed_twice(raw: bytes) -> bytes:
    entries, before = entries_of(raw)
    return listed(before, [entry.central() for entry in [*entries, entries[-1]]])


def overlapping(raw: bytes) -> bytes:
    """Two members whose bytes are the same bytes: what makes a small archive unpack to a large folder."""
    entries, before = entries_of(raw)
    last = entries[-1]
    inside = Entry("reports/z.json", last.crc, last.size, last.offset)
    return listed(before, [entry.central() for entry in [*entries, inside]])


def with_a_gap(raw: bytes) -> bytes:
    entries, before = entries_of(raw)
    last = entries[-1]
    moved = Entry(last.name, last.crc, last.size, last.offset + 7)
    hidden = before[: last.offset] + b"hidden!" + before[last.offset :]
    return listed(hidden, [entry.central() for entry in [*entries[:-1], moved]])


def prepended(raw: bytes) -> bytes:
    """A program before the archive, to which every offset is moved: readers that start at the end see no difference."""
    entries, before = entries_of(raw)
    program = b"#!/bin/sh\nexit\n"
    moved = [Entry(each.name, each.crc, each.size, each.offset + len(program)) for each in entries]
    return listed(program + before, [entry.central() for entry in moved])


def other_name_inside(raw: bytes) -> bytes:
    """The local header of the last member has another name than the list."""
    entries, before = entries_of(raw)
    at = entries[-1].offset + 30
    return listed(before[:at] + b"X" + before[at + 1 :], [entry.central() for entry in entries])


def huge(raw: bytes) -> bytes:
    """A member that says that it has almost 4 GB."""
    entries, before = entries_of(raw)
    last = Entry(entries[-1].name, entries[-1].crc, 2**32 - 2, entries[-1].offset)
    return listed(before, [entry.central() for entry in [*entries[:-1], last]])


def many(raw: bytes) -> bytes:
    entries, before = entries_of(raw)
    return listed(before, [entries[0].central()] * 30_000)


def encrypted(raw: bytes) -> bytes:
    """The flag that says so, in both headers of the last member."""
    entries, before = entries_of(raw)
    at = entries[-1].offset + 6
    header = bytearray(entries[-1].central())
    header[8] |= 1
    flagged = before[:at] + bytes([before[at] | 1]) + before[at + 1 :]
    return listed(flagged, [*(entry.central() for entry in entries[:-1]), bytes(header)])


def nested(raw: bytes) -> bytes:
    """An archive inside the comment of another: which of the two is read depends on the reader."""
    return zipped(members_of(raw), archive_comment=zipped({"evil.txt": b"x"}))


def flipped(raw: bytes) -> bytes:
    """One bit in the middle of the weights."""
    entries, _ = entries_of(raw)
    weights = next(entry for entry in entries if entry.name == "artifacts/model/model.safetensors")
    damaged = bytearray(raw)
    damaged[weights.begin + weights.size // 2] ^= 1
    return bytes(damaged)


def exchanged(raw: bytes) -> bytes:
    """Other bytes in a member, with the right CRC, which the index does not know."""
    members = members_of(raw)
    name = next(reversed(members))
    return zipped({**members, name: members[name][::-1]})


def unlisted(raw: bytes) -> bytes:
    return zipped({**members_of(raw), "reports/zz.json": b"{}"})


def incomplete(raw: bytes) -> bytes:
    return zipped(dict([*members_of(raw).items()][:-1]))


def index_last(raw: bytes) -> bytes:
    members = members_of(raw)
    index = members.pop(INDEX)
    return zipped({**members, INDEX: index})


def other_weights(raw: bytes) -> bytes:
    """Weights that are not those that the manifest of the model lists."""
    members = members_of(raw)
    name = "artifacts/model/model.safetensors"
    return zipped(indexed({**members, name: members[name][::-1]}))


def other_spec(raw: bytes) -> bytes:
    """A spec that trains something else than the index says."""
    members = members_of(raw)
    spec = json.loads(members["spec.json"])
    spec["training"]["learning_rate"] = 0.5
    return zipped(indexed({**members, "spec.json": json.dumps(spec).encode()}))


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda raw: zipped(indexed({key: value for key, value in members_of(raw).items() if key != name}))
