"""A corpus of pictures: equal pictures stay together, stages write verified folders, errors name what is wrong."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.commands.run import changed_sources
from pipeline.data.picture_arrays import DESCRIPTION
from pipeline.data.picture_corpus import build_picture_corpus, channel_figures, split_pictures, write_picture_corpus
from pipeline.data.pictures import Picture, PictureSource
from pipeline.errors import ArtifactError, CorpusError, ExitCode
from pipeline.files import read_artefact, verify_manifest
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration

SPLIT = {
    "validation_split": 0.2,
    "test_split": 0.1,
    "split_seed": 42,
    "max_train_samples": None,
    "max_val_samples": None,
}


def picture(seed, label=0, name=""):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 5), np.uint8)
    return Picture(name or f"{seed}.png", (label,), pixels)


def source(pictures, classes=("cat", "dog")):
    return PictureSource(pictures, list(classes), (3, 4, 5), "crop", {"here": "0" * 64}, bytes=0)


def built(pictures, *, drop=True, **settings):
    return build_picture_corpus(
        source=source(pictures), drop_duplicates=drop, dataset_name="x", **{**SPLIT, **settings}
    )


def with_labels(numbers, *, several=True):
    pictures = [replace(one, labels=labels) for one, labels in zip(many(len(numbers)), numbers, strict=True)]
    return replace(source(pictures), several=several)


def many(count=60):
    return [picture(seed, seed % 2) for seed in range(count)]


def names(pictures):
    return [picture.name for picture in pictures]


# Splits


def test_equal_pictures_are_never_parted_whatever_their_files_are_called():
    twins = [replace(one, name=f"copy of {one.name}") for one in many()]

    splits = split_pictures([*many(), *twins], **SPLIT)

    for pictures in splits.values():
        assert {name for name in names(pictures) if name.startswith("copy")} == {
            f"copy of {name}" for name in names(pictures) if not name.startswith("copy")
        }


def test_a_picture_keeps_its_split_when_others_are_added():
    few, all_of_them = split_pictures(many(40), **SPLIT), split_pictures(many(200), **SPLIT)

    assert all(set(names(few[name])) <= set(names(all_of_them[name])) for name in few)


def test_a_smaller_limit_takes_a_part_of_what_a_larger_one_takes():
    whole = split_pictures(many(), **SPLIT)
    ten, five = (split_pictures(many(), **{**SPLIT, "max_train_samples": limit}) for limit in (10, 5))

    assert (len(ten["train"]), len(five["train"])) == (10, 5)
    assert set(names(five["train"])) < set(names(ten["train"])) < set(names(whole["train"]))
    assert names(ten["validation"]) == names(whole["validation"])


def test_a_split_without_a_picture_is_refused():
    with pytest.raises(CorpusError, match="split gets no picture: there are 1"):
        split_pictures([picture(0)], **SPLIT)


def test_a_class_that_nothing_is_learned_from_is_refused():
    with pytest.raises(CorpusError, match="no picture of dog is in the training split"):
        built([picture(seed, 0) for seed in range(60)])


def test_a_class_that_is_not_judged_is_said():
    corpus = built([*(picture(seed, 0) for seed in range(60)), picture(100, 1)])

    assert any("the validation split has no picture of dog" in warning for warning in corpus.warnings)


# Duplicates


@pytest.mark.parametrize("drop", [True, False])
def test_a_picture_that_is_there_twice_is_counted_and_dropped_if_asked(drop):
    again = replace(many()[0], name="again.png")

    corpus = built([*many(), again], drop=drop)

    assert corpus.report["duplicates"] == {"dropped": drop, "pictures": 1, "examples": [["0.png", "again.png"]]}
    assert sum(len(pictures) for pictures in corpus.splits.values()) == 60 + (not drop)
    assert corpus.report["leakage"] == {"validation": 0, "test": 0}


def test_one_picture_of_two_classes_is_refused_and_both_files_are_named():
    other = replace(many()[0], name="other.png", labels=(1,))

    with pytest.raises(CorpusError, match=r"of two classes, cat and dog; the other one is 0\.png") as caught:
        built([*many(), other])

    assert caught.value.where == "other.png"


def test_one_picture_with_other_labels_is_refused_and_both_sets_are_said():
    labels = 60 * [(0, 1)]
    pictures = with_labels(labels)
    pictures.pictures.append(replace(pictures.pictures[0], name="other.png", labels=()))

    with pytest.raises(CorpusError, match=r"of two sets of labels, cat, dog and none; the other one is 0\.png"):
        build_picture_corpus(source=pictures, drop_duplicates=True, dataset_name="x", **SPLIT)


# Labels


def test_labels_are_written_as_a_yes_or_no_of_each(tmp_path):
    numbers = [((), (0,), (1,), (0, 1))[seed % 4] for seed in range(60)]

    corpus = build_picture_corpus(source=with_labels(numbers), drop_duplicates=True, dataset_name="x", **SPLIT)
    write_picture_corpus(corpus, tmp_path)

    written = np.fromfile(tmp_path / "train.labels.bin", np.uint8).reshape(-1, 2)
    assert [tuple(np.flatnonzero(row)) for row in written] == [one.labels for one in corpus.splits["train"]]
    assert json.loads((tmp_path / DESCRIPTION).read_text())["kind"] == "multilabel_pictures"
    train = corpus.report["splits"]["train"]
    assert train["by_class"] == dict(zip(["cat", "dog"], written.sum(axis=0).tolist(), strict=True))
    assert train["without_label"] == (written.sum(axis=1) == 0).sum() > 0


def test_pictures_that_a_table_does_not_name_are_said():
    pictures = replace(with_labels(60 * [(0, 1)]), ignored=("other.png",))

    corpus = build_picture_corpus(source=pictures, drop_duplicates=True, dataset_name="x", **SPLIT)

    assert corpus.warnings[0] == "1 files are not named in the table and were left out, as other.png"


# Figures


def test_channel_figures_are_those_of_all_training_pixels():
    pixels = np.stack([one.pixels for one in many()]) / 255

    mean, std = channel_figures(many())

    assert np.allclose(mean, pixels.mean(axis=(0, 2, 3)), atol=1e-6)
    assert np.allclose(std, pixels.std(axis=(0, 2, 3)), atol=1e-6)


def test_a_channel_that_is_the_same_everywhere_can_still_be_divided_by():
    flat = [Picture("flat", (0,), np.full((1, 2, 2), 255, np.uint8))]

    assert channel_figures(flat) == ([1.0], [0.001])


# The stages


@pytest.fixture
def project(tmp_path):
    """A project with forty pictures of two classes, red and blue, and a spec for them."""
    for number in range(40):
        name, colour = (("red", (220, 30, 30)), ("blue", (30, 30, 220)))[number % 2]
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        grain = np.random.default_rng(number).integers(-20, 20, (6, 6, 3))
        pixels = np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number:02}.png")
    write_spec(tmp_path)
    return tmp_path


def write_spec(folder, **source):
    source = {"kind": "image_folder", "path": "pictures", "image_size": [3, 4, 4]} | source
    task = {"task_type": "vision_classification"}
    dataset = {"source": source, "test_split": 0.1}
    spec = {"schema_version": 1, "name": "colours", "dataset": dataset, "task": task, "model": {"model_type": "cnn"}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")


def run(folder, stage="corpus"):
    command = [sys.executable, "-m", f"pipeline.stages.{stage}", "--spec", "spec.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*folder.rglob("artifacts/**/*"), *folder.rglob("reports/*")]
        if path.is_file()
    }


def test_two_runs_of_the_corpus_stage_write_the_same_bytes(project):
    first = run(project)
    before = contents(project)

    second = run(project)

    assert (first.returncode, second.returncode) == (ExitCode.OK, ExitCode.OK), first.stderr
    assert "train split: 2" in first.stderr + first.stdout
    assert contents(project) == before
    manifest = verify_manifest(project / "artifacts/corpus", rebuild="")
    assert len(manifest["inputs"]) == 40
    assert set(manifest["files"]) == {
        "pictures.json",
        *(f"{split}.{kind}.bin" for split in ("train", "validation", "test") for kind in ("pictures", "labels")),
    }
    report = read_artefact(project / "reports/corpus.json", "corpus_report")
    assert (report["classes"], report["read"]["resized"]) == (["blue", "red"], 40)


def test_the_tokenizer_stage_carries_the_arrays_on_and_says_that_there_is_nothing_to_train(project):
    run(project)

    result = run(project, "tokenizer")

    assert result.returncode == ExitCode.OK, result.stderr
    assert "nothing to train, 40 pictures" in result.stderr + result.stdout
    made, given = project / "artifacts/tokenizer", project / "artifacts/corpus"
    verify_manifest(made, rebuild="")
    for path in given.glob("*.bin"):
        assert (made / path.name).read_bytes() == path.read_bytes()
    description = read_artefact(made / "tokenizer.json", "tokenizer")
    assert (description["kind"], description["image_size"]) == ("pictures", [3, 4, 4])
    counts = {split: (given / f"{split}.labels.bin").stat().st_size // 8 for split in description["splits"]}
    assert {split: held["documents"] for split, held in description["splits"].items()} == counts
    assert read_artefact(project / "reports/tokenizer.json", "tokenizer_report")["classes"] == 2


def test_a_damaged_picture_ends_the_corpus_stage_with_its_code_and_nothing_is_written(project):
    (project / "pictures/red/04.png").write_bytes(b"\x89PNG\r\n")

    result = run(project)

    assert result.returncode == ExitCode.CORPUS
    assert "pictures/red/04.png: the file is not a picture that can be read" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(project) == {}
    status = json.loads((project / ".work/status/corpus.json").read_text(encoding="utf-8"))
    assert (status["phase"], status["code"]) == ("failed", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["one"]}, "`classes` must have at least 2 items"),
        ({"vocab_size": 7}, "`vocab_size` is not a key of this format"),
        ({"format_version": 2}, "2 is newer than 1"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_the_command_that_mends_it(tmp_path, change, message):
    write_picture_corpus(built(many()), tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**description, **change}))

    with pytest.raises(ArtifactError) as caught:
        read_artefact(path, "tokenizer")

    assert message in caught.value.message
    assert "build it again with: foundry run --from tokenizer --force" in caught.value.hint


def test_idle_settings_of_a_source_of_pictures_are_said(tmp_path):
    write_spec(tmp_path)
    with (tmp_path / "spec.yaml").open("a") as file:
        file.write("tokenizer: {vocab_size: 1000}\n")

    warnings = load_spec(tmp_path / "spec.yaml").warnings

    assert [warning.path for warning in warnings if warning.code == "W0102"] == ["tokenizer.vocab_size"]


def test_a_changed_picture_is_noticed_by_foundry_run(project, monkeypatch):
    (project / "specs").mkdir()
    (project / "spec.yaml").rename(project / "specs/experiment.yaml")
    command = [sys.executable, "-m", "pipeline.stages.corpus"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    monkeypatch.chdir(project)
    before = changed_sources()

    Image.new("RGB", (6, 6)).save(project / "pictures/red/04.png")

    assert (before, changed_sources()) == ("", "pictures/red/04.png")

    (project / "pictures").rename(project / "elsewhere")

    assert changed_sources() == "dataset.source"
