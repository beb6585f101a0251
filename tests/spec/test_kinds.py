"""Documents that are no experiments: their rules, what is said about keys and values deep inside, what is shipped."""

import random
import re
from pathlib import Path

import pytest

from pipeline.paths import SPECS
from pipeline.spec import SpecError, load_spec, parse_spec
from pipeline.spec.document import dotted, parse_document
from pipeline.spec.kind_names import NAMES_OF_KINDS, VALUES_OF_KINDS
from pipeline.spec.kind_rules import INNER_RULES_OF_KINDS
from pipeline.spec.schema import resolve, schema_at, schema_of

pytestmark = pytest.mark.unit
SHIPPED = [
    path
    for folder in ("corpora", "evaluations", "monitoring", "policies", "sweeps", "tasks", "tiers")
    for path in sorted((SPECS / folder).iterdir())
]
COMPLETE = [*SHIPPED, Path(__file__).parents[1] / "cases/finetune/valid/complete.yaml"]
LEAST = {
    "task": "task_type: lm\nmodel_family: decoder_only\ninput_fields: [text]\n",
    "evaluation": "",
    "sweep": "method: grid\n",
    "policy": "",
    "monitoring": "",
    "tiers": "",
    "finetune": (
        "model: {name: a/b}\ntraining: {method: sft, %s}\n"
        "data: {strategy: knowledge_dense, generation_type: real}\ntools: []\n"
    ),
}


def found_in(kind, text):
    """The problems and warnings of a short document: the least that a kind needs and a text."""
    whole = f"schema_version: 1\nkind: {kind}\nname: x\n{text}"
    try:
        return parse_spec(whole.encode(), "x.yaml", kind=None).warnings
    except SpecError as error:
        return error.problems


def param_ids(paths):
    return [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in paths]


@pytest.mark.parametrize(
    ("kind", "text", "code", "path", "message", "hint"),
    [
        ("task", "task_type: lm\nmodel_family: encoder_only\ninput_fields: [text]", "E0501", "model_family",
         "task type lm does not work with model family encoder_only", "take decoder_only"),
        ("task", "task_type: seq2seq\nmodel_family: encoder_only\ninput_fields: [text]", "E0501", "model_family",
         "task type seq2seq does not work with model family encoder_only", "take encoder_decoder or decoder_only"),
        ("task", LEAST["task"] + "metrics: [f1, precision]", "E0507", "metrics",
         "task type lm has no f1 or precision", "remove f1 and precision from the metrics"),
        ("evaluation", "data_quality: {high_below: 0.1}", "E0511", "data_quality.high_below",
         "good_below 0.2 is not below high_below 0.1", "lower good_below, or raise high_below"),
        ("monitoring", "drift: {alert_threshold: 0.1}", "E0511", "drift.alert_threshold",
         "warn_threshold 0.1 is not below alert_threshold 0.1", "lower warn_threshold, or raise alert_threshold"),
        ("sweep", "method: grid\nspace: {lr: [1]}", "E0521", "space.lr",
         "an experiment has no setting `lr`", "did you mean `training.learning_rate`?"),
        ("sweep", "method: grid\nspace: {model.dmodel: [1]}", "E0521", "space.model.dmodel",
         "an experiment has no setting `model.dmodel`", "did you mean `model.d_model`?"),
        ("sweep", "method: grid\nspace: {colour: [1]}", "E0521", "space.colour",
         "an experiment has no setting `colour`", "see specs/experiment.yaml for all settings"),
        ("sweep", "method: grid\nspace: {model: [1]}", "E0521", "space.model",
         "`model` is a section of an experiment, not a setting", "name a setting, as model.model_name"),
        ("sweep", "method: grid\nspace: {model.dropout: [0, 1]}", "E0522", "space.model.dropout[1]",
         "`model.dropout` cannot be 1: it takes a number at least 0 and below 1", "take it out of the sweep"),
        ("sweep", "method: grid\nspace: {dataset.source.url: [3]}", "E0522", "space.dataset.source.url[0]",
         "`dataset.source.url` cannot be 3: it takes text", "take it out of the sweep"),
        ("sweep", "method: grid\nspace: {model.num_layers: {kind: range, low: 1, high: 4, step: 0.5}}", "E0522",
         "space.model.num_layers.step",
         "`model.num_layers` cannot be 1.5: it takes a whole number from 1 to 1024", ""),
        ("sweep", "method: tpe\nspace: {model.dropout: [0]}", "E0525", "method",
         "a sweep by tpe never ends without a budget", "set budget.max_trials or budget.max_minutes"),
        ("tiers", "tiers: [1, 3]\nrobustness: {samples: 5}", "W0102", "robustness.samples",
         "`robustness.samples` has no effect: tier 2 does not run", "remove it"),
        ("policy", "triggers: [{kind: time}, {kind: time}]", "E0532", "triggers[1]",
         "a second trigger is called time_trigger", "give it another `name`"),
        ("finetune", LEAST["finetune"] % "use_lora: true", "E0541", "training.use_lora",
         "use_lora needs lora_r", "add `lora_r: 8`, or 16 for more capacity"),
        ("finetune", LEAST["finetune"] % "learning_rate: 0.01", "W0202", "training.learning_rate",
         "learning rate 0.01 is above 1e-3, where fine-tuning forgets what was learned", "try 2e-4 or less"),
        ("finetune", LEAST["finetune"] % "lora_alpha: 16", "W0102", "training.lora_alpha",
         "`training.lora_alpha` has no effect: use_lora is false", "remove it"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_said_once_with_what_would_be_right(kind, text, code, path, message, hint):
    [problem] = found_in(kind, text)

    assert (problem.code, problem.path, problem.message, problem.hint) == (code, path, message, hint)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("task", LEAST["task"] + "input_schema: {max_length: 2}"),
        ("task", "task_type: seq2seq\nmodel_family: encoder_decoder\ninput_fields: [text]\nmetrics: [exact_match]"),
        ("task", LEAST["task"].replace("lm", "classification") + "output_schema: {num_classes: 2}"),
        ("sweep", "method: grid\nspace: {model.dropout: {kind: range, low: 0, high: 0.5, points: 3}}"),
        (
            "sweep",
            "method: grid\nspace: {model.d_ff: {kind: range, low: 1, high: 7, step: 3}}\nbudget: {max_trials: 3}",
        ),
        ("sweep", "method: random\nspace: {model.dropout: {kind: range, low: 0, high: 0.5}}\nbudget: {max_minutes: 1}"),
        ("sweep", "method: grid\nspace: {model.num_kv_heads: [null, 1]}\nstorage: postgresql://someone@host:5432/sweeps"),
        ("policy", "triggers: [{kind: data_volume, samples: 1, percentage: null}]"),
        ("finetune", LEAST["finetune"] % "learning_rate: 1e-3"),
    ],
)  # fmt: skip
def test_what_is_right_is_not_reported(kind, text):
    assert found_in(kind, text) == ()


def test_a_setting_with_a_mistake_of_its_own_breaks_no_rule_as_well():
    [problem] = found_in("policy", "triggers: [{kind: data_volume, percentage: null, samples: few}]")
    assert problem.code == "E0301"

    [problem] = found_in("sweep", "method: grid\nspace: {model.dropout: {kind: range, low: 0.5, high: 0.1, stp: 1}}")
    assert problem.code == "E0201"


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        ("policy", "triggers: [{kind: drift, treshold: 0.1}]", "did you mean `threshold`?"),
        ("policy", "triggers: [{kind: time, hours: 1}]", "did you mean `interval_hours`?"),
        ("policy", "triggers: [{kind: composite, triggers: [{kind: time, nmae: x}]}]", "did you mean `name`?"),
        ("policy", "logic: all\ntriggers: [{kind: time}]", "did you mean `and`?"),
        ("policy", "triggers: [{kind: time, severity: high}]", "did you mean `critical`?"),
        ("policy", "triggers: [{kind: composite, triggers: [{kind: time, severity: warn}]}]",
         "did you mean `warning`?"),
        ("sweep", "method: bayesian\nspace: {model.dropout: [0]}", "did you mean `tpe`?"),
        ("sweep", "method: grid\nspace: {model.dropout: {kind: choice, values: [0], choices: [0]}}",
         "`values` is set on line 5 already: keep one of them, under that name"),
        ("sweep", "method: grid\nspace: {model.dropout: {kind: range, low: 0, high: 1, min: 0}}",
         "`low` is set on line 5 already: keep one of them, under that name"),
        ("sweep", "method: grid\nspace: {model.dropout: [0]}\nn_trials: 3", "did you mean `budget.max_trials`?"),
        ("finetune", LEAST["finetune"] % "num_train_epochs: 3", "did you mean `num_epochs`?"),
        ("finetune", LEAST["finetune"] % "rank: 3", "did you mean `lora_r`?"),
        ("finetune", LEAST["finetune"] % "optimizer_name: adamw_torch", "did you mean `adamw`?"),
        ("finetune", (LEAST["finetune"] % "") + "evaluation: {metrics: [execution_success]}",
         "did you mean `execution_accuracy`?"),
        ("task", LEAST["task"].replace("lm", "causal_lm"), "did you mean `lm`?"),
        ("monitoring", "drift: {warning_threshold: 0.1}", "did you mean `warn_threshold`?"),
    ],
)  # fmt: skip
def test_keys_and_values_are_understood_inside_lists_and_maps(kind, text, hint):
    [problem] = found_in(kind, text)

    assert problem.hint == hint


def test_a_key_of_another_kind_of_trigger_is_reported_as_such():
    [problem] = found_in("policy", "triggers: [{kind: time, threshold: 0.1}]")

    assert problem.code == "E0203"
    assert problem.message == ("`threshold` is a key of kind `drift`, but this `triggers[0]` is of kind `time`")
    assert problem.hint == "remove it, or set `kind: drift`"


def test_an_item_that_should_be_a_mapping_is_not_called_a_section():
    [problem] = found_in("policy", "triggers: [drift]")

    assert problem.message == "`triggers[0]` is the text drift, but must be a mapping of keys"


def test_what_a_sweep_takes_is_said_in_full():
    [problem] = found_in("sweep", "method: grid\nspace: {model.dropout: 0.1}")

    assert problem.message == (
        "`space.model.dropout` must be a list of 1 to 10000 values, or a mapping, but is the number 0.1"
    )
    assert problem.hint == "write a list: [0.1]"


def test_rules_inside_lists_and_maps_read_settings_that_exist():
    for kind, rules in INNER_RULES_OF_KINDS.items():
        for rule in rules:
            assert all("type" in schema_at(name.split("."), schema_of(kind)) for name in rule.reads)


@pytest.mark.parametrize("kind", sorted({*NAMES_OF_KINDS, *VALUES_OF_KINDS}))
def test_every_name_and_value_of_another_tool_leads_to_one_of_ours(kind):
    def at(path):
        schema = schema_of(kind)
        for name in path.split("."):
            while "properties" not in schema:
                schema = schema.get("items") or schema["additionalProperties"]
            schema = schema["properties"][name]
        return schema

    for targets in NAMES_OF_KINDS.get(kind, {}).values():
        assert all(at(target) for target in targets)
    for setting, meanings in VALUES_OF_KINDS.get(kind, {}).items():
        schema = at(setting)
        choices = schema.get("enum") or schema["items"]["enum"]
        for written, meant in meanings.items():
            assert meant in [*choices, "null"]
            assert written not in choices


@pytest.mark.parametrize("path", param_ids(SHIPPED))
def test_a_shipped_document_is_right_and_nothing_in_it_is_odd(path):
    spec = load_spec(path, kind=None)

    assert spec.warnings == ()
    assert spec.name == path.stem
    assert path.read_text().startswith(f"# yaml-language-server: $schema=../../schemas/v1/bundle/{spec.kind}.json\n")


@pytest.mark.parametrize(
    ("name", "drift", "performance", "hours", "percent", "severity"),
    [
        ("conservative", 0.20, 0.10, 336, 30, "critical"),
        ("balanced", 0.15, 0.05, 168, 20, "warning"),
        ("aggressive", 0.10, 0.03, 48, 10, "warning"),
    ],
)
def test_the_policies_have_the_limits_that_their_names_promise(name, drift, performance, hours, percent, severity):
    policy = load_spec(SPECS / "policies" / f"{name}.yaml", kind="policy")
    moved, worse, old, grown = policy.triggers

    assert policy.logic == "or"
    assert (moved.threshold, worse.max_degradation, old.interval_hours, grown.percentage) == (
        drift,
        performance,
        hours,
        percent,
    )
    assert (moved.severity, worse.severity, old.severity, grown.severity) == (severity, severity, "info", "info")


def test_the_standard_documents_say_every_setting_at_its_default():
    for name in ("evaluations", "monitoring", "tiers"):
        spec = load_spec(SPECS / name / "standard.yaml", kind=None)
        head = {"schema_version": 1, "kind": spec.kind, "name": "standard"}

        assert spec.to_dict() == resolve(schema_of(spec.kind), head)
        given = parse_document((SPECS / name / "standard.yaml").read_bytes(), "x.yaml").values
        assert {**spec.to_dict(), "notes": ""} == {"notes": "", **resolve(schema_of(spec.kind), given)}
        assert given.keys() | {"notes"} == spec.to_dict().keys()


def test_what_stands_in_lists_is_frozen_and_comes_out_plain():
    spec = load_spec(SPECS / "policies/balanced.yaml", kind="policy")

    with pytest.raises(AttributeError, match=r"cannot be changed: triggers\[0\].threshold"):
        spec.triggers[0].threshold = 1
    assert hash(spec) == hash(load_spec(SPECS / "policies/balanced.yaml", kind="policy"))
    plain = spec.to_dict()
    assert plain["triggers"][0]["threshold"] == 0.15
    plain["triggers"][0]["threshold"] = 9
    assert spec.triggers[0].threshold == 0.15


def test_the_size_of_a_grid_counts_both_ends_of_a_range():
    text = (
        "method: grid\nspace: {model.dropout: {kind: range, low: 0.1, high: 0.5, step: 0.1}}\nbudget: {max_trials: 4}"
    )

    [warning] = found_in("sweep", text)

    assert warning.message == "the grid has 5 combinations, but the sweep stops after 4"


@pytest.mark.parametrize("path", param_ids(COMPLETE))
def test_single_slips_in_the_keys_of_a_document_are_found_where_they_are(path):
    text = path.read_text(encoding="utf-8")
    lines, document = text.splitlines(), parse_document(text.encode(), "x.yaml")
    random_ = random.Random(20261122)
    right = tried = 0

    for keys, place in document.keys.items():
        name = str(keys[-1])
        if keys[0] in ("schema_version", "kind", "space") or "properties" in keys[:-1]:
            continue  # another kind of document, or a name of the writer's own
        at = random_.randrange(len(name))
        line = lines[place.line - 1]
        start = place.column - 1
        slip = line[:start] + name[:at] + name[at + 1 :] + line[start + len(name) :]
        mutant = "\n".join([*lines[: place.line - 1], slip, *lines[place.line :]])
        found = problems_of(mutant)

        assert place.line in {problem.line for problem in found}, dotted(keys)
        tried += 1
        right += any(f"`{name}`" in problem.hint or problem.hint.endswith(f".{name}`?") for problem in found)

    assert right >= 0.9 * tried


@pytest.mark.parametrize("path", param_ids(COMPLETE))
@pytest.mark.parametrize("value", ["{a: 1}", "[[]]", "[{}]", "null", '""', "-1"])
def test_no_value_of_any_setting_ends_in_a_traceback(path, value):
    text = path.read_text(encoding="utf-8")
    lines, document = text.splitlines(), parse_document(text.encode(), "x.yaml")

    for place in document.keys.values():
        line = lines[place.line - 1]
        head = re.match(r"\s*(- )?[\w.]+:", line)
        if head is None or head.end() < place.column:
            continue  # inside a flow mapping
        below = place.line
        indent = len(line) - len(line.lstrip())
        while below < len(lines) and (len(lines[below]) - len(lines[below].lstrip()) > indent):
            below += 1
        mutant = "\n".join([*lines[: place.line - 1], f"{head[0]} {value}", *lines[below:]])

        for problem in problems_of(mutant):
            assert problem.message


def problems_of(text):
    try:
        parse_spec(text.encode(), "x.yaml", kind=None)
    except SpecError as error:
        return error.problems
    return ()
