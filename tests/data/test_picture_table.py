"""Tables of picture files and their labels: both forms say the same, and what is wrong is named with its line."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.data.picture_table import read_table
from pipeline.data.pictures import files_of_source, read_image_table
from pipeline.errors import CorpusError

pytestmark = pytest.mark.unit

CSV = "file_name,labels\na.png,sea sky\nsub/b.png,\nc.png,sky\n"
LINES = """\
{"file_name": "a.png", "labels": ["sea", "sky"]}
{"file_name": "sub/b.png", "labels": []}

{"file_name": "c.png", "labels": ["sky"]}
"""


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_table(folder / name, where=name)


@pytest.fixture
def project(tmp_path):
    """A project with three pictures and a table of them in pictures/."""
    (tmp_path / "pictures/sub").mkdir(parents=True)
    for number, name in enumerate(("a", "sub/b", "c")):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{name}.png")
    (tmp_path / "pictures/labels.csv").write_text(CSV)
    return tmp_path


def read(project):
    return read_image_table(path="pictures/labels.csv", image_size=[3, 4, 4], project=project)


@pytest.mark.parametrize(
    ("name", "text"), [("labels.csv", CSV), ("labels.jsonl", LINES), ("LABELS.CSV", "\ufeff" + CSV)]
)
def test_both_forms_say_which_labels_each_picture_has(tmp_path, name, text):
    assert table(tmp_path, text, name) == {"a.png": ("sea", "sky"), "sub/b.png": (), "c.png": ("sky",)}


def test_other_columns_and_repeated_labels_are_left_out(tmp_path):
    found = table(tmp_path, "is_valid,labels,file_name\nTrue,sky sea sky,a.png\n")

    assert found == {"a.png": ("sky", "sea")}


def test_a_label_of_json_lines_can_hold_spaces(tmp_path):
    found = table(tmp_path, '{"file_name": "a.png", "labels": ["blue sky"], "width": 7}\n', "x.jsonl")

    assert found == {"a.png": ("blue sky",)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", CSV, "x.txt: a table of pictures ends in .csv or .jsonl"),
        ("x.csv", "name,labels\na.png,sky\n", "x.csv: the table has no column file_name"),
        ("x.csv", "", "x.csv: the table has no column file_name"),
        ("x.csv", "file_name,tags\na.png,sky\n", "x.csv: the table has no column labels"),
        ("x.csv", "file_name,labels\na.png\n", "x.csv:2: labels of a.png is no list of labels"),
        ("x.csv", "file_name,labels\n,sky\n", "x.csv:2: the row has no file_name"),
        ("x.csv", CSV + "a.png,sky\n", "x.csv:5: a.png is named twice"),
        ("x.csv", 'file_name,labels\n"a.png" b,sky\n', "x.csv:2: the line is not CSV"),
        ("x.csv", 'file_name,"labels" x\n', "x.csv:1: the line is not CSV"),
        ("x.jsonl", "{", "x.jsonl:1: the line is not JSON"),
        ("x.jsonl", LINES + "[1]", "x.jsonl:5: the line is no JSON object"),
        ("x.jsonl", '{"labels": []}', "x.jsonl:1: the row has no file_name"),
        ("x.jsonl", '{"file_name": "a.png"}', "x.jsonl:1: labels of a.png is no list of labels"),
        ("x.jsonl", '{"file_name": "a.png", "labels": "sky"}', "x.jsonl:1: labels of a.png is no list of labels"),
        ("x.jsonl", '{"file_name": "a.png", "labels": [1]}', "x.jsonl:1: labels of a.png is no list of labels"),
        ("x.jsonl", '{"file_name": "a.png", "labels": [" "]}', "x.jsonl:1: labels of a.png is no list of labels"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_its_line(tmp_path, name, text, message):
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}"):
        table(tmp_path, text, name)


def test_a_table_that_is_not_there_or_not_utf_8_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"x\.csv: the table cannot be read: No such file"):
        read_table(tmp_path / "x.csv", where="x.csv")
    (tmp_path / "x.csv").write_bytes("file_name,labels\né.png,sky\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"x\.csv: the table is not UTF-8"):
        read_table(tmp_path / "x.csv", where="x.csv")


def test_pictures_of_a_table_have_the_numbers_of_their_labels(project):
    found = read(project)

    assert found.classes == ["sea", "sky"]
    assert {picture.name: picture.labels for picture in found.pictures} == {
        "pictures/a.png": (0, 1),
        "pictures/c.png": (1,),
        "pictures/sub/b.png": (),
    }
    assert [*found.inputs] == ["pictures/labels.csv", "pictures/a.png", "pictures/c.png", "pictures/sub/b.png"]
    assert (found.several, found.ignored) == (True, ())


def test_pictures_that_the_table_does_not_name_are_left_out_and_said(project):
    Image.new("RGB", (4, 4)).save(project / "pictures/sub/other.png")
    Image.new("RGB", (4, 4)).save(project / "elsewhere.png")
    (project / "pictures/notes.txt").write_text("about pictures")

    assert read(project).ignored == ("pictures/sub/other.png",)


def test_a_file_that_is_named_and_not_there_is_refused(project):
    (project / "pictures/c.png").unlink()

    with pytest.raises(CorpusError, match=r"pictures/c\.png: the file cannot be read: No such file"):
        read(project)


@pytest.mark.parametrize(("labels", "there"), [("", "there is none"), ("sky", "there is only sky")])
def test_fewer_than_two_labels_are_refused(project, labels, there):
    (project / "pictures/labels.csv").write_text(f"file_name,labels\na.png,{labels}\n")

    with pytest.raises(CorpusError, match=there):
        read(project)


def test_the_files_of_a_table_are_the_table_and_its_pictures(project):
    source = {"kind": "image_table", "path": "pictures/labels.csv"}

    assert files_of_source(source, project).keys() == read(project).inputs.keys()
    (project / "pictures/labels.csv").write_text("nothing")
    assert files_of_source(source, project).keys() == {"pictures/labels.csv"}
