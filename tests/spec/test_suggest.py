"""Did-you-mean: other tools' names, slips, and keys in the wrong section."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.names import NAMES, NEEDLESS, VALUES
from pipeline.spec.nearest import closest, edit_distance
from pipeline.spec.schema import leaves, schema_at, schema_of
from pipeline.spec.suggest import suggest_key, suggest_value

pytestmark = pytest.mark.unit


def test_every_name_of_another_tool_leads_to_a_key_that_exists():
    for targets in NAMES.values():
        for target in targets:
            assert schema_at(target.split("."))


def test_no_name_of_another_tool_is_one_of_ours_in_a_section():
    ours = {keys[-1] for keys, _ in leaves() if len(keys) == 2}

    assert not ours & NAMES.keys()


def test_every_value_of_another_tool_leads_to_a_choice_that_exists():
    for setting, meanings in VALUES.items():
        schema = schema_at(setting.split("."))
        choices = schema.get("enum") or schema["items"]["enum"]
        for written, meant in meanings.items():
            assert meant in [*choices, "null"]
            assert written not in choices


@pytest.mark.parametrize(
    ("name", "section", "meant"),
    [
        ("lr", "training", "training.learning_rate"),
        ("lr", "optimizer", "training.learning_rate"),
        ("LR", "training", "training.learning_rate"),
        ("n_layer", "model", "model.num_layers"),
        ("n_head", "model", "model.num_heads"),
        ("n_embd", "model", "model.d_model"),
        ("hidden_size", "model", "model.d_model"),
        ("num_hidden_layers", "model", "model.num_layers"),
        ("block_size", "model", "model.max_seq_len"),
        ("max_length", "training", "model.max_seq_len"),
        ("num_train_epochs", "training", "training.epochs"),
        ("per_device_train_batch_size", "training", "training.batch_size"),
        ("seed", "training", "reproducibility.random_seed"),
        ("fp16", "training", "hardware.precision"),
        ("eps", "optimizer", "optimizer.adam_epsilon"),
        ("eps", "model", "model.norm_epsilon"),
        ("learning-rate", "training", "training.learning_rate"),
        ("training.learning_rate", "", "training.learning_rate"),
        ("learning_rat", "training", "training.learning_rate"),
        ("leraning_rate", "training", "training.learning_rate"),
        ("learning_rat", "model", "training.learning_rate"),
        ("trainning", "", "training"),
        ("data", "", "dataset"),
        ("format", "export", "export.formats"),
        ("strip_markdown", "dataset", "dataset.cleaning.strip_markdown"),
        ("type", "scheduler", "scheduler.scheduler_type"),
        ("type", "dataset.source", "dataset.source.kind"),
        ("save_steps", "training", "checkpointing.save_every_n_steps"),
    ],
)
def test_a_key_is_understood(name, section, meant):
    found = suggest_key(name, tuple(filter(None, section.split("."))), {})

    assert ".".join(found.keys) == meant


def test_a_key_like_none_of_ours_is_left_alone():
    assert suggest_key("colour", (), {}) is None


def test_a_name_that_many_settings_could_have_says_nothing_elsewhere():
    assert suggest_key("type", ("validation",), {}) is None


def test_a_name_that_stands_where_it_belongs_is_another_tools_name_in_a_section():
    assert suggest_key("name", ("optimizer",), {}, given={("name",)}).keys == ("optimizer", "optimizer_name")
    assert suggest_key("name", ("optimizer",), {}).exact


def test_what_need_not_be_said_is_no_setting_and_no_other_tools_name_of_one():
    assert not NEEDLESS.keys() & ({keys[-1] for keys, _ in leaves()} | NAMES.keys())


def test_of_equally_near_keys_the_one_that_is_not_there_yet_is_meant():
    assert suggest_key("adam_beta3", ("optimizer",), {"adam_beta1": 0.9}).keys == ("optimizer", "adam_beta2")


def test_only_keys_of_the_chosen_kind_are_suggested():
    assert suggest_key("path", ("dataset", "source"), {"kind": "files"}).keys[-1] == "paths"
    assert suggest_key("urls", ("dataset", "source"), {"kind": "url"}).keys[-1] == "url"
    assert suggest_key("name", ("dataset", "source"), {"kind": "hub"}, given={("name",)}).keys[-1] == "repository"
    assert suggest_key("name", ("dataset", "source"), {"kind": "files"}, given={("name",)}).keys == ("name",)


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [
        ("hardware.precision", "bfloat16", "bf16-mixed"),
        ("hardware.precision", "fp32", "32-true"),
        ("hardware.compile_mode", False, "null"),
        ("tokenizer.tokenizer_type", "unigramm", "unigram"),
        ("model.model_type", "Llama", "llama"),
        ("model.model_type", "banana", None),
    ],
)
def test_a_value_is_understood(path, value, meant):
    assert suggest_value(path, value, schema_at(path.split("."))["enum"]) == meant


WORD = st.text("abc_", max_size=8)


@given(WORD, WORD, WORD)
def test_edit_distance_is_symmetric_and_zero_only_for_equal_words(first, second, third):
    assert edit_distance(first, second) == edit_distance(second, first)
    assert (edit_distance(first, second) == 0) == (first == second)
    assert edit_distance(first + third, second + third) <= edit_distance(first, second)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("lr", "rl", 1), ("ca", "abc", 3), ("epoch", "epochs", 1)],
)
def test_edit_distance_counts_slips_of_the_hand(first, second, distance):
    assert edit_distance(first, second) == distance


def test_the_nearest_word_is_found_only_when_it_is_near():
    assert closest("batch_siz", ["batch_size", "epochs"]) == "batch_size"
    assert closest("x", ["y"]) is None
    assert closest("dropout", []) is None


def test_of_several_homes_of_a_name_the_one_that_misses_it_is_meant():
    tiers, given = schema_of("tiers"), {("gradient_flow", "seq_len"), ("speed", "seq_len")}

    assert suggest_key("seq_len", ("export",), {}, tiers, given).keys not in given
    assert suggest_key("seq_len", ("export",), {}, tiers).keys in given


def test_a_setting_of_a_preset_is_found_in_its_section_before_a_slip_is():
    found = suggest_key("d_model", ("values",), {}, schema_of("preset"))

    assert (found.keys, found.exact) == (("values", "model", "d_model"), True)
