"""`foundry diff-runs` on real trainings that differ in one thing: where they part, and what explains it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from train_project import Project, copied, project_of

from pipeline.cli import foundry
from pipeline.data.encoded import read_encoded
from pipeline.errors import ArtifactError, FoundryError
from pipeline.records.experiments import ExperimentDB
from pipeline.spec import load_spec
from pipeline.stages.train_setup import open_task

pytestmark = pytest.mark.e2e

SPEC = """\
schema_version: 1
name: tiny
dataset: {source: {kind: files, paths: [notes.jsonl]}, split_method: contiguous}
tokenizer: {vocab_size: 300}
model: {d_model: 16, num_layers: 1, num_heads: 2, d_ff: 32, max_seq_len: 16, dropout: 0.1}
training: {epochs: 1, batch_size: 4, gradient_accumulation_steps: 2, learning_rate: 0.001}
hardware: {num_threads: 1, precision: 32-true, compile_mode: null}
reproducibility: {random_seed: 42}
"""
WARMUP = 2  # of its 43 steps, a twentieth


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """A project of made-up notes, encoded."""
    folder = tmp_path_factory.mktemp("encoded")
    words = "the quick brown fox jumps over lazy dogs while wizards box five jugs".split()  # noqa: SIM905
    draw = random.Random(1)
    notes = [{"text": " ".join(draw.choices(words, k=80))} for _ in range(40)]
    (folder / "notes.jsonl").write_text("".join(f"{json.dumps(note)}\n" for note in notes))
    return project_of(folder, SPEC).folder


@pytest.fixture(scope="module")
def before(encoded, tmp_path_factory) -> Project:
    """The same, trained."""
    project = copied(encoded, tmp_path_factory.mktemp("before") / "project")
    assert project.run("train") == (0, "")
    return project


@pytest.fixture
def changed(encoded, tmp_path) -> Callable[..., Project]:
    """(what the spec says, what it says instead) → a project that differs in that, trained."""

    def train(*changes: tuple[str, str], python_path: str = "") -> Project:
        project = copied(encoded, tmp_path / "after")
        spec = SPEC
        for old, new in changes:
            assert old in spec
            spec = spec.replace(old, new)
        (project.folder / "specs/experiment.yaml").write_text(spec)
        if python_path:
            os.environ["PYTHONPATH"] = python_path
        try:
            assert project.run("train") == (0, "")
        finally:
            os.environ.pop("PYTHONPATH", None)
        return project

    return train


def differ(one: Project, two: Project) -> dict[str, Any]:
    """What the command says, as JSON."""
    arguments = ["diff-runs", str(one.folder), str(two.folder), "--json"]
    done = CliRunner().invoke(foundry, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def verdicts(said: dict[str, Any]) -> list[str]:
    return [stage["verdict"] for stage in said["stages"]][:3]


def training(said: dict[str, Any]) -> dict[str, Any]:
    return said["stages"][2]


def causes(stage: dict[str, Any]) -> list[tuple[str, str]]:
    return [(cause["kind"], cause["name"]) for cause in stage["causes"]]


def first_other_batch(one: Project, two: Project) -> int:
    """The first optimizer step whose batches differ, found by making the batches of both."""
    sources = []
    for project in (one, two):
        spec = load_spec(project.folder / "specs/experiment.yaml")
        sources.append(open_task(spec, project.folder / "artifacts/tokenizer", shares=1)[2])
    first, second = sources
    differing = (
        index
        for index in range(first.per_epoch)
        if not all(map(torch.equal, first.batch(0, index), second.batch(0, index)))
    )
    return next(differing) // 2 + 1


def flip_a_bit(text: str) -> str:
    return text.replace("g", chr(ord("g") ^ 1), 1)


def swap_two_words(text: str) -> str:
    """The tokenizer stays as it was, and so do the tokens of every other document."""
    return re.sub(r"(quick) (brown)", r"\2 \1", text, count=1)


@pytest.mark.parametrize("change", [flip_a_bit, swap_two_words])
def test_a_change_of_the_corpus_is_traced_to_its_document_and_its_first_batch(before, encoded, tmp_path, change):
    after = copied(encoded, tmp_path / "after")
    notes = (after.folder / "notes.jsonl").read_text().splitlines(keepends=True)
    number = next(number for number in range(20, 36) if change(notes[number]) != notes[number])
    old, new = notes[number], change(notes[number])
    (after.folder / "notes.jsonl").write_text("".join([*notes[:number], new, *notes[number + 1 :]]))
    for stage in ("corpus", "tokenizer", "train"):
        assert after.run(stage) == (0, "")

    said = differ(before, after)

    corpus, tokenizer, train = said["stages"][:3]
    place = next(place for place in range(len(old)) if old[place] != new[place])
    at = place - len('{"text": "') + 1
    where = rf"train.jsonl, document {number + 1} of 36 \(notes.jsonl#\w+\), character {at}: "
    assert (said["equal"], said["first"]) == (False, "corpus")
    assert verdicts(said) == ["differs"] * 3
    assert re.fullmatch(f"{where}'{old[place]}' → '{new[place]}'", corpus["where"])
    assert causes(corpus) == [("input", "notes.jsonl")]
    assert causes(tokenizer) == [("stage", "corpus")]
    assert causes(train) == [("stage", "tokenizer")]
    assert (train["parting"]["step"], train["parting"]["what"]) == (first_other_batch(before, after), "data")
    assert len(train["parting"]["tensors"]) > 5


def test_another_seed_parts_before_the_first_step(before, changed):
    said = differ(before, changed(("random_seed: 42", "random_seed: 43")))

    train = training(said)
    assert verdicts(said) == ["equal", "equal", "differs"]
    assert (train["parting"]["step"], train["parting"]["what"]) == (0, "weights")
    assert "embed_tokens.weight" in train["parting"]["tensors"]
    assert "norm.weight" not in train["parting"]["tensors"]  # ones, whatever the seed
    assert causes(train) == [("setting", "reproducibility.random_seed")]


def test_another_setting_parts_where_it_first_counts(before, changed, tmp_path):
    after = changed(("learning_rate: 0.001", "learning_rate: 0.001, max_grad_norm: 0.75"))

    said = differ(before, after)

    lines = [json.loads(line) for line in before.ledger().splitlines()[1:-1]]
    clipped = next(line["step"] for line in lines if line["gradient_norm"] > 0.75)
    train = training(said)
    assert (train["parting"]["step"], train["parting"]["what"]) == (clipped, "weights")
    assert train["causes"] == [{"kind": "setting", "name": "training.max_grad_norm", "old": 1.0, "new": 0.75}]

    shutil.copytree(before.folder / "artifacts/model", tmp_path / "alone")
    arguments = ["diff-runs", str(tmp_path / "alone"), str(after.folder / "artifacts/model"), "--exit-code"]
    done = CliRunner().invoke(foundry, arguments, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert done.exit_code == 1
    assert lines[1:3] == ["  corpus     equal", "  tokenizer  equal"]  # both were made from the same tokens
    assert lines[3].startswith(
        f"  train      differs: step {clipped} (epoch 1, batch {2 * clipped - 1}): other weights"
    )
    assert lines[4].startswith("             tensors: embed_tokens.weight, ")
    assert lines[5] == "             setting training.max_grad_norm: 1.0 → 0.75"
    assert lines[-1] == "they part in the stage train"


def test_another_line_of_code_parts_where_it_first_runs(before, changed, checkout, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkout / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("schemas", "specs"):
        (source / name).symlink_to(checkout / name)
    file = source / "pipeline/training/optimizer.py"
    text = file.read_text()
    assert "cos(math.pi * share)) / 2" in text  # after the warmup
    file.write_text(text.replace("cos(math.pi * share)) / 2", "cos(math.pi * share)) / 2.001"))

    said = differ(before, changed(python_path=str(source)))

    train = training(said)
    assert (train["parting"]["step"], train["parting"]["what"]) == (WARMUP + 1, "weights")
    assert causes(train) == [("code", "pipeline/training/optimizer.py")]


@pytest.mark.slow
def test_another_number_of_threads_is_named_where_it_changes_bits(encoded, tmp_path):
    projects = []
    for threads in (1, 2):
        project = copied(encoded, tmp_path / str(threads))
        spec = SPEC.replace("d_model: 16", "d_model: 64").replace("d_ff: 32", "d_ff: 256")
        spec = spec.replace("max_seq_len: 16", "max_seq_len: 64").replace("batch_size: 4", "batch_size: 16")
        (project.folder / "specs/experiment.yaml").write_text(spec.replace("num_threads: 1", f"num_threads: {threads}"))
        assert project.run("train") == (0, "")
        projects.append(project)

    train = training(differ(*projects))

    if projects[0].weights() == projects[1].weights():
        pytest.skip("on this processor two threads compute the bits of one")
    one, two = ([json.loads(line) for line in project.ledger().splitlines()[1:-1]] for project in projects)
    compared = ("loss", "gradients", "gradient_norm", "weights")
    others = [
        mine["step"] for mine, other in zip(one, two, strict=True) if any(mine.get(k) != other.get(k) for k in compared)
    ]
    assert (train["parting"]["step"], train["parting"]["what"]) == (others[0], "gradients")
    assert "layers.0.mlp.up_proj.weight" in train["parting"]["tensors"]  # a product that two threads share
    assert causes(train) == [("setting", "hardware.num_threads"), ("environment", "num_threads")]


def test_what_is_the_same_is_said_to_be_equal_and_a_bit_of_the_weights_is_damage(before, tmp_path, monkeypatch):
    shutil.copytree(before.folder, tmp_path / "same")

    done = CliRunner().invoke(foundry, ["diff-runs", str(before.folder), str(tmp_path / "same"), "--exit-code"])
    weights = tmp_path / "same/artifacts/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "equal: corpus, tokenizer, train")
    for arguments in (
        ["diff-runs", str(before.folder), str(tmp_path / "same")],
        ["ledger", "verify", str(tmp_path / "same")],
    ):
        with pytest.raises(ArtifactError) as caught:
            CliRunner().invoke(foundry, arguments, catch_exceptions=False)
        assert caught.value.where == str(weights)


def test_a_recorded_run_stands_for_its_model_while_that_is_here(before, tmp_path, monkeypatch):
    shutil.copytree(before.folder, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    trained_by = json.loads(Path("artifacts/model/model.json").read_text())["training"]["run_id"]
    executed = {"origin": "foundry run", "toolkit_version": "0.1.0", "message": "", "git_diff": "", "environment": {}}
    with ExperimentDB() as database:
        for run_id, training_run_id in ((32 * "a", trained_by), (32 * "b", 32 * "c")):
            database.log_run("run", {}, run_id=run_id)
            database.register_run({**database.get_record(run_id), **executed, "training_run_id": training_run_id})

    said = CliRunner().invoke(foundry, ["diff-runs", "aaaa", str(before.folder)], catch_exceptions=False).stdout

    assert said.splitlines()[-1] == "equal: corpus, tokenizer, train"
    with pytest.raises(FoundryError, match=f"the model of the run {32 * 'b'} is not here any more"):
        CliRunner().invoke(foundry, ["diff-runs", "bbbb", "."], catch_exceptions=False)
    with pytest.raises(FoundryError, match="there is no run cccc"):
        CliRunner().invoke(foundry, ["ledger", "verify", "cccc"], catch_exceptions=False)
    with pytest.raises(FoundryError, match="no model or output of a stage here"):
        CliRunner().invoke(foundry, ["ledger", "verify", "specs"], catch_exceptions=False)


def test_an_output_that_was_built_again_since_is_not_taken_for_that_of_the_model(before, tmp_path):
    after = copied(before.folder, tmp_path / "after")
    (after.folder / "notes.jsonl").write_text((after.folder / "notes.jsonl").read_text().replace("fox", "cat"))
    for stage in ("corpus", "tokenizer"):
        assert after.run(stage) == (0, "")

    said = differ(before, after)

    assert verdicts(said) == ["equal", "equal", "equal"]  # the model is still that of the corpus before
    assert read_encoded(after.folder / "artifacts/tokenizer", "train").documents == 36


def test_the_code_of_other_stages_is_that_which_dvc_locked(encoded, tmp_path):
    after = copied(encoded, tmp_path / "after")
    (after.folder / "notes.jsonl").write_text((after.folder / "notes.jsonl").read_text().replace("fox", "cat"))
    for stage in ("corpus", "tokenizer"):
        assert after.run(stage) == (0, "")
    before = copied(encoded, tmp_path / "before")
    for project, digest in ((before, "a"), (after, "b")):
        deps = [{"path": "pipeline/data/corpus.py", "md5": digest}, {"path": "notes.jsonl", "md5": digest}]
        (project.folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"corpus": {"deps": deps}}}))

    said = differ(before, after)

    assert causes(said["stages"][0]) == [("input", "notes.jsonl"), ("code", "pipeline/data/corpus.py")]
    assert [stage["verdict"] for stage in said["stages"]] == ["differs", "differs", *["not compared"] * 3]

    (after.folder / "dvc.lock").write_text("[")
    with pytest.raises(ArtifactError, match="not what DVC writes"):
        differ(before, after)
