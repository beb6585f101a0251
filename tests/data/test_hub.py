"""Datasets of the hub: the same rows each time, kept once they are read, and one clear error for whatever is wrong."""

import json
import os
import random
import subprocess
import sys

import pytest
import yaml
from hub_server import COMMIT, REPOSITORY, serving

from pipeline.commands.run import changed_sources
from pipeline.data import sources
from pipeline.data.sources import own_files, read_hub
from pipeline.errors import CorpusError, ExitCode
from pipeline.files import verify_manifest

pytestmark = pytest.mark.integration

CARD = """---
configs:
- config_name: tales
  default: true
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
---
"""
OTHER_COMMIT = "2" * 40


def texts(start, count):
    chance = random.Random(start)
    return [
        f"# Tale {number}\n\n" + " ".join(chance.choices(["sun", "moon"], k=40))
        for number in range(start, start + count)
    ]


@pytest.fixture
def repository(tmp_path):
    """A dataset repository: Parquet files in three shards, and a card that says which split is where."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra hub")
    pytest.importorskip("datasets", reason="needs the extra hub")
    from pyarrow import table

    folder = tmp_path / "tales"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for shard in range(3):
        rows = texts(20 * shard, 20)
        columns = table({"text": rows, "words": [len(row) for row in rows], "pages": [rows[:1]] * 20})
        parquet.write_table(columns, folder / "data" / f"train-{shard}.parquet")
    parquet.write_table(table({"text": ["held out", None]}), folder / "data" / "test-0.parquet")
    return folder


def read(folder, repository="./tales", **settings):
    return read_hub(repository=repository, project=folder, downloads=folder / "downloads", **settings)


def run_stage(folder, source, **environment):
    """The corpus stage in a process of its own, where alone the address of the hub can be another one."""
    spec = {"schema_version": 1, "name": "tales", "dataset": {"source": {"kind": "hub", **source}}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    home = {"HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "pipeline.stages.corpus", "--spec", "spec.yaml"]
    environment = {**os.environ, **home, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def corpus_of(folder):
    return [(folder / "artifacts" / "corpus" / f"{split}.jsonl").read_bytes() for split in ("train", "validation")]


def test_a_folder_gives_its_rows_in_order_and_every_file_counts_as_an_input(repository):
    source = read(repository.parent)

    assert [document.text for document in source.documents] == texts(0, 20) + texts(20, 20) + texts(40, 20)
    assert {document.plain for document in source.documents} == {False}
    shards = [f"data/train-{shard}.parquet" for shard in range(3)]
    assert sorted(source.inputs) == ["README.md", "data/test-0.parquet", *shards]


def test_a_subset_a_split_and_the_first_rows_can_be_chosen(repository):
    first = read(repository.parent, subset="tales", max_rows=25)
    held_out = read(repository.parent, split="test")

    assert [document.text for document in first.documents] == texts(0, 20) + texts(20, 5)
    assert [document.text for document in held_out.documents] == ["held out", ""]  # a row without text is empty


def test_more_rows_move_no_document_to_another_split(repository):
    some, every = read(repository.parent, max_rows=5), read(repository.parent)

    assert [document.id for document in some.documents] == [document.id for document in every.documents][:5]


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"text_field": "body"}, "no column 'body'", "text, words, pages"),
        ({"text_field": "words"}, "the column 'words' holds int, not text", "column of text"),
        ({"text_field": "pages"}, "the column 'pages' holds list, not text", "column of text"),
        ({"subset": "poems"}, "'poems' not found. Available: \\['tales'\\]", "correct subset or split"),
        ({"split": "dev"}, "Bad split: dev. Available splits: \\['train', 'test'\\]", "correct subset or split"),
        ({"repository": "./gone"}, "the folder does not exist", "without a leading dot"),
    ],
)
def test_what_a_dataset_does_not_have_is_named_with_what_it_has(repository, settings, message, hint):
    with pytest.raises(CorpusError, match=message) as caught:
        read(repository.parent, **settings)

    assert hint in caught.value.hint
    assert caught.value.where


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.bin": b"\x01"}, "there is no data in the dataset"),
        ({"tales.py": b"open('ran', 'w')"}, "scripts are no longer supported"),
        ({"train.parquet": b"PAR1 and no more"}, "the dataset cannot be read: Parquet"),
        ({"train.jsonl": b'{"text": "one"}\n{"te'}, "the dataset cannot be read: JSON parse error"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused_and_nothing_in_it_is_run(tmp_path, files, message, monkeypatch):
    pytest.importorskip("datasets", reason="needs the extra hub")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tales").mkdir()
    for name, data in files.items():
        (tmp_path / "tales" / name).write_bytes(data)

    with pytest.raises(CorpusError, match=message):
        read(tmp_path)

    assert not (tmp_path / "ran").exists()


def test_more_text_than_memory_should_hold_is_refused_while_it_arrives(repository, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 500)

    with pytest.raises(CorpusError, match="more than 500 bytes of text") as caught:
        read(repository.parent)

    assert "max_rows" in caught.value.hint


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "tales").mkdir()

    with pytest.raises(CorpusError, match="datasets is not installed") as caught:
        read(tmp_path)

    assert caught.value.hint == "pip install 'model-foundry[hub]'"


def test_a_folder_here_does_not_stand_in_for_a_dataset_of_the_hub(repository, monkeypatch):
    monkeypatch.chdir(repository.parent)
    (repository.parent / "owner").mkdir()
    (repository.parent / REPOSITORY).mkdir()

    with pytest.raises(CorpusError, match="a folder of this name"):
        read(repository.parent, REPOSITORY, revision=COMMIT)


def test_a_run_notices_that_a_file_of_the_dataset_changed(repository, monkeypatch):
    folder = repository.parent
    monkeypatch.chdir(folder)
    result = run_stage(folder, {"repository": "./tales", "revision": None})
    assert result.returncode == ExitCode.OK, result.stderr
    (folder / "specs").mkdir()
    (folder / "spec.yaml").rename(folder / "specs" / "experiment.yaml")

    before = changed_sources()
    (repository / "README.md").write_text(CARD.replace("default: true", "default: false"), encoding="utf-8")

    assert (before, changed_sources()) == ("", "README.md")
    assert own_files({"kind": "hub", "repository": REPOSITORY}, folder) == {}


def test_rows_of_the_hub_are_recorded_with_their_commit_and_read_again_without_a_network(repository):
    folder = repository.parent
    newest = {"repository": REPOSITORY, "revision": None}
    with serving(repository) as hub:
        first = run_stage(folder, newest, HF_ENDPOINT=hub.address)
    assert first.returncode == ExitCode.OK, first.stderr
    made = corpus_of(folder)

    again = run_stage(folder, {**newest, "revision": COMMIT}, HF_HUB_OFFLINE="1")

    assert again.returncode == ExitCode.OK, again.stderr
    assert corpus_of(folder) == made
    inputs = verify_manifest(folder / "artifacts" / "corpus", rebuild="")["inputs"]
    assert list(inputs) == [f"{REPOSITORY}@{COMMIT}/train"]
    assert b"# Tale" in made[0]


def test_rows_that_were_damaged_on_disk_are_fetched_again(repository):
    folder = repository.parent
    pinned = {"repository": REPOSITORY, "revision": COMMIT}
    with serving(repository) as hub:
        run_stage(folder, pinned, HF_ENDPOINT=hub.address)
        (kept,) = (folder / ".work" / "downloads").glob("*/*.jsonl")
        kept.write_bytes(kept.read_bytes().replace(b"moon", b"noon", 1))

        result = run_stage(folder, pinned, HF_ENDPOINT=hub.address)

    assert result.returncode == ExitCode.OK, result.stderr
    assert b"noon" not in b"".join(corpus_of(folder))


def test_files_behind_the_first_rows_are_not_downloaded(repository):
    folder = repository.parent
    with serving(repository) as hub:
        result = run_stage(
            folder, {"repository": REPOSITORY, "revision": COMMIT, "max_rows": 15}, HF_ENDPOINT=hub.address
        )

    assert result.returncode == ExitCode.OK, result.stderr
    assert any("train-0" in request for request in hub.requests)
    assert not any("train-2" in request for request in hub.requests)  # the library looks one file ahead


@pytest.mark.parametrize(
    ("repository_name", "revision", "refusal", "message"),
    [
        ("owner/gone", None, "", "the hub has no such dataset or revision"),
        (REPOSITORY, OTHER_COMMIT, "", "the hub has no such dataset or revision"),
        (REPOSITORY, None, "GatedRepo", "the owner of the dataset decides who may read it"),
    ],
)
def test_a_dataset_that_the_hub_does_not_show_ends_the_stage_with_one_error(
    repository, repository_name, revision, refusal, message
):
    folder = repository.parent
    with serving(repository) as hub:
        hub.refusal = refusal
        result = run_stage(folder, {"repository": repository_name, "revision": revision}, HF_ENDPOINT=hub.address)

    assert result.returncode == ExitCode.CORPUS
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert "HF_TOKEN" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "artifacts").exists()


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
@pytest.mark.parametrize("revision", [None, COMMIT])
def test_without_a_network_the_stage_says_so_at_once(repository, environment, revision):
    result = run_stage(repository.parent, {"repository": REPOSITORY, "revision": revision}, **environment)

    assert result.returncode == ExitCode.CORPUS
    assert "the hub cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr
    status = json.loads((repository.parent / ".work" / "status" / "corpus.json").read_text(encoding="utf-8"))
    assert status["code"] == ExitCode.CORPUS
