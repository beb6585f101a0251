"""Arithmetic against the real thing: models that are built, gradients that are kept, batches that are cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.batches import Batches
from pipeline.models.model import Model
from pipeline.models.table import arguments_of, build_model
from pipeline.models.transformer import Transformer
from pipeline.paths import SPECS
from pipeline.spec import estimate, estimate_memory, estimate_model, load_spec
from pipeline.spec.estimate import Pace, Text, exported_copies
from pipeline.spec.estimate_model import Shape, shape_of
from pipeline.spec.presets import PRESETS, expand, names, read_preset
from pipeline.tasks import classify
from pipeline.tasks.language_model import loss_sum
from pipeline.training.averaging import keep_mean
from pipeline.training.hardware import worth_compiling
from pipeline.training.loop import planned_steps
from pipeline.training.optimizer import POLYNOMIALS, make_optimizer, orthogonalized
from pipeline.training.precision import PRECISIONS, arithmetic, convert_weights

pytestmark = pytest.mark.unit

PACE = Pace("cpu", "32-true", 2, True, 1e11, 1e9, 1e11, 1e9, 1e-3, 1e-4, "steps of this spec")


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return load_spec(SPECS / "experiment.yaml").to_dict()


@st.composite
def shapes(draw) -> Shape:
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    return Shape(
        vocab_size=draw(st.integers(1, 500)),
        d_model=heads * 2 * draw(st.integers(1, 8)),
        num_layers=draw(st.integers(1, 5)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_ff=draw(st.integers(1, 200)),
        max_seq_len=draw(st.integers(2, 64)),
        model_type=draw(st.sampled_from(["llama", "gpt"])),
        tie_embeddings=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        qk_norm=draw(st.booleans()),
        activation=draw(st.sampled_from(["auto", "swiglu", "gelu", "relu2"])),
        short_conv=draw(st.sampled_from([None, 2, 4])),
    )


def text(tokens: int = 1_260_131, *, vocab_size: int = 4096, held_out: int = 167_897) -> Text:
    return Text("counted", "a test", vocab_size, tokens, held_out, tokens + held_out, 3 * tokens)


def with_changes(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings with some changed: `training__epochs=3`."""
    for name, value in changes.items():
        section, key = name.split("__")
        values = {**values, section: {**values[section], key: value}}
    return values


def decoder_of(shape: Shape) -> Transformer:
    """The model itself."""
    arguments = asdict(shape)
    assert arguments.pop("num_classes") is None
    del arguments["pooling"]
    return Transformer(**arguments)


def on_meta(shape: Shape) -> Transformer:
    """The same without memory for its weights."""
    with torch.device("meta"):
        return decoder_of(shape)


def assert_counts_are_exact(shape: Shape) -> None:
    model = on_meta(shape)
    owners = {
        "embeddings": "embed_tokens",
        "positions": "embed_positions",
        "attention": "self_attn",
        "convolutions": "mlp_conv",
        "feed_forward": "mlp",
        "norms": "norm",
        "head": "lm_head",
    }

    built = dict.fromkeys(owners, 0)
    for name, parameter in model.named_parameters():
        built[next(part for part, owner in owners.items() if owner in name)] += parameter.numel()

    assert estimate_model.parameters(shape) == built
    assert estimate_model.count(shape) == sum(parameter.numel() for parameter in model.parameters())
    assert estimate_model.flops_per_token(shape) == model.flops_per_token()
    assert shape.tensors == len(model.state_dict())


@settings(deadline=None)  # other load on the machine is no defect
@given(shapes())
def test_parameters_and_operations_of_any_shape_are_those_of_the_model(shape):
    assert_counts_are_exact(shape)


@pytest.mark.parametrize(
    "name", [name for name in names(PRESETS) if name not in ("vision_tiny", "mlm_tiny")]
)  # no decoders
def test_parameters_and_operations_of_a_preset_are_those_of_its_model(name):
    spec = expand(read_preset(name))

    assert_counts_are_exact(shape_of(spec.section("model"), spec.tokenizer.vocab_size))


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_plan_of_a_classifier_counts_its_head_and_no_projection_to_tokens(shipped, model_type, tied, classes):
    spec = with_changes(
        shipped, task__task_type="text_classification", model__model_type=model_type, model__tie_embeddings=tied
    )
    sizes = {"vocab_size": 4096, "num_classes": classes, "pad_id": 3}
    with torch.device("meta"):
        model = build_model(arguments_of(spec["model"], sizes))

    planned = estimate.plan(spec, replace(text(), num_classes=classes), None)

    assert planned["model"]["parameters"]["total"] == sum(weights.numel() for weights in model.parameters())
    assert planned["model"]["flops_per_token"] == model.flops_per_row() / model.max_seq_len
    assert estimate_model.shape_of(spec["model"], 4096, classes).tensors == len(model.state_dict())
    assert not [note for note in planned["notes"] if "classes" in note]


def test_a_plan_says_what_classes_that_are_not_known_would_add(shipped):
    planned = estimate.plan(with_changes(shipped, task__task_type="text_classification"), text(), None)

    assert (
        "how many classes there are is known once the corpus is encoded: each adds 193 parameters" in planned["notes"]
    )


@pytest.mark.parametrize(
    ("name", "tied", "untied"),
    [
        ("quick_prototype", 44.7, 70.4),
        ("baseline", 123.8, 162.3),
        ("distributed", 354.0, 405.5),
        ("low_memory", 30.0, 49.3),
    ],
)
def test_presets_have_the_millions_of_parameters_that_their_shapes_give(name, tied, untied):
    spec = expand(read_preset(name))
    shape = replace(shape_of(spec.section("model"), 50257), tie_embeddings=True)

    assert round(estimate_model.count(shape) / 1e6, 1) == tied
    assert round(estimate_model.count(replace(shape, tie_embeddings=False)) / 1e6, 1) == untied


def test_the_documents_print_the_parameters_of_the_shipped_experiment(checkout, shipped):
    millions = (
        f"{estimate_model.count(shape_of(shipped['model'], shipped['tokenizer']['vocab_size'])) / 1e6:.2f} million"
    )

    for document in ("README.md", "specs/experiment.yaml"):
        printed = re.findall(r"[\d.]+ million(?= parameters)", (checkout / document).read_text(encoding="utf-8"))
        assert printed == [millions], document


@settings(deadline=None)  # other load on the machine is no defect
@given(
    tokens=st.integers(2, 5000),
    length=st.integers(2, 40),
    size=st.integers(1, 9),
    accumulation=st.integers(1, 4),
    epochs=st.integers(1, 4),
    most=st.none() | st.integers(1, 50),
)
def test_steps_are_those_of_the_loop(shipped, tokens, length, size, accumulation, epochs, most):
    spec = with_changes(
        shipped,
        model__max_seq_len=length,
        training__batch_size=size,
        training__gradient_accumulation_steps=accumulation,
        training__epochs=epochs,
        training__max_steps=most,
    )
    batches = Batches(np.zeros(tokens, np.uint16), length=length, batch_size=size, seed=0)

    steps = estimate.steps_of(spec, text(tokens))

    assert steps.batches_per_epoch == batches.per_epoch
    assert steps.total == planned_steps(
        batches_per_epoch=batches.per_epoch, accumulation=accumulation, epochs=epochs, max_steps=most
    )


@settings(deadline=None)  # other load on the machine is no defect
@given(
    total=st.integers(1, 60), every=st.none() | st.integers(1, 70), save=st.none() | st.integers(1, 70), after=st.none()
    | st.integers(1, 3),
)  # fmt: skip
def test_evaluations_and_checkpoints_are_counted_as_the_loop_makes_them(shipped, total, every, save, after):
    spec = with_changes(
        shipped,
        training__max_steps=total,
        training__epochs=1000,
        training__eval_every_n_steps=every,
        checkpointing__save_every_n_steps=save,
        checkpointing__save_every_n_epochs=after,
    )
    few = text(20_001)  # 10 steps an epoch
    epoch = estimate.steps_of(spec, few).per_epoch

    evaluated = {step for step in range(1, total + 1) if step % (every or epoch) == 0} | {total}
    saved = {step for step in range(1, total + 1) if save and step % save == 0}
    saved |= {step for step in range(1, total + 1) if after and step % (epoch * after) == 0}

    steps = estimate.steps_of(spec, few)
    assert (steps.evaluations, steps.checkpoints) == (len(evaluated), len(evaluated | saved))


@pytest.mark.parametrize(("task", "steps"), [("text_classification", 30), ("seq2seq", 30), ("lm", 616)])
def test_a_step_takes_documents_where_each_is_learned_by_itself(shipped, task, steps):
    spec = with_changes(shipped, task__task_type=task, training__batch_size=8, training__epochs=1)

    planned = estimate.steps_of(spec, replace(text(), train_documents=240))

    assert planned.total == steps


def test_without_a_validation_split_nothing_is_evaluated(shipped):
    steps = estimate.steps_of(shipped, text(held_out=0))

    assert steps.evaluations == 0
    assert steps.checkpoints == 8  # 1,232 steps: one each 200, one each epoch of 616


def kept_by_autograd(
    model: Model, loss: Callable[[Model, torch.Tensor], torch.Tensor], *, precision: str, recompute: bool
) -> int:
    """Bytes of everything that the loss of five sequences leaves for the backward pass, weights and tables apart."""
    convert_weights(model.train(), precision)
    model.recompute = recompute
    own = {tensor.untyped_storage().data_ptr() for tensor in itertools.chain(model.parameters(), model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(5, model.max_seq_len, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        arithmetic("cpu", precision),
    ):
        loss(model, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("dropout", "attention_dropout", "qk_norm", "short_conv"),
    [
        (0.0, None, False, None),
        (0.1, None, False, 4),
        (0.1, None, True, None),
        (0.1, 0.0, False, None),
        (0.0, 0.1, True, 2),
    ],
)
@pytest.mark.parametrize("activation", ["auto", "swiglu", "gelu", "relu2"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_what_autograd_keeps(
    precision, model_type, heads, activation, dropout, attention_dropout, qk_norm, short_conv, recompute
):
    given = (300, 48, 3, 4, heads, 100, 24, model_type, False, dropout, qk_norm, activation)
    shape = Shape(*given, attention_dropout=attention_dropout, short_conv=short_conv)

    kept = kept_by_autograd(
        decoder_of(shape),
        lambda model, ids: loss_sum(model, ids, ids.clone()),
        precision=precision,
        recompute=recompute,
    )

    planned = estimate_memory.activation_bytes(shape, batch_size=5, precision=precision, recompute=recompute)
    assert planned == kept


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_of_a_classifier_are_what_autograd_keeps(precision, model_type, pooling, recompute):
    shape = Shape(300, 48, 3, 4, 2, 100, 24, model_type, True, 0.1, num_classes=7, pooling=pooling)
    classifier = build_model({**asdict(shape), "pad_id": 3})

    def loss(model: Model, ids: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(ids), torch.zeros(5, dtype=torch.int64), reduction="sum")

    kept = kept_by_autograd(classifier, loss, precision=precision, recompute=recompute)

    planned = estimate_memory.activation_bytes(shape, batch_size=5, precision=precision, recompute=recompute)
    assert planned == kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_takes_as_many_bytes_as_training_keeps_it_in(precision):
    assert estimate_memory.number_bytes(precision) == PRECISIONS[precision].weights.itemsize


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimizer_remembers_as_many_numbers_as_are_counted(shipped, name, ema_decay, activation):
    shape = Shape(30, 16, 2, 4, 2, 40, 8, "llama", True, 0.0, True, activation)
    settings = with_changes(shipped, optimizer__optimizer_name=name, training__ema_decay=ema_decay)
    model = decoder_of(shape)
    optimizer = make_optimizer(model, learning_rate=1e-3, products=torch.float32, **settings["optimizer"])
    if ema_decay is not None:
        keep_mean(optimizer, ema_decay)
    loss_sum(model, torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64)).backward()
    optimizer.step()

    kept = sum(t.numel() for state in optimizer.state.values() for kind, t in state.items() if kind != "step")

    assert estimate.moments_per_weight(shape, settings) == pytest.approx(kept / estimate.count(shape))


@pytest.mark.parametrize("method", POLYNOMIALS)
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_the_operations_of_muon_are_those_that_torch_counts(activation, products, method):
    shape = Shape(30, 16, 2, 4, 2, 40, 8, "llama", True, 0.0, True, activation)
    matrices = [p for name, p in on_meta(shape).named_parameters() if name.startswith("layers.") and p.dim() == 2]

    with FlopCounterMode(display=False) as counted:
        for matrix in matrices:
            orthogonalized(torch.ones(matrix.shape), POLYNOMIALS[method], products)

    counted_by_us = estimate_model.orthogonalization_flops(
        shape, iterations=estimate_model.MUON_ITERATIONS[method], in_float32=products == torch.float32
    )
    assert counted_by_us == counted.get_total_flops()


def test_muon_takes_time_and_saves_memory_in_the_plan(shipped):
    muon = with_changes(shipped, optimizer__optimizer_name="muon")
    adamw, muon = (estimate.plan(each, text(), PACE) for each in (shipped, muon))

    assert muon["seconds"]["steps"] > adamw["seconds"]["steps"]
    assert muon["memory_mb"]["optimizer"] < adamw["memory_mb"]["optimizer"]
    assert muon["disk_mb"]["checkpoints"] < adamw["disk_mb"]["checkpoints"]


def test_a_bundle_holds_a_copy_of_every_format(shipped):
    bundled = with_changes(shipped, export__export_bundle=True)
    plain, bundled = (estimate.plan(each, text(), PACE)["disk_mb"]["exports"] for each in (shipped, bundled))

    assert bundled == pytest.approx(2 * plain, rel=0.01)  # both are rounded


def test_a_classifier_scores_as_many_texts_at_once_as_is_planned():
    assert classify._ROWS == estimate_memory.CLASSIFIED_ROWS


@given(st.integers(1, 8192), st.integers(2, 300_000))
def test_an_evaluation_scores_16_windows_at_once_or_as_many_as_have_67_mb_of_logits(targets, choices):
    rows = estimate_memory.scored_rows(targets=targets, choices=choices)

    assert 1 <= rows <= 16
    assert rows == 1 or rows * targets * choices * 4 < 67.2e6
    assert rows == 16 or (rows + 1) * targets * choices * 4 > 67.1e6


def test_a_large_vocabulary_does_not_make_evaluations_take_more_memory_than_training():
    shape = Shape(50257, 768, 12, 12, 12, 2048, 1024, "llama", True, 0.0)

    planned = estimate_memory.training_memory(shape, batch_size=2, precision="32-true", compiled=False)

    # A loop of these shapes without evaluations peaked at 8,441 MB; 16 windows at once would take 8,000 MB more.
    assert planned["peak_rss"] == pytest.approx(8441, rel=0.1)


def test_what_was_not_measured_is_said(shipped):
    large = with_changes(shipped, training__batch_size=256, hardware__precision="16-mixed")

    notes = estimate.plan(large, text(), None)["notes"]

    assert [note.split(" ")[0] for note in notes] == ["runs", "memory"]
    assert estimate.plan(shipped, text(), None)["notes"] == []


# Peaks of real runs of the train stage, in MB; the factors do not come from the last two.
PEAKS = [
    (Shape(4096, 192, 4, 3, 3, 480, 128, "llama", True, 0.0, num_classes=3), 32, 832),
    (Shape(4096, 256, 4, 4, 4, 640, 256, "llama", True, 0.0, num_classes=3), 16, 1056),
    (Shape(4096, 192, 4, 3, 3, 480, 128, "bert", True, 0.0, activation="gelu"), 32, 732),
    (Shape(4096, 256, 4, 4, 4, 640, 256, "bert", True, 0.0, activation="gelu"), 16, 897),
    (Shape(4096, 384, 4, 6, 6, 960, 128, "llama", True, 0.0, num_classes=3), 16, 929),
    (Shape(2048, 128, 2, 4, 4, 512, 64, "bert", True, 0.0, activation="gelu"), 16, 408),
]


@pytest.mark.parametrize(("shape", "batch_size", "peak"), PEAKS)
def test_encoders_and_classifiers_take_as_much_memory_as_real_runs_did(shape, batch_size, peak):
    planned = estimate_memory.training_memory(shape, batch_size=batch_size, precision="32-true", compiled=False)

    assert planned["peak_rss"] == pytest.approx(peak, rel=0.05)


def test_the_parts_of_the_memory_add_up(shipped):
    memory = estimate_memory.training_memory(
        shape_of(shipped["model"], 4096), batch_size=8, precision="32-true", compiled=True
    )

    peak = memory.pop("peak_rss")
    assert peak == sum(memory.values())
    assert all(size > 0 for name, size in memory.items() if name != "working")


@pytest.mark.parametrize("flops", [0.0, 1.9e13, 2e13, 1e18])
def test_a_run_is_expected_to_compile_exactly_when_the_train_stage_would(shipped, flops):
    execution = estimate.execution_of(shipped, flops=flops, pace=PACE)

    assert execution.compiled == worth_compiling(flops)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hardware__compile_mode": None}, ("32-true", False)),
        ({"hardware__precision": "bf16"}, ("bf16-mixed", True)),
        ({"hardware__precision": "bf16-mixed", "hardware__use_amp": False}, ("32-true", True)),
    ],
)
def test_what_the_spec_says_is_not_measured(shipped, changes, expected):
    execution = estimate.execution_of(with_changes(shipped, **changes), flops=1e15, pace=PACE)

    assert (execution.precision, execution.compiled) == expected


def test_a_machine_without_a_compiler_is_not_expected_to_compile(shipped):
    assert not estimate.execution_of(shipped, flops=1e15, pace=replace(PACE, compiler=False)).compiled


def test_times_add_up_and_grow_with_the_steps(shipped):
    shape = shape_of(shipped["model"], 4096)

    one, two = (estimate.times(with_changes(shipped, training__epochs=n), shape, text(), PACE) for n in (1, 2))

    assert two["total"] == sum(value for name, value in two.items() if name != "total")
    assert two["steps"] == pytest.approx(2 * one["steps"])
    assert two["evaluations"] == pytest.approx(2 * one["evaluations"])


def test_a_missed_budget_comes_with_the_largest_values_that_keep_it(shipped):
    slow = replace(PACE, learned_flops_per_second=4e10)
    limit = shipped["validation"]["budgets"]["training_minutes"]

    row = next(row for row in estimate.judged(shipped, text(), slow) if row["name"] == "training_minutes")

    assert row["status"] == "misses"
    assert set(row["change"]) == {"training.epochs", "training.max_steps", "model.d_model", "model.num_layers"}
    steps = row["change"]["training.max_steps"]
    minutes = [
        estimate.predicted(*estimate.changed(shipped, text(), "training.max_steps", most), slow)["training_minutes"]
        for most in (steps, steps + 1)
    ]
    assert minutes[0] <= limit < minutes[1]


def test_a_suggested_width_is_one_that_the_rules_allow_and_that_fits(shipped):
    tight = with_changes(shipped, model__d_model=960, model__num_heads=15)

    row = next(row for row in estimate.judged(tight, text(), None) if row["name"] == "model_mb")

    width = row["change"]["model.d_model"]
    assert width % (2 * 15) == 0
    fits, too_large = (
        estimate.predicted(*estimate.changed(tight, text(), "model.d_model", value), None)["model_mb"]
        for value in (width, width + 8 * 15)
    )
    assert fits <= 10 < too_large


def test_budgets_that_cannot_be_known_yet_are_called_unknown(shipped):
    rows = {row["name"]: row["status"] for row in estimate.judged(shipped, text(), None)}

    assert rows["val_loss"] == rows["training_minutes"] == rows["latency_p95_ms"] == "unknown"
    assert rows["peak_mb"] == "keeps"


def test_a_budget_of_null_is_no_limit(shipped):
    none = with_changes(shipped, validation__budgets={**shipped["validation"]["budgets"], "model_mb": None})

    assert {row["name"]: row["status"] for row in estimate.judged(none, text(), None)}["model_mb"] == "no_limit"


@pytest.mark.parametrize(("kind", "pieces"), [("unigram", 300), ("unigram", 5000), ("bpe", 100_000), ("char", 4096)])
def test_a_token_stands_for_one_to_four_bytes(kind, pieces):
    assert 1.0 <= estimate.bytes_per_token(kind, pieces) < 4


def test_more_pieces_mean_longer_tokens():
    lengths = [estimate.bytes_per_token("unigram", pieces) for pieces in (260, 400, 512, 4096, 6000, 16384)]

    assert lengths == sorted(lengths)
    assert lengths[3] == pytest.approx(3958464 / 1260131, rel=0.01)  # reports/tokenizer.json of the shipped run


def test_exports_in_fewer_bits_take_less_room():
    assert exported_copies(["onnx", "pytorch"]) == 2
    assert exported_copies(["fp16", "bf16"]) == 1
    assert 0.25 < exported_copies(["int8"]) < 0.3
