"""The single-file schema for editors: fresh, self-contained, and of one mind with the files it is made from."""

import json

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from pipeline.paths import SPECS
from pipeline.spec.bundle import bundle_path, bundle_text
from pipeline.spec.document import read_document
from pipeline.spec.schema import kinds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", kinds())
def test_a_bundle_is_fresh_and_whole(kind):
    assert bundle_path(kind).read_text(encoding="utf-8") == bundle_text(kind), "run: python -m pipeline.spec.bundle"
    assert '"$ref"' not in bundle_text(kind)
    assert '"$id"' not in bundle_text(kind)


def test_there_is_no_bundle_without_a_schema():
    assert {path.stem for path in bundle_path().parent.iterdir()} == set(kinds())


def test_the_bundle_accepts_the_experiment_and_refuses_a_slip_in_it():
    validator = Draft202012Validator(json.loads(bundle_path().read_text()), registry=Registry())
    values = read_document(SPECS / "experiment.yaml").values

    assert validator.is_valid(values)
    values["training"]["batch_size"] = 0
    assert not validator.is_valid(values)


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"training": {"epochs": 3}}, True),
        ({"training": {"epochs": "${epochs}"}}, True),
        ({"training": "${training}", "export": {"formats": ["${format}", "onnx"]}}, True),
        ({"training": {"epcohs": 3}}, False),
        ({"training": {"epochs": "3"}}, False),
        ({"training": {"epochs": 0}}, False),
        ({"export": {"formats": ["${format}", "onxx"]}}, False),
    ],
)
def test_the_values_of_a_template_are_settings_of_what_it_becomes_or_holes(values, valid):
    validator = Draft202012Validator(json.loads(bundle_path("template").read_text()), registry=Registry())
    template = {"schema_version": 1, "kind": "template", "name": "x", "description": "y", "for": "experiment"}

    assert validator.is_valid({**template, "values": values}) == valid
