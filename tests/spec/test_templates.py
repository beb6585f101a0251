"""Templates: the promised values, parameters of the right type, holes that cannot be overlooked."""

import pytest

from pipeline.errors import FoundryError
from pipeline.spec import SpecError, load_spec, require_supported
from pipeline.spec.edit import parse_assignment
from pipeline.spec.holes import fill
from pipeline.spec.presets import TEMPLATES, author, choose, names, read

pytestmark = pytest.mark.unit

HOLES = {"base_model": "owner/name"}
SIX = ("sft_toolbench", "dpo", "teacher_mode", "sft_pc_building", "knowledge_dense", "hybrid")
TABLE = {
    "training.method": ("sft", "dpo", "teacher_mode", "sft", "sft", "sft"),
    "training.num_epochs": (1, 100, 2, 1, 3, 2),
    "training.learning_rate": (5e-5, 1e-6, 3e-5, 5e-5, 2e-5, 5e-5),
    "training.batch_size": (4, 2, 2, 4, 2, 4),
    "training.gradient_accumulation_steps": (8, 16, 2, 8, 16, 8),
    "training.warmup_steps": (100, 100, 50, 100, 150, 100),
    "training.max_length": (2048, 512, 384, 2048, 2048, 2048),
    "training.use_lora": (True,) * 6,
    "training.lora_r": (8, 16, 8, 16, 8, 16),
    "training.lora_alpha": (32, 32, 16, 32, 32, 32),
    "training.lora_dropout": (0.05, 0.1, 0.1, 0.1, 0.05, 0.1),
    "data.strategy": (
        "toolbench", "manual_templates", "teacher_mode", "pc_building", "knowledge_dense", "hybrid",
    ),
    "data.generation_type": ("real", "synthetic", "synthetic", "real", "real", "hybrid"),
    "data.train_split": (0.99, 0.8, 0.85, 0.99, 0.98, 0.95),
    "data.max_samples": (None,) * 6,
    "model.trust_remote_code": (False,) * 6,
    "tokenizer.trust_remote_code": (False,) * 6,
    "seed": (42,) * 6,
}  # fmt: skip


def value_of(spec, setting):
    for key in setting.split("."):
        spec = getattr(spec, key)
    return spec


@pytest.mark.parametrize("setting", TABLE)
def test_the_templates_for_fine_tuning_have_the_values_that_are_promised(setting):
    found = tuple(value_of(author("x", name, HOLES), setting) for name in SIX)

    assert found == TABLE[setting]


def test_what_single_templates_promise():
    toolbench, dpo, teacher = (author("x", name, HOLES) for name in ("sft_toolbench", "dpo", "teacher_mode"))

    assert toolbench.tokenizer.padding_side == "left"
    assert [tool["name"] for tool in toolbench.to_dict()["tools"]] == ["calculator", "weather", "search"]
    assert (dpo.training.max_grad_norm, dpo.training.precision) == (0.3, "16-mixed")
    assert (dpo.training.optimizer_name, dpo.training.weight_decay) == ("paged_adamw_8bit", 0.01)
    assert (dpo.training.beta, dpo.evaluation.eval_steps) == (0.1, 100)
    assert teacher.evaluation.eval_steps == 25
    assert len(teacher.evaluation.metrics) == 4


@pytest.mark.parametrize("name", names(TEMPLATES))
def test_a_template_passes_the_check_and_becomes_a_document_that_does(name):
    document, template = load_spec(TEMPLATES / f"{name}.yaml", "template"), read(name)
    examples = {hole: str(taken["example"]) for hole, taken in template.parameters.items() if "example" in taken}

    spec = author("x", name, examples)

    assert document.name == name
    assert document.warnings == ()
    assert spec.warnings == ()
    assert spec.kind == template.kind


def test_a_classifier_takes_its_classes_from_the_field_that_is_named():
    spec = author("x", "classify", {"paths": "[a.jsonl]", "text_field": "review", "label_field": "stars"})

    assert (spec.task.task_type, spec.dataset.source.text_field) == ("text_classification", "review")
    assert spec.dataset.label_field == "stars"
    require_supported(spec, None)


def test_a_parameter_has_the_type_that_it_is_given():
    values = fill(
        {"a": "${list}", "b": ["${number}", {"c": "x ${number} y ${text} ${list}"}], "d": 3},
        {"list": ["p"], "number": 1e-5, "text": "on"},
    )

    assert values == {"a": ["p"], "b": [1e-5, {"c": "x 1.0e-5 y on [p]"}], "d": 3}


def test_parameters_are_read_by_their_type():
    chosen = choose(read("pretrain"), {"paths": "[a, 'b c']", "epochs": "3", "split_method": "document"})

    assert chosen["dataset"]["source"]["paths"] == ["a", "b c"]
    assert chosen["training"]["epochs"] == 3
    assert chosen["notes"] == 'Trained on [a, "b c"].'
    assert author("x", "dpo", {"base_model": "123", "max_samples": "null"}).model.name == "123"


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({}, r"the template pretrain needs paths \(files, folders or patterns", "--param paths='"),
        ({"paths": "[a]", "epoch": "3"}, "has no parameter epoch", "did you mean epochs?"),
        ({"paths": "a"}, "paths takes a list, but is given the text a", "files, folders"),
        ({"paths": "[a]", "epochs": "1.5"}, "epochs takes a whole number, but is given the number 1.5", "passes"),
        ({"paths": "[a]", "epochs": "true"}, "epochs takes a whole number, but is given true", "passes"),
        ({"paths": "[a]", "epochs": "null"}, "epochs takes a whole number, but is given null", "passes"),
        ({"paths": "[a"}, "the value of `paths` is not YAML", "close it"),
    ],
)
def test_what_cannot_be_filled_is_one_clear_error(given, message, hint):
    with pytest.raises(FoundryError, match=message) as caught:
        author("x", "pretrain", given)

    assert hint in caught.value.hint


def test_a_value_that_the_document_cannot_take_is_said_in_its_words():
    with pytest.raises(SpecError, match=r"`training\.epochs` must be at least 1, but is 0"):
        author("x", "pretrain", {"paths": "[a]", "epochs": "0"})


def test_settings_go_on_top():
    settings = [parse_assignment("training.epochs=9"), parse_assignment("model.num_layers=2")]

    spec = author("x", "pretrain", {"paths": "[a]", "epochs": "3"}, settings)

    assert (spec.training.epochs, spec.model.num_layers) == (9, 2)


def test_only_templates_take_parameters():
    with pytest.raises(FoundryError, match="only templates take parameters"):
        author("x", "tiny", {"epochs": "3"})
    with pytest.raises(FoundryError, match="only templates take parameters"):
        author("x", None, {"epochs": "3"})


def test_an_item_of_a_list_is_not_set_alone():
    with pytest.raises(FoundryError, match="is an item of a list"):
        author("x", None, settings=[parse_assignment("export.formats[0]=onnx")])


def test_another_method_leaves_behind_what_only_the_first_takes():
    spec = author("x", "dpo", HOLES, [parse_assignment("training.method=sft")])

    assert (spec.training.method, spec.training.batch_size) == ("sft", 2)
    assert not hasattr(spec.training, "beta")
