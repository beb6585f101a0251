"""The spec itself: complete, frozen, comparable, and honest about who reads what."""

import copy
import json
import pickle
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.paths import SPECS, STAGES
from pipeline.spec import Section, SpecError, load_spec, parse_spec, stage_values
from pipeline.spec.schema import leaves, resolve

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset: {source: {kind: files, paths: [corpus]}}\n"


def test_every_setting_has_a_value_also_in_sections_that_are_not_in_the_file(spec_of):
    spec = spec_of()

    found = set(spec.leaves())
    source = {"dataset.source.kind", "dataset.source.paths", "dataset.source.format", "dataset.source.text_field"}
    every = {".".join(keys) for keys, _ in leaves()}
    assert found == {name for name in every if not name.startswith("dataset.source.")} | source
    assert spec.training.learning_rate == 1e-3
    assert spec.validation.budgets.rss_mb == 400


def test_only_the_keys_of_the_chosen_kind_are_filled_in(spec_of):
    spec = spec_of()

    assert spec.dataset.source.format == "auto"
    with pytest.raises(AttributeError, match=r"no dataset\.source\.url"):
        _ = spec.dataset.source.url


def test_numbers_have_the_type_that_the_schema_names(spec_of):
    spec = spec_of("training: {batch_size: 8.0, learning_rate: 1}\nexport: {opset: 18.0}")

    assert [type(spec.training.batch_size), type(spec.training.learning_rate)] == [int, float]
    assert type(spec.validation.budgets.rss_mb) is float
    assert type(spec.schema_version) is int


def test_a_spec_cannot_be_changed(spec_of):
    spec = spec_of()

    with pytest.raises(AttributeError, match="cannot be changed"):
        spec.training.epochs = 3
    with pytest.raises(AttributeError, match="cannot be changed"):
        del spec.training.epochs
    with pytest.raises(AttributeError):
        spec.name = "y"
    assert isinstance(spec.export.formats, tuple)


def test_what_a_spec_hands_out_is_a_copy(spec_of):
    spec = spec_of()
    before = spec.to_dict()

    spec.section("export")["formats"].append("exe")
    spec.to_dict()["training"]["epochs"] = 99
    stage_values(spec, "export")["export"]["formats"].clear()

    assert spec.to_dict() == before


def test_a_misnamed_setting_says_what_there_is(spec_of):
    with pytest.raises(AttributeError, match="training has learning_rate"):
        _ = spec_of().training.lr
    with pytest.raises(AttributeError):
        spec_of().section("trainer")
    with pytest.raises(TypeError, match="not a section"):
        spec_of().section("name")


def test_equal_settings_hash_equally_however_they_are_written():
    plain = parse_spec((HEAD + "training: {learning_rate: 0.001, max_grad_norm: 1}").encode(), "a.yaml")
    other = parse_spec(
        (f"# other\n{HEAD}scheduler: {{}}\ntraining: {{learning_rate: 1e-3, max_grad_norm: 1.0}}").encode(), "b"
    )

    assert plain.hash() == other.hash()
    assert plain == other


def test_settings_that_give_another_result_hash_differently(spec_of):
    hashes = {
        spec_of(text).hash() for text in ("", "notes: y", "training: {epochs: 5}", "optimizer: {weight_decay: 0}")
    }

    assert len(hashes) == 3  # notes change nothing


def test_the_resolved_spec_resolves_to_itself():
    spec = load_spec(SPECS / "experiment.yaml")

    again = parse_spec(json.dumps(spec.to_dict()).encode(), "spec.json")

    assert again.to_dict() == spec.to_dict()
    assert again.hash() == spec.hash()


def test_a_spec_can_be_copied_and_pickled():
    spec = load_spec(SPECS / "experiment.yaml")

    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)).hash() == spec.hash()  # noqa: S301 - made on the line itself


def test_no_setting_hides_behind_a_method_of_a_section():
    assert not {key for keys, _ in leaves() for key in keys} & {name for name in vars(Section) if name[0] != "_"}


def test_the_stages_share_out_every_setting_that_has_an_effect():
    spec = load_spec(SPECS / "experiment.yaml")

    read = [name for stage in STAGES for name in spec.leaves(stage)]

    assert set(spec.leaves()) - set(read) == {"schema_version", "kind", "name", "notes"}
    assert spec.leaves("export") == [name for name in spec.leaves() if name.startswith("export.")]
    assert "training.learning_rate" in spec.leaves("train", {"result"})
    assert "logging.console_level" not in spec.leaves("train", {"result", "output"})


def test_the_values_of_a_stage_are_those_leaves_and_no_more():
    spec = load_spec(SPECS / "experiment.yaml")

    found = stage_values(spec, "train", ("none",))

    assert found == {
        "checkpointing": {
            name: value for name, value in spec.section("checkpointing").items() if name != "keep_best_only"
        },
        "logging": {
            name: spec.section("logging")[name]
            for name in (
                "console_level",
                "run_name",
                "wandb_entity",
                "wandb_mode",
                "wandb_project",
            )
        },
    }
    assert stage_values(spec, "export") == {"export": spec.section("export")}


@given(st.floats(min_value=1e-300, max_value=10, exclude_min=True), st.integers(1, 65536))
def test_a_number_survives_its_spelling(rate, size):
    spec = parse_spec(f"{HEAD}training: {{learning_rate: {rate!r}, batch_size: {size}}}".encode(), "x.yaml")

    assert (spec.training.learning_rate, spec.training.batch_size) == (rate, size)


def test_minus_zero_is_zero():
    assert str(resolve({"type": "number"}, -0.0)) == "0.0"


@pytest.mark.parametrize(("written", "resolved"), [(7, "7"), (7.0, "7"), (7.5, "7.5"), (-0.0, "0")])
def test_a_value_that_may_be_whole_or_not_is_whole_where_it_can_be(written, resolved):
    assert str(resolve({"type": ["integer", "number"]}, written)) == resolved


def test_a_spec_is_checked_without_the_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    with pytest.raises(SpecError):
        parse_spec(b"$ref: https://example.org/schema.json\n", "x.yaml")


@pytest.mark.integration
def test_the_room_imports_neither_torch_nor_the_validator_before_they_are_needed():
    code = "import sys, pipeline.spec; print(sorted({'torch', 'numpy', 'jsonschema', 'click'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
