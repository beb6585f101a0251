"""The zip of a bundle. Every field is fixed and nothing is compressed, so that equal members give equal bytes.

    local header, bytes of member 1
    local header, bytes of member 2
    …
    the list of members: a central header each
    the end record

A reader of zips in general forgives much, and two of them may see different files in one archive. This one knows how
the members would have been written and takes nothing else: no gap, no overlap, no comment, no extra field, no link, no
compression, which leaves nothing to expand.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Self

from pipeline.closing import Closing

from .errors import BundleError

MAX_MEMBERS = 20_000  # a folder of pictures has thousands; the format could say 65,535
MAX_BYTES = 2**32 - 1  # of the archive: what a zip can say without its 64-bit extension
MAX_DOCUMENT = 1 << 28  # bytes of a member that is held in memory
_LONGEST_NAME = 240  # bytes; a path of a system with 260 leaves room for little more
_CHUNK = 1 << 20

# APPNOTE.TXT of PKWARE, sections 4.3.7, 4.3.12 and 4.3.16.
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END = struct.Struct("<4sHHHHLLH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_NEEDED = 20  # version 2.0 of the format
_MADE_BY = 3 << 8 | _NEEDED  # on Unix: the upper half of the attributes is the mode of the file
_ENCRYPTED, _UTF8 = 1, 1 << 11
_TIME, _DATE = 0, 1 << 5 | 1  # midnight of 1 January 1980, the first that a zip can say
_MODE = stat.S_IFREG | 0o644


@dataclass(frozen=True)
class Entry:
    """A member of an archive.

    Attributes:
        name: its path, with `/` between folders.
        crc: of its bytes.
        size: in bytes.
        offset: where its local header begins.
    """

    name: str
    crc: int
    size: int
    offset: int

    @property
    def begin(self) -> int:
        """Where its bytes begin."""
        return self.offset + _LOCAL.size + len(self.name.encode())

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.begin + self.size

    def local(self) -> bytes:
        """Its local header."""
        name = self.name.encode()
        fixed = (_LOCAL_MARK, _NEEDED, self._flags, 0, _TIME, _DATE, self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(*fixed) + name

    def central(self) -> bytes:
        """Its central header."""
        name = self.name.encode()
        fixed = (_CENTRAL_MARK, _MADE_BY, _NEEDED, self._flags, 0, _TIME, _DATE, self.crc, self.size, self.size)
        return _CENTRAL.pack(*fixed, len(name), 0, 0, 0, 0, _MODE << 16, self.offset) + name

    @property
    def _flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8


# Writing


def write_archive(target: BinaryIO, members: Mapping[str, bytes | Path]) -> None:
    """Write members in the order given.

    Args:
        target: an empty file.
        members: name → its bytes, or the file that holds them.

    Raises:
        BundleError: a name cannot stand in a bundle, or the members are too many or too large.
    """
    require_names([*members])
    entries: list[Entry] = []
    offset = 0
    for name, source in members.items():
        crc = size = 0
        for chunk in _chunks_of(source):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        entry = Entry(name, crc, size, offset)
        offset = entry.end
        if offset > MAX_BYTES:
            raise _too_large(offset)
        target.write(entry.local())
        for chunk in _chunks_of(source):
            target.write(chunk)
        if target.tell() != offset:
            raise BundleError("the file changed while it was packed", where=str(source), hint="run the command again")
        entries.append(entry)
    listed = b"".join(entry.central() for entry in entries)
    if offset + len(listed) + _END.size > MAX_BYTES:
        raise _too_large(offset + len(listed))
    target.write(listed + _end(len(entries), len(listed), offset))


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(_END_MARK, 0, 0, count, count, size, offset, 0)


def _chunks_of(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _too_large(size: int) -> BundleError:
    hint = "leave out --data or --weights"
    return BundleError(f"the bundle would have {size:,} bytes, more than {MAX_BYTES:,}", hint=hint)


# Names

_RESERVED = r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?"  # devices of Windows, whatever follows the point
# What a name must not be, as a pattern, and what that is called.
_FLAWS: Sequence[tuple[str, str]] = (
    (r"[\x00-\x1f\x7f]", "holds a control character"),
    (r"\\", "holds a backslash"),
    (r"^/", "is an absolute path"),
    (r":", "holds a colon, as names of drives do"),
    (r"(^|/)\.\.?(/|$)", "leads out of its folder"),
    (r"(^$|//|/$)", "has an empty part"),
    (r"[ .](/|$)", "has a part that ends in a point or a space"),
    (rf"(?i)(^|/){_RESERVED}(/|$)", "has a part that is a device elsewhere"),
)


def require_names(names: Sequence[str]) -> None:
    """Insist that names can stand in a bundle: each is a path below a folder on every system, and no two are one file.

    Raises:
        BundleError: one cannot, or there are too many.
    """
    if len(names) > MAX_MEMBERS:
        raise BundleError(f"the bundle has {len(names):,} members, more than {MAX_MEMBERS:,}", hint="leave out --data")
    places: dict[str, str] = {}
    for name in names:
        if flaw := _flaw_of(name):
            raise BundleError(f"the name of a member {flaw}", where=ascii(name), hint="rename the file")
        if (other := places.setdefault(_place(name), name)) is not name:
            raise BundleError("two members would be one file on some systems", where=f"{other!a} and {name!a}")
    for name in names:
        for folder in PurePosixPath(name).parents:
            if (file := places.get(_place(str(folder)))) is not None:
                raise BundleError("a member would be a file and a folder", where=f"{file!a} and {name!a}")


def _flaw_of(name: str) -> str:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if size > _LONGEST_NAME:
        return f"has more than {_LONGEST_NAME} bytes"
    return next((words for pattern, words in _FLAWS if re.search(pattern, name)), "")


def _place(name: str) -> str:
    """What systems that see no difference between cases or between forms of a character make of a name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


# Reading


class Archive(Closing):
    """An archive that is laid out exactly as `write_archive` lays one out. The bytes of members are not yet checked.

    Args:
        path: the file.

    Raises:
        BundleError: it is missing, or is laid out in any other way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # opening a pipe would wait for a writer
            raise BundleError("there is no such file", where=str(path), hint="`foundry bundle pack` makes one")
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise self._refused(f"it cannot be opened: {error.strerror}") from error
        try:
            self.entries = {entry.name: entry for entry in self._read_entries()}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a member, a part at a time.

        Raises:
            BundleError: they do not have the CRC that the archive lists; after the last part.
        """
        entry = self.entries[name]
        position, crc = entry.begin, 0
        while position < entry.end:
            self._file.seek(position)
            chunk = self._file.read(min(_CHUNK, entry.end - position))
            if not chunk:
                raise self._refused("the file became shorter while it was read")
            position, crc = position + len(chunk), zlib.crc32(chunk, crc)
            yield chunk
        if crc != entry.crc:
            raise self._refused(f"the bytes of {name!a} are damaged: the CRC differs")

    def read(self, name: str) -> bytes:
        """The bytes of a member that is a document.

        Raises:
            BundleError: they are damaged, or more than `MAX_DOCUMENT`.
        """
        if self.entries[name].size > MAX_DOCUMENT:
            raise self._refused(f"{name!a} has more than {MAX_DOCUMENT:,} bytes")
        return b"".join(self.chunks(name))

    def _read_entries(self) -> list[Entry]:
        count, begin, listed = self._read_end(os.fstat(self._file.fileno()).st_size)
        entries: list[Entry] = []
        position = 0
        for _ in range(count):
            found = _Central.read(listed, position)
            if found is None:
                raise self._refused("its list of members is damaged")
            expected = entries[-1].end if entries else 0
            for wrong, words in _WRONG:
                if wrong(found, expected):
                    raise self._refused(f"the member {found.name!a} {words}")
            entry = Entry(found.name, found.crc, found.size, found.offset)
            if listed[position : position + len(entry.central())] != entry.central():
                raise self._refused(f"the entry of {found.name!a} has fields that no bundle has")
            if self._at(entry.offset, len(entry.local())) != entry.local():
                raise self._refused(f"the two headers of {found.name!a} differ")
            position += len(entry.central())
            entries.append(entry)
        if position != len(listed) or (entries[-1].end if entries else 0) != begin:
            raise self._refused("there are bytes in it that belong to no member")
        try:
            require_names([entry.name for entry in entries])
        except BundleError as error:
            raise self._refused(f"{error.message}: {error.where}") from error
        return entries

    def _read_end(self, size: int) -> tuple[int, int, bytes]:
        """How many members there are, where their list begins, and its bytes."""
        raw = self._at(size - _END.size, _END.size) if size >= _END.size else b""
        if raw[:4] != _END_MARK:
            raise self._refused(
                "it does not end as a bundle does: it was cut off, something was added, or it is no zip"
            )
        _, _, _, _, count, listed, begin, _ = _END.unpack(raw)
        if raw != _end(count, listed, begin):
            raise self._refused("it has a comment, or is one part of several")
        if count > MAX_MEMBERS:
            raise self._refused(f"it has {count:,} members, more than {MAX_MEMBERS:,}")
        if begin + listed + _END.size != size:
            raise self._refused("its list of members is not where the end of it says: something was added or cut out")
        if listed > count * (_CENTRAL.size + _LONGEST_NAME):
            raise self._refused("its list of members is longer than that many members can make it")
        return count, begin, self._at(begin, listed)

    def _at(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        return self._file.read(size)

    def _refused(self, reason: str) -> BundleError:
        hint = "get the bundle again from where it was packed; unpack nothing of this one by other means"
        return BundleError(f"this is no bundle, or it was changed: {reason}", where=str(self.path), hint=hint)


class _Central(NamedTuple):
    """What matters in a central header as it stands in a file."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int

    @classmethod
    def read(cls, listed: bytes, position: int) -> Self | None:
        """The header at a position; None where there is none that is whole."""
        if len(listed) < position + _CENTRAL.size:
            return None
        mark, _, _, flags, method, _, _, crc, packed, size, length, _, _, _, _, attributes, offset = (
            _CENTRAL.unpack_from(listed, position)
        )
        name = listed[position + _CENTRAL.size :][:length]
        if mark != _CENTRAL_MARK or len(name) < length:
            return None
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        return cls(text, flags, method, crc, packed, size, attributes >> 16, offset)


# What a member must not be, given where the one before it ends, and the words for it.
_WRONG: Sequence[tuple[Callable[[_Central, int], bool], str]] = (
    (lambda found, _: bool(found.flags & _ENCRYPTED), "is encrypted"),
    (lambda found, _: found.method != 0, "is compressed, which nothing in a bundle is"),
    (lambda found, _: found.packed != found.size, "has two sizes"),
    (lambda found, _: stat.S_ISLNK(found.mode), "is a link"),
    (lambda found, _: found.mode != _MODE, "is not a plain file"),
    (lambda found, end: found.offset != end, "does not begin where the one before it ends"),
)
