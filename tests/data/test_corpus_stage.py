"""The corpus stage: real commands on real files, whole outputs or none, exit code 2 with one clear message."""

import hashlib
import json
import random
import subprocess
import sys

import jsonschema
import pytest
import yaml

from pipeline.data.corpus import build_corpus
from pipeline.data.documents import Document
from pipeline.data.sources import Source
from pipeline.errors import CorpusError, ExitCode
from pipeline.files import verify_manifest
from pipeline.paths import SCHEMAS

pytestmark = pytest.mark.integration

SCHEMA = json.loads((SCHEMAS / "v1" / "artefact" / "corpus_report.json").read_text(encoding="utf-8"))
CLEANING = {"strip_markdown": True}


def story(name, paragraphs=12):
    lines = (
        f"In {name}, part {number}, a tale was told that nobody else had ever heard before."
        for number in range(paragraphs)
    )
    return "\n\n".join(lines)


def prose(seed):
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefgh", k=6)) for _ in range(50))


def source(*texts):
    documents = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    return Source(documents, {"here": "0" * 64}, bytes=sum(len(text.encode()) for text in texts))


@pytest.fixture
def project(tmp_path):
    """A project with thirty short stories and a spec for them."""
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number:02}.md").write_text(f"# Story {number}\n\n{story(number)}\n", encoding="utf-8")
    write_spec(tmp_path)
    return tmp_path


def write_spec(folder, **dataset):
    dataset = {"source": {"kind": "files", "paths": ["texts"]}, "cleaning": CLEANING, "test_split": 0.1} | dataset
    spec = {"schema_version": 1, "name": "stories", "dataset": {**dataset}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")


def run(folder):
    command = [sys.executable, "-m", "pipeline.stages.corpus", "--spec", "spec.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*folder.rglob("artifacts/**/*"), *folder.rglob("reports/*")]
        if path.is_file()
    }


def test_the_stage_writes_a_verified_folder_and_a_report_that_fits_its_schema(project):
    result = run(project)

    assert result.returncode == ExitCode.OK, result.stderr
    manifest = verify_manifest(project / "artifacts" / "corpus", rebuild="")
    assert set(manifest["files"]) == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    assert set(manifest["inputs"]) == {f"texts/{number:02}.md" for number in range(30)}
    report = json.loads((project / "reports" / "corpus.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    assert report["read"]["documents"] == 30
    assert sum(split["documents"] for split in report["splits"].values()) == 30
    first = json.loads((project / "artifacts" / "corpus" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["text"].startswith("Story ")


def test_the_same_input_gives_the_same_bytes(project):
    run(project)
    before = contents(project)

    run(project)

    assert contents(project) == before
    assert len(before) == 5


FAULTS = {
    "missing path": ({"source": {"kind": "files", "paths": ["gone"]}}, "gone: the path does not exist"),
    "empty pattern": ({"source": {"kind": "files", "paths": ["texts/*.csv"]}}, "the pattern matches no file"),
    "binary": ({"source": {"kind": "files", "paths": ["binary.txt"]}}, "binary.txt: the file is binary"),
    "encoding": ({"source": {"kind": "files", "paths": ["latin.txt"]}}, "probably Windows-1252"),
    "empty": ({"source": {"kind": "files", "paths": ["empty.txt"]}}, "the source is empty"),
    "too small": ({"min_corpus_characters": 10**9}, "the corpus is too small"),
    "no document for a split": (
        {"source": {"kind": "files", "paths": ["texts/00.md"]}, "min_corpus_characters": 1},
        "gets no document",
    ),
    "wrong field": (
        {"source": {"kind": "files", "paths": ["lines.jsonl"]}},
        "lines.jsonl:1: the field 'text' is missing",
    ),
    "no such file address": ({"source": {"kind": "url", "url": "file:///gone.txt"}}, "the file does not exist"),
    "another hash": ({"source": {"kind": "url", "url": "FILE", "sha256": "0" * 64}}, "expected SHA-256 000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_with_code_2_one_message_a_hint_and_nothing_half_written(project, fault):
    (project / "binary.txt").write_bytes(b"abc\0def")
    (project / "latin.txt").write_bytes("naïve".encode("cp1252"))
    (project / "empty.txt").write_bytes(b"")
    (project / "lines.jsonl").write_text('{"body": "x"}\n', encoding="utf-8")
    dataset, message = FAULTS[fault]
    if dataset.get("source", {}).get("url") == "FILE":
        dataset = {"source": {**dataset["source"], "url": (project / "texts" / "00.md").as_uri()}}
    write_spec(project, **dataset)

    result = run(project)

    assert result.returncode == ExitCode.CORPUS
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "  hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(project) == {}
    assert list((project / "artifacts").glob("*") if (project / "artifacts").exists() else []) == []
    status = json.loads((project / ".work" / "status" / "corpus.json").read_text(encoding="utf-8"))
    assert (status["code"], message in status["message"]) == (2, True)


def test_a_failed_run_leaves_the_earlier_corpus_as_it_was(project):
    run(project)
    before = contents(project)
    write_spec(project, min_corpus_characters=10**9)

    result = run(project)

    assert result.returncode == ExitCode.CORPUS
    assert contents(project) == before


@pytest.mark.parametrize(
    ("filtered", "zone"),
    [(0, "excellent"), (1, "good"), (2, "high"), (3, "high"), (4, "very_high"), (5, "very_high"), (6, "critical")],
)
def test_the_zone_follows_from_the_share_that_was_filtered_out(filtered, zone):
    # Ten documents of one size, of which so many are duplicates.
    texts = [f"{number if number < 10 - filtered else 0:04} {'x' * 195}" for number in range(10)]

    corpus = build_corpus(source=source(*texts), cleaning={}, split_method="contiguous", min_corpus_characters=1)

    assert corpus.report["quality"] == {
        "kept_fraction": pytest.approx(1 - filtered / 10),
        "filtered_fraction": pytest.approx(filtered / 10),
        "zone": zone,
    }
    assert any("filtered out" in warning for warning in corpus.warnings) == (filtered > 2)


def test_a_leak_between_splits_is_reported_and_warned_of():
    leak = "This sentence stands in every story, in train as in validation, from the first word to the last."
    texts = [f"{number} {prose(number)}\n\nSomebody{number} said: {leak}" for number in range(20)]

    corpus = build_corpus(source=source(*texts), cleaning={}, validation_split=0.2)

    found = corpus.report["leakage"]["validation"]
    assert found["passages"] == corpus.report["splits"]["validation"]["documents"]
    assert all(leak in example["text"] for example in found["examples"])
    assert "validation shares 0 documents and" in corpus.warnings[0]
    jsonschema.Draft202012Validator(SCHEMA).validate(corpus.report)


def test_a_whitespace_only_source_is_too_small():
    with pytest.raises(CorpusError, match="too small: 0 characters are left of 3"):
        build_corpus(source=source(" \n "), cleaning={})


def test_the_schema_of_the_report_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.slow
def test_the_default_plays_come_out_clean_held_out_by_a_tenth_and_without_a_leak(tmp_path, checkout):
    (tmp_path / "spec.yaml").write_bytes((checkout / "specs" / "experiment.yaml").read_bytes())

    result = run(tmp_path)

    assert result.returncode == ExitCode.OK, result.stderr
    report = json.loads((tmp_path / "reports" / "corpus.json").read_text(encoding="utf-8"))
    assert report["kept"]["documents"] == 38
    assert report["splits"]["validation"]["fraction"] == pytest.approx(0.1, abs=0.005)
    assert report["splits"]["test"]["fraction"] == pytest.approx(0.1, abs=0.005)
    assert [report["leakage"][name]["passages"] for name in ("validation", "test")] == [0, 0]
    for name in ("train", "validation", "test"):
        for line in (tmp_path / "artifacts" / "corpus" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            assert not set(json.loads(line)["text"]) & set("#*_\\<>`")
