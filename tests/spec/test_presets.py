"""Presets: the promised values, figures that are computed, and a valid spec from each."""

import pytest

from pipeline.errors import FoundryError
from pipeline.spec import SpecError, load_spec
from pipeline.spec.edit import parse_assignment
from pipeline.spec.estimate import plan, text_of_bytes
from pipeline.spec.flat import TrainingConfig
from pipeline.spec.presets import (
    LARGEST_FOR,
    PRESETS,
    SIZES,
    author,
    estimate_of,
    expand,
    names,
    read,
    read_preset,
    recommend,
)
from pipeline.spec.schema import leaves

pytestmark = pytest.mark.unit

FIVE = ("quick_prototype", "baseline", "production", "distributed", "low_memory")
TABLE = {
    "num_layers": (6, 12, 12, 24, 6),
    "d_model": (512, 768, 768, 1024, 384),
    "num_heads": (8, 12, 12, 16, 6),
    "d_ff": (2048, 3072, 3072, 4096, 1536),
    "max_seq_len": (128, 128, 256, 256, 128),
    "vocab_size": (50257, 50257, 50257, 50257, 50257),
    "learning_rate": (5e-4, 5e-5, 3e-5, 1e-4, 5e-5),
    "batch_size": (8, 4, 8, 8, 2),
    "gradient_accumulation_steps": (1, 1, 4, 2, 8),
    "epochs": (3, 10, 20, 15, 10),
    "warmup_ratio": (0.05, 0.1, 0.1, 0.1, 0.1),
    "early_stopping_patience": (2, 5, 10, 8, 5),
    "compile_mode": (None, "default", "reduce-overhead", "default", None),
    "precision": ("auto", "bf16-mixed", "bf16-mixed", "bf16-mixed", "16-mixed"),
    "strategy": ("auto", "auto", "auto", "ddp", "auto"),
    "devices": ("auto", "auto", "auto", 4, 1),
    "save_every_n_epochs": (1, 5, 2, 3, 5),
    "keep_best_only": (True, False, False, False, True),
    "export_bundle": (False, False, True, False, False),
    "deterministic": (False, False, True, False, False),
    "max_train_samples": (None, None, None, None, 10000),
    "max_val_samples": (None, None, None, None, 1000),
    "random_seed": (42,) * 5,
    "weight_decay": (0.01,) * 5,
    "max_grad_norm": (1.0,) * 5,
    "validation_split": (0.1,) * 5,
    "model_type": ("gpt",) * 5,
}


@pytest.mark.parametrize("setting", TABLE)
def test_the_five_presets_have_the_values_that_are_promised(setting):
    found = tuple(getattr(TrainingConfig.from_spec(expand(read_preset(name))), setting) for name in FIVE)

    assert found == TABLE[setting]


def test_production_exports_what_is_promised():
    assert expand(read_preset("production")).export.formats == ("onnx", "torchscript")


def test_accumulation_has_one_name():
    assert [".".join(keys) for keys, _ in leaves() if "accum" in keys[-1]] == ["training.gradient_accumulation_steps"]


@pytest.mark.parametrize("name", names(PRESETS))
def test_a_preset_passes_the_check_and_expands_to_a_spec_that_does(name):
    document, spec = load_spec(PRESETS / f"{name}.yaml", "preset"), expand(read_preset(name))

    unsupported = {"production", "low_memory"}  # a bundle, float16
    assert {warning.code for warning in (*document.warnings, *spec.warnings)} <= (
        {"W0103"} if name in unsupported else set()
    )
    assert document.name == name == spec.name


# The shapes of GPT-2 and its relatives with tied embeddings; the same arithmetic by hand for one of them:
# 50257·512 + 128·512 + 6·(12·512² + 13·512) + 2·512 = 44,712,448.
COUNTS = {
    "quick_prototype": 44_712_448,
    "baseline": 123_751_680,
    "production": 123_849_984,
    "distributed": 354_036_736,
    "low_memory": 29_995_392,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_true_ones(name):
    assert estimate_of(expand(read_preset(name))).parameters == COUNTS[name]


def test_memory_is_what_the_plan_says():
    spec = expand(read_preset("tiny"))
    sizes = {"train": 4_000_000, "validation": 500_000, "test": 500_000}
    text = text_of_bytes(sizes, tokenizer_type="unigram", vocab_size=2048, source="")

    planned = plan(spec.to_dict(), text, None)

    assert estimate_of(spec).memory_mb == planned["memory_mb"]["peak_rss"]


def test_memory_of_a_gpu_is_not_foreseen():
    spec = author("x", "tiny", settings=[parse_assignment("hardware.device=cuda")])

    assert estimate_of(spec).memory_mb is None


# The ranges that the one-command pipeline promised for its example configurations.
SCENARIOS = ("quick_test", "high_quality", "low_memory_device", "balanced", "custom_corpus")
RANGES = {
    "vocab_size": (1000, 32000),
    "num_layers": (1, 12),
    "d_model": (64, 512),
    "num_heads": (1, 16),
    "d_ff": (128, 2048),
    "batch_size": (1, 128),
    "learning_rate": (1e-5, 1e-2),
    "epochs": (1, 100),
    "max_seq_len": (32, 2048),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_stays_within_the_ranges_that_were_promised(name):
    config = TrainingConfig.from_spec(expand(read_preset(name)))

    assert all(low <= getattr(config, setting) <= high for setting, (low, high) in RANGES.items())
    assert config.warnings == ()
    assert config.source.kind == "wheel"  # it runs as it stands


def test_scenarios_are_ordered_by_what_they_spend():
    quick, device, balanced, best = (
        estimate_of(expand(read_preset(name)))
        for name in ("quick_test", "low_memory_device", "balanced", "high_quality")
    )

    assert quick.flops < device.flops < balanced.flops < best.flops
    of_text = [name for name in names(PRESETS) if name != "vision_tiny"]
    assert device.memory_mb == min(estimate_of(expand(read_preset(name))).memory_mb for name in of_text)
    assert balanced.hours() < 0.2


def test_hours_follow_from_operations_and_pace():
    cost = estimate_of(expand(read_preset("tiny")))

    assert cost.hours(1e12) == pytest.approx(cost.flops / 1e12 / 3600)
    assert cost.hours() == pytest.approx(10 * cost.hours(1e12))
    assert cost.tokens == 1500 * 16 * 128  # max_steps · batch_size · max_seq_len


def test_a_run_that_ends_with_its_epochs_is_not_charged_for_more_steps():
    cost = estimate_of(expand(read_preset("quick_prototype")))

    assert cost.tokens < 4_950_000 * 3  # bytes of the corpus, three epochs


def test_sizes_grow():
    costs = [estimate_of(expand(read_preset(name))) for name in SIZES]

    assert [cost.parameters for cost in costs] == sorted({cost.parameters for cost in costs})
    assert [cost.hours() for cost in costs] == sorted({cost.hours() for cost in costs})


@pytest.mark.parametrize("goal", LARGEST_FOR)
def test_the_largest_preset_that_fits_the_time_is_recommended(goal):
    hours = {name: estimate_of(expand(read_preset(name))).hours() for name in SIZES}

    for budget in (0.2, 1.0, 20.0, 1000.0):
        fitting = [name for name in SIZES[: SIZES.index(LARGEST_FOR[goal]) + 1] if hours[name] <= budget]
        assert recommend(goal, budget).name == fitting[-1]


def test_a_faster_machine_gets_a_larger_preset():
    assert recommend("research", 0.5).name == "tiny"
    assert recommend("research", 0.5, flops_per_second=1e14).name == "large"


@pytest.mark.parametrize(
    ("goal", "hours", "message"),
    [
        ("reserch", 1, "there is no goal called reserch"),
        ("learning", 0.0001, r"no preset trains in 0\.0001 hours"),
        ("learning", float("nan"), "no preset trains in nan hours"),
    ],
)
def test_what_cannot_be_recommended_is_an_error(goal, hours, message):
    with pytest.raises(FoundryError, match=message) as caught:
        recommend(goal, hours)

    assert caught.value.hint


MINE = "schema_version: 1\nkind: preset\nname: mine\ntitle: Mine\ndescription: Mine.\n"


def test_a_file_can_be_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{MINE}values: {{training: {{epochs: 7}}}}\n")

    assert expand(read_preset(str(path))).training.epochs == 7


def test_what_is_no_preset_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema_version: 1\nkind: preset\nname: mine\ntitle: Mine\ndescription: Mine.\nvalues: {trainig: {}}\n"
    )

    with pytest.raises(SpecError, match="did you mean `training`"):
        read_preset(str(path))
    with pytest.raises(FoundryError, match="a preset or a template is needed"):
        read("specs/experiment.yaml")
    with pytest.raises(FoundryError, match="is a template, not a preset"):
        read_preset("dpo")
    with pytest.raises(FoundryError) as caught:
        read("basline")
    assert caught.value.hint == "did you mean baseline?"
