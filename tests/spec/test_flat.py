"""The flat form: names alone, values checked before anything is done with them."""

import copy
import json
import math
import pickle
import re

import pytest

from pipeline.errors import FoundryError
from pipeline.spec import SpecError, load_spec
from pipeline.spec.flat import MODES, TrainingConfig, build_configs_for_mode, compare_configs, print_config_diff
from pipeline.spec.schema import leaves
from pipeline.spec.typed import flat_settings, sections

pytestmark = pytest.mark.unit


def test_every_setting_can_be_named_without_its_section():
    direct = {keys[-1]: keys for keys, _ in leaves() if len(keys) == 2}

    assert direct.items() <= flat_settings().items()


def test_what_is_not_given_has_its_default():
    config = TrainingConfig(learning_rate=5e-5, d_model=384, num_heads=6, name="mine")

    assert (config.learning_rate, config.d_model, config.epochs, config.name) == (5e-5, 384, 4, "mine")
    assert (config.training.learning_rate, config.model.num_layers) == (5e-5, 4)
    assert (config.budgets.rss_mb, config.source.kind) == (400, "wheel")


def test_no_setting_is_hidden_by_a_method():
    assert not set(dir(TrainingConfig)) & {*flat_settings(), *sections()}


def test_a_configuration_cannot_be_changed():
    config = TrainingConfig()

    for name in ("epochs", "spec", "training"):
        with pytest.raises(AttributeError, match="cannot assign"):
            setattr(config, name, 3)
    with pytest.raises(AttributeError, match="cannot be changed"):
        config.training.epochs = 3


def test_a_configuration_can_be_copied_and_sent_to_another_process():
    config = TrainingConfig(epochs=2)

    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config  # noqa: S301 - made here


def test_a_configuration_shows_what_is_unusual_in_it_as_python():
    config = TrainingConfig(epochs=2, source={"kind": "files", "paths": ["x"]}, cleaning={"strip_markdown": True})

    assert "epochs=2" in repr(config)
    assert "batch_size" not in repr(config)
    assert eval(repr(config)) == config  # noqa: S307 - our own text


def test_unknown_names_are_refused_at_once_and_together():
    with pytest.raises(SpecError, match=r"there are 2 problems\n.*`lr`.*did you mean `learning_rate`.*\n.*`colour`"):
        TrainingConfig(lr=1, colour=2, epochs=3)
    with pytest.raises(SpecError, match=r"there are 2 problems\n.*`lr`.*\n.*`training.epochs` must be at least 1"):
        TrainingConfig(lr=1, epochs=0)
    with pytest.raises(AttributeError, match="did you mean `epochs`"):
        _ = TrainingConfig().epoch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 7.0),
        ("max_grad_norm", -1),
        ("weight_decay", -1),
        ("precision", "banana"),
        ("formats", ["exe"]),
        ("model_type", "nope"),
        ("num_layers", 0),
        ("d_ff", -5),
        ("gradient_accumulation_steps", 0),
        ("early_stopping_patience", -3),
        ("strategy", "xyz"),
        ("max_train_samples", -2),
        ("num_heads", 0),
        ("learning_rate", math.nan),
        ("learning_rate", 0),
        ("learning_rate", "5e-5"),
        ("batch_size", True),
        ("devices", True),
        ("devices", 0),
        ("devices", "two"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("warmup_ratio", 1.1),
        ("validation_split", 0.6),
        ("compile_mode", "fast"),
        ("num_nodes", 0),
        ("vocab_size", 0),
        ("max_seq_len", 0),
        ("d_model", 0),
        ("max_val_samples", 0),
        ("save_every_n_epochs", 0),
        ("random_seed", -1),
        ("deterministic", "yes"),
        ("model_name", ""),
    ],
)
def test_a_value_out_of_bounds_is_refused(name, value):
    with pytest.raises(SpecError) as caught:
        TrainingConfig(**{name: value})

    [problem] = caught.value.problems
    assert problem.path == ".".join(flat_settings()[name]) or problem.path.startswith("export.formats")


def test_one_error_has_a_line_for_each_problem():
    with pytest.raises(SpecError) as caught:
        TrainingConfig(dropout=7.0, precision="banana", epochs=0)

    lines = str(caught.value).splitlines()
    assert lines[0] == "the configuration: there are 3 problems"
    assert [line[:4] for line in lines[1:]] == ["  - "] * 3


def test_equal_configurations_hash_equally_whenever_they_are_made():
    first = TrainingConfig(epochs=2, learning_rate=1)
    second = TrainingConfig(learning_rate=1.0, epochs=2)

    assert first.hash() == second.hash()
    assert (first, hash(first)) == (second, hash(second))
    assert first.hash() != TrainingConfig(epochs=3, learning_rate=1).hash()


def test_a_saved_configuration_is_loaded_again(tmp_path):
    config = TrainingConfig(epochs=2, budgets={"rss_mb": None})

    path = config.save(tmp_path / "config.yaml")

    assert TrainingConfig.load(path) == config
    assert load_spec(path) == config.spec


def test_json_says_the_same(tmp_path):
    config = TrainingConfig(epochs=2, notes="ünïcode")

    path = config.save(tmp_path / "config.json")

    assert json.loads(path.read_text()) == json.loads(config.to_json()) == config.to_dict()
    assert TrainingConfig.load(path) == config


def test_the_default_name_says_when(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    path = TrainingConfig().save()

    assert re.fullmatch(r"config_\d{8}_\d{6}\.yaml", path.name)
    assert load_spec(path).name == "experiment"


def test_an_unknown_key_in_a_file_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(TrainingConfig().to_yaml().replace("  epochs:", "  epoch:"))

    with pytest.raises(SpecError, match="did you mean `epochs`"):
        TrainingConfig.load(path)


def test_differences_are_those_of_resolved_values(capsys):
    first = TrainingConfig(name="a", epochs=4)
    second = TrainingConfig(name="b", epochs=2, source={"kind": "files", "paths": ["x"]})

    found = compare_configs(first, second)
    print_config_diff(first, second)

    assert found["changed"]["training.epochs"] == (4, 2)
    assert found["added"] == {"dataset.source.paths": ["x"]}
    assert {"dataset.source.package", "dataset.source.members"} <= found["removed"].keys()
    assert not {"name", "training.batch_size"} & found["changed"].keys()
    assert "training.epochs: 4 -> 2\n" in capsys.readouterr().out


def test_equal_configurations_have_no_differences(capsys):
    assert compare_configs(TrainingConfig(), TrainingConfig(epochs=4)) == {"changed": {}, "added": {}, "removed": {}}
    print_config_diff(TrainingConfig(), TrainingConfig())
    assert capsys.readouterr().out == "no differences\n"


# mode → epochs, batch, vocabulary, sequence length, learning rate
MODE_TABLE = {
    "FAST_DEV": (1, 2, 101, 64, 5e-4),
    "STANDARD_EXPERIMENT": (3, 8, 50257, 128, 1e-4),
    "ABLATION_SWEEP": (2, 4, 1000, 128, 2e-4),
}


@pytest.mark.parametrize("mode", MODE_TABLE)
def test_a_mode_gives_settings_task_and_evaluation(mode):
    config, task, evaluation = build_configs_for_mode(mode)

    found = (config.epochs, config.batch_size, config.vocab_size, config.max_seq_len, config.learning_rate)
    assert found == MODE_TABLE[mode]
    assert (config.task_name, task.kind, task.name) == ("lm_tiny", "task", "lm_tiny")
    values = (evaluation.dataset_id, evaluation.split, evaluation.max_eval_examples, evaluation.num_workers)
    assert values == ("lm_tiny_v1", "validation", 16, 0)
    assert evaluation.batch_size == max(2, config.batch_size)
    assert (evaluation.eval_interval_steps, evaluation.eval_on_start) == (100, True)


def test_modes_are_those_of_the_table_in_any_case():
    assert {mode.upper() for mode in MODES} == MODE_TABLE.keys()
    assert build_configs_for_mode("Fast_Dev")[0] == build_configs_for_mode("fast_dev")[0]


def test_an_unknown_mode_is_answered_with_the_one_that_was_meant():
    with pytest.raises(FoundryError) as caught:
        build_configs_for_mode("FASTDEV")

    assert caught.value.hint == "did you mean fast_dev?"
