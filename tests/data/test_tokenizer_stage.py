"""The tokenizer stage as a process: what it writes, what it refuses, and what it ends with."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.data.documents import Document, write_split
from pipeline.data.tokenizer import Tokenizer
from pipeline.files import manifest_hash, output_folder, verify_manifest
from pipeline.paths import DEFAULT_SPEC, SPECS

pytestmark = pytest.mark.integration

LINES = ["the cat sat on the mat", "and the rat ran", "  a bat, a hat", "where is the hat of the cat?"]
TEXTS = {"train": ["\n".join(LINES)] * 2, "validation": ["the rat is fat\n", "é \u2581"], "test": []}


@pytest.fixture
def project(tmp_path):
    """A project folder with the shipped spec for little text, and a corpus."""
    spec = (SPECS / "experiment.yaml").read_text(encoding="utf-8").replace("vocab_size: 4096", "vocab_size: 280")
    path = tmp_path / DEFAULT_SPEC
    path.parent.mkdir(parents=True)
    path.write_text(spec, encoding="utf-8")
    with output_folder(tmp_path / "artifacts/corpus", stage="corpus", sections={}, inputs={}) as folder:
        for split, texts in TEXTS.items():
            write_split(folder / f"{split}.jsonl", [Document(id=str(i), text=text) for i, text in enumerate(texts)])
    return tmp_path


def run(project, hash_seed="0"):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.stages.tokenizer"],
        cwd=project,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def edit_spec(project, old, new):
    path = project / DEFAULT_SPEC
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_stage_writes_a_verified_folder_and_a_report(project):
    done = run(project)

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    folder = project / "artifacts/tokenizer"
    manifest = verify_manifest(folder, rebuild="")
    assert manifest["inputs"] == {"corpus": manifest_hash(project / "artifacts/corpus")}
    assert list(manifest["sections"]) == ["tokenizer"]
    arrays = {f"{split}{end}" for split in TEXTS for end in (".bin", ".offsets.bin")}
    assert set(manifest["files"]) == {"tokenizer.model", "tokenizer.json", *arrays}
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    ids = np.fromfile(folder / "train.bin", dtype="<u2")
    assert tokenizer.decode(ids.tolist()) == "".join(TEXTS["train"])
    report = json.loads((project / "reports/tokenizer.json").read_text(encoding="utf-8"))
    assert report["round_trip"]["exact"] == report["round_trip"]["documents"] == 2
    assert "all 2 validation documents come back exactly" in done.stderr


def test_the_stage_gives_the_same_bytes_again(project):
    assert run(project, "1").returncode == 0
    first = manifest_hash(project / "artifacts/tokenizer"), (project / "reports/tokenizer.json").read_bytes()
    shutil.rmtree(project / "artifacts/tokenizer")
    elsewhere = project / "some/other place"
    shutil.copytree(project, elsewhere)

    assert run(elsewhere, "2").returncode == 0

    second = manifest_hash(elsewhere / "artifacts/tokenizer"), (elsewhere / "reports/tokenizer.json").read_bytes()
    assert first == second


def test_an_impossible_vocabulary_ends_with_3_and_names_a_possible_one(project):
    edit_spec(project, "vocab_size: 280", "vocab_size: 5000")

    done = run(project)

    assert done.returncode == 3
    assert "tokenizer.vocab_size 5000 is too large" in done.stderr
    assert "hint: set tokenizer.vocab_size to 286" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not (project / "artifacts/tokenizer").exists()


def test_a_flipped_byte_in_the_corpus_is_refused(project):
    path = project / "artifacts/corpus/train.jsonl"
    path.write_bytes(path.read_bytes().replace(b"cat", b"car", 1))

    done = run(project)

    assert done.returncode == 3
    assert "artifacts/corpus/train.jsonl" in done.stderr
    assert "foundry run --from corpus --force" in done.stderr


def test_lost_characters_are_said_and_reported(project):
    edit_spec(project, "byte_fallback: true", "byte_fallback: false")
    edit_spec(project, "vocab_size: 280", "vocab_size: 25")

    done = run(project)

    assert done.returncode == 0, done.stderr
    assert "warning: 1 of 2 validation documents do not come back exactly" in done.stderr
    report = json.loads((project / "reports/tokenizer.json").read_text(encoding="utf-8"))
    assert report["round_trip"]["failures"] == 1
    assert report["splits"]["validation"]["unknown_rate"] > 0
