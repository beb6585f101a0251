"""The single-file schema for editors: fresh, self-contained, and of one mind with the files it is made from."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from pipeline.paths import SPECS
from pipeline.spec.bundle import bundle, bundle_path, bundle_text
from pipeline.spec.document import read_document

pytestmark = pytest.mark.unit


def test_the_bundle_is_fresh():
    assert bundle_path().read_text(encoding="utf-8") == bundle_text(), "run: python -m pipeline.spec.bundle"


def test_the_bundle_refers_to_nothing_outside_itself():
    references = set(re.findall(r'"\$ref": "([^"]*)"', bundle_text()))

    assert references == {f"#/$defs/{name}" for name in bundle()["$defs"]}
    assert "$id" not in bundle()


def test_the_bundle_accepts_the_experiment_and_refuses_a_slip_in_it():
    validator = Draft202012Validator(json.loads(bundle_path().read_text()), registry=Registry())
    values = read_document(SPECS / "experiment.yaml").values

    assert validator.is_valid(values)
    values["training"]["batch_size"] = 0
    assert not validator.is_valid(values)
