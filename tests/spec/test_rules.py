"""Rules between settings: each fires where it must, stays silent where it must, and says what would be right."""

import pytest

from pipeline.spec import parse_spec
from pipeline.spec.diagnose import CODES
from pipeline.spec.rules import RULES, UNREAD
from pipeline.spec.schema import schema_at, schema_of

pytestmark = pytest.mark.unit
NO_BUDGETS = (
    "{val_loss: null, rss_mb: null, peak_mb: null, latency_p95_ms: null, model_mb: null, training_minutes: null}"
)


def test_rules_read_settings_that_exist_under_codes_that_exist():
    for kind, rules in RULES.items():
        for rule in rules:
            assert rule.code in CODES
            assert all("type" in schema_at(name.split("."), schema_of(kind)) for name in rule.reads)
    for kind, rows in UNREAD.items():
        for row in rows:
            assert "default" in schema_at(row.setting.split("."), schema_of(kind))
            assert "type" in schema_at(row.reads.split("."), schema_of(kind))


@pytest.mark.parametrize(
    ("text", "code", "path", "hint"),
    [
        ("model: {num_heads: 5}", "E0401", "model.num_heads",
         "with d_model 192 take num_heads 4 or 6, or with num_heads 5 take d_model 190 or 195"),
        ("model: {d_model: 100}", "E0401", "model.d_model",
         "with d_model 100 take num_heads 2 or 4, or with num_heads 3 take d_model 99 or 102"),
        ("model: {num_heads: 6, num_kv_heads: 4}", "E0402", "model.num_kv_heads", "take num_kv_heads 3 or 6"),
        ("model: {d_model: 99, num_heads: 3}", "E0403", "model.num_heads", "with num_heads 3 take d_model 96 or 102"),
        ("validation: {split: test}", "E0405", "validation.split",
         "set dataset.test_split above 0, or choose another validation.split"),
        ("training: {max_steps: 5}\nscheduler: {warmup_steps: 6}", "E0406", "scheduler.warmup_steps",
         "lower scheduler.warmup_steps"),
        ("scheduler: {scheduler_type: wsd, decay_ratio: 0.99}", "E0407", "scheduler.decay_ratio",
         "their sum can be 1 at most"),
        ("training: {max_steps: 10}\nscheduler: {scheduler_type: wsd, warmup_steps: 9}", "E0407",
         "scheduler.scheduler_type", "their sum can be 1 at most"),
        ("tokenizer: {vocab_size: 200}", "E0408", "tokenizer.vocab_size",
         "take more than 260, or set byte_fallback to false"),
        ("tokenizer: {special_tokens: [<s>, <x>]}", "E0409", "tokenizer.special_tokens", "remove <s> from the list"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_where_it_can_be_mended(problems_of, text, code, path, hint):
    [problem] = problems_of(text)

    assert (problem.code, problem.path, problem.hint) == (code, path, hint)
    assert problem.line >= 5


@pytest.mark.parametrize(
    "text",
    [
        "model: {num_heads: 4, num_kv_heads: 4}",
        "model: {model_type: gpt, d_model: 99, num_heads: 3}",
        "training: {max_steps: 6}\nscheduler: {warmup_steps: 6}",
        "scheduler: {warmup_steps: 1000000}",
        "scheduler: {scheduler_type: cosine, warmup_ratio: 0.9, decay_ratio: 0.2}",
        "scheduler: {scheduler_type: wsd, warmup_ratio: 0.8, decay_ratio: 0.2}",
        "tokenizer: {vocab_size: 200, byte_fallback: false}",
        "tokenizer: {vocab_size: 261}",
    ],
)
def test_what_is_right_or_not_yet_known_is_not_reported(problems_of, text):
    assert problems_of(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "model: {num_heads: five, d_model: 191}",
        "model: {num_heds: 4, d_model: 256}",
        "modle: {num_heads: 4}\nvalidation: {split: validation}",
        "model: []",
        "tokenizer: {vocab_size: 200, special_tokens: [3]}",
        "model: {num_heads: .nan, d_model: 191}",
        "model: {num_heads: 3, num_heads: 5}",
    ],
)
def test_one_mistake_is_one_message(problems_of, text):
    assert len(problems_of(text)) == 1


def test_a_key_in_the_wrong_section_does_not_hide_what_is_wrong_beside_it(problems_of):
    codes = [problem.code for problem in problems_of("model: {num_heads: 5, weight_decay: 0.1}")]

    assert codes == ["E0401", "E0202"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("scheduler: {warmup_steps: 1, warmup_ratio: 0.2}", "scheduler.warmup_ratio"),
        ("scheduler: {decay_ratio: 0.5}", "scheduler.decay_ratio"),
        ("scheduler: {scheduler_type: constant, min_lr_ratio: 0.5}", "scheduler.min_lr_ratio"),
        ("training: {early_stopping_min_delta: 0.1}", "training.early_stopping_min_delta"),
        ("model: {model_type: gpt, rope_theta: 5000}", "model.rope_theta"),
        ("export: {formats: [pytorch], opset: 20}", "export.opset"),
        ("hardware: {device: cpu, use_tf32: false}", "hardware.use_tf32"),
        ("hardware: {precision: bf16, use_tf32: false}", "hardware.use_tf32"),
        ("hardware: {compile_mode: null, compile_fullgraph: true}", "hardware.compile_fullgraph"),
        ("hardware: {compile_mode: null, compile_dynamic: true}", "hardware.compile_dynamic"),
        ("logging: {sample_max_new_tokens: 9}", "logging.sample_max_new_tokens"),
        ("logging: {sample_prompts: [], sample_temperature: 0.3}", "logging.sample_temperature"),
        ("validation: {temperature: 0, generation_seed: 7}", "validation.generation_seed"),
        (f"validation: {{on_budget_failure: warn, budgets: {NO_BUDGETS}}}", "validation.on_budget_failure"),
    ],
)
def test_a_setting_that_nothing_reads_is_a_warning_at_its_key(spec_of, text, path):
    [warning] = spec_of(text).warnings

    assert (warning.code, warning.path, warning.is_warning) == ("W0102", path, True)


def test_an_unusual_value_is_a_warning(spec_of):
    [warning] = spec_of("model: {dropout: 0.6}").warnings

    assert (warning.code, warning.path) == ("W0101", "model.dropout")


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        ("training: {learning_rate: 0.05}", "W0101", "training.learning_rate"),
        ("training: {learning_rate: 2e-3}\nmodel: {d_model: 1536}", "W0101", "training.learning_rate"),
        ("hardware: {use_amp: true, precision: 32-true}", "W0105", "hardware.use_amp"),
        ("hardware: {precision: '32', device: cuda}", "W0106", "hardware.precision"),
        ("scheduler: {warmup_ratio: 0.02}\ntraining: {max_steps: 20}", "W0107", "scheduler.warmup_ratio"),
        ("hardware: {compile_mode: default}\ntraining: {max_steps: 50}", "W0108", "hardware.compile_mode"),
        ("training: {max_steps: 50, eval_every_n_steps: 51}", "W0109", "training.eval_every_n_steps"),
        (
            "training: {max_steps: 50}\ncheckpointing: {save_every_n_steps: 51}",
            "W0109",
            "checkpointing.save_every_n_steps",
        ),
        ("export: {formats: [torchscript]}", "W0110", "export.formats"),
    ],
)
def test_what_is_right_but_rarely_meant_is_a_warning(spec_of, text, code, path):
    [warning] = spec_of(text).warnings

    assert (warning.code, warning.path) == (code, path)


def test_a_strategy_for_many_devices_on_one_is_a_warning(spec_of):
    codes = {warning.code for warning in spec_of("hardware: {strategy: ddp, devices: [0]}").warnings}

    assert "W0104" in codes


@pytest.mark.parametrize(
    "text",
    [
        "training: {learning_rate: 1e-3}\nmodel: {d_model: 4096, num_heads: 32}",
        "training: {learning_rate: 2e-3}\nmodel: {d_model: 768, num_heads: 12}",
        "training: {learning_rate: 1e-2}\nmodel: {d_model: 96}",
        "hardware: {use_amp: true, precision: bf16-mixed, device: cuda}",
        "scheduler: {warmup_ratio: 0.0}\ntraining: {max_steps: 20}",
        "scheduler: {warmup_ratio: 0.05, warmup_steps: 1}\ntraining: {max_steps: 9}",
        "training: {max_steps: 5}",
        "hardware: {compile_mode: default}\ntraining: {max_steps: 5000}",
        "hardware: {compile_mode: default}",
        "training: {max_steps: 50, eval_every_n_steps: 50}\ncheckpointing: {save_every_n_steps: 50}",
        "export: {formats: [onnx, torchscript]}",
        "validation: {on_budget_failure: warn}",
    ],
)
def test_what_is_usual_or_was_not_written_is_no_warning(spec_of, text):
    assert spec_of(text).warnings == ()


def test_the_checker_and_the_train_stage_agree_from_when_on_compiling_pays():
    from pipeline.spec.oddities import FLOPS_WORTH_COMPILING
    from pipeline.training import hardware

    assert hardware.worth_compiling(FLOPS_WORTH_COMPILING)
    assert not hardware.worth_compiling(FLOPS_WORTH_COMPILING * 0.999)


def test_an_idle_setting_at_its_default_is_no_warning(spec_of):
    assert spec_of("scheduler: {warmup_steps: 1, warmup_ratio: 0.05, decay_ratio: 0.2}").warnings == ()


@pytest.mark.parametrize(
    ("dataset", "text", "path"),
    [
        ("validation_split: 0, test_split: 0.1, max_val_samples: 3", "", "dataset.max_val_samples"),
        ("validation_split: 0, test_split: 0.1", "training: {eval_every_n_steps: 9}", "training.eval_every_n_steps"),
        ("cleaning: {strip_markdown: true}", "", "dataset.cleaning.strip_markdown"),
    ],
)
def test_a_setting_that_the_corpus_makes_idle_is_a_warning(dataset, text, path):
    source = "source: {kind: files, paths: [a], format: text}"
    judged = "test" if "validation_split: 0" in dataset else "validation"
    spec = f"schema_version: 1\nname: x\ndataset: {{{source}, {dataset}}}\nvalidation: {{split: {judged}}}\n{text}"

    [warning] = parse_spec(spec.encode(), "x.yaml").warnings

    assert (warning.code, warning.path) == ("W0102", path)


def test_the_revision_of_a_folder_is_a_warning():
    source = f"source: {{kind: hub, repository: ./tales, revision: {'a' * 40}}}"

    [warning] = parse_spec(f"schema_version: 1\nname: x\ndataset: {{{source}}}\n".encode(), "x.yaml").warnings

    assert (warning.code, warning.path) == ("W0102", "dataset.source.revision")


def test_early_stopping_without_a_validation_split_is_a_warning():
    dataset = "dataset: {source: {kind: files, paths: [a]}, validation_split: 0, test_split: 0.1}"
    text = (
        f"schema_version: 1\nname: x\n{dataset}\nvalidation: {{split: test}}\ntraining: {{early_stopping_patience: 3}}"
    )

    [warning] = parse_spec(text.encode(), "x.yaml").warnings

    assert (warning.path, warning.line) == ("training.early_stopping_patience", 5)
