"""The transformer: what it computes, what it must not see, how it starts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipeline.models.transformer import FEED_FORWARD, Cache, ShortConv, Transformer, rotary_table, rotate

pytestmark = pytest.mark.unit

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, grouped queries": {"num_kv_heads": 2},
    "llama, untied": {"tie_embeddings": False},
    "gpt": {"model_type": "gpt"},
    "gpt, one key head": {"model_type": "gpt", "num_kv_heads": 1},
    "llama, normalized heads, squared ReLU": {"qk_norm": True, "activation": "relu2", "num_kv_heads": 2},
    "gpt, normalized heads, gate": {"model_type": "gpt", "qk_norm": True, "activation": "swiglu"},
    "llama, short convolutions": {"short_conv": 4},
    "gpt, short convolutions": {"model_type": "gpt", "short_conv": 2},
}


def make(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    arguments = {"vocab_size": 50, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "max_seq_len": 16}
    model = Transformer(**{**arguments, **changes}).eval()
    for name, parameter in model.named_parameters():
        if "_conv" in name:  # which would do nothing as they begin
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request: pytest.FixtureRequest) -> Transformer:
    return make(**request.param)


def test_a_token_sees_nothing_that_comes_after_it(model: Transformer) -> None:
    ids = torch.randint(50, (2, 16))
    changed = ids.clone()
    changed[:, 9:] = torch.randint(50, (2, 7))

    before, after = model(ids), model(changed)

    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_a_token_sees_everything_that_comes_before_it(model: Transformer) -> None:
    ids = torch.randint(50, (1, 16))
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 50

    difference = (model(ids) - model(changed)).abs().amax(-1)

    assert bool((difference > 0).all())


def test_the_order_of_the_past_matters(model: Transformer) -> None:
    ids = torch.arange(10)[None]
    swapped = ids[:, [1, 0, *range(2, 10)]]

    assert not torch.allclose(model(ids)[0, -1], model(swapped)[0, -1], atol=1e-6)


def test_a_cache_changes_no_logit(model: Transformer) -> None:
    ids = torch.randint(50, (3, 16))
    whole = model(ids)

    cache = Cache(model, batch_size=3)
    pieces = [model(piece, cache) for piece in ids.split([5, 1, 1, 9], dim=1)]

    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=1e-5)


def test_sequences_of_a_batch_do_not_touch_each_other(model: Transformer) -> None:
    ids = torch.randint(50, (4, 8))

    torch.testing.assert_close(model(ids)[2], model(ids[2:3])[0], atol=1e-6, rtol=1e-5)


def test_the_first_loss_is_that_of_guessing(model: Transformer) -> None:
    ids, targets = torch.randint(50, (8, 16)), torch.randint(50, (8, 16))

    loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    assert loss.item() == pytest.approx(math.log(50), abs=0.1)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_table(32, 8, 10000.0, torch.device("cpu"))
    q, k = torch.randn(8), torch.randn(8)

    def dot(at: int, of: int) -> torch.Tensor:
        return rotate(q, cos[at], sin[at]) @ rotate(k, cos[of], sin[of])

    torch.testing.assert_close(dot(20, 17), dot(5, 2), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(dot(20, 17), dot(20, 16), atol=1e-3)


def test_parameters_are_those_of_the_arithmetic() -> None:
    def count(**changes: Any) -> int:
        return sum(parameter.numel() for parameter in make(**changes).parameters())

    v, d, layers, f, t = 50, 32, 2, 48, 16
    norms = (2 * layers + 1) * d

    assert count() == v * d + layers * (4 * d * d + 3 * d * f) + norms
    assert count(num_kv_heads=2) == v * d + layers * (3 * d * d + 3 * d * f) + norms
    assert count(tie_embeddings=False) == count() + v * d
    assert count(model_type="gpt") == (v + t) * d + layers * (4 * d * d + 4 * d + 2 * d * f + f + d) + 2 * norms


def test_training_flops_follow_the_weights_that_are_multiplied() -> None:
    tied, untied = make(), make(tie_embeddings=False)

    assert tied.flops_per_token() == untied.flops_per_token()
    assert tied.flops_per_token() == 6 * sum(p.numel() for p in tied.parameters()) + 12 * 2 * 32 * 16


def test_projections_into_the_residual_stream_start_smaller() -> None:
    model = make(d_model=64, d_ff=256, num_layers=8)
    attention, mlp = model.layers[0].self_attn, model.layers[0].mlp

    assert attention.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert attention.o_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.1)
    assert mlp.down_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.1)


def test_scores_of_normalized_heads_do_not_grow_with_the_weights() -> None:
    ids = torch.randint(50, (2, 16))
    for qk_norm in (True, False):
        model = make(qk_norm=qk_norm, norm_epsilon=1e-12)
        before = model(ids)
        for layer in model.layers:
            layer.self_attn.q_proj.weight.data *= 100

        assert torch.allclose(model(ids), before, atol=1e-4) == qk_norm


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("relu2", [0.0, 0.0, 4.0]), ("gelu", torch.nn.functional.gelu(torch.tensor([-1.0, 0.0, 2.0])).tolist())],
)
def test_a_feed_forward_layer_without_a_gate_is_its_activation_between_two_matrices(
    activation: str, expected: list[float]
) -> None:
    layer = FEED_FORWARD[activation](3, 3, False)
    for parameter in layer.parameters():
        parameter.data = torch.eye(3)

    assert layer(torch.tensor([-1.0, 0.0, 2.0])).tolist() == pytest.approx(expected)


def test_blocks_that_start_at_zero_start_as_the_identity() -> None:
    model = make(zero_init=True)
    ids = torch.randint(50, (1, 8))

    assert torch.equal(model.hidden(ids), model.norm(model.embed_tokens(ids)))


def test_the_settings_that_are_off_leave_the_first_weights_as_they_were() -> None:
    torch.manual_seed(0)
    plain = Transformer(vocab_size=50, d_model=32, num_layers=2, num_heads=4, d_ff=48, max_seq_len=16)

    normed = make(qk_norm=True)

    states = plain.state_dict(), normed.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert {name.rsplit(".", 2)[1] for name in states[1].keys() - states[0].keys()} == {"q_norm", "k_norm"}


# Three documents of 5, 7 and 4 tokens in a window, the first one cut off at its start.
PACKED = [7, 8, 9, 10, 2, 1, 20, 21, 22, 23, 24, 2, 1, 30, 31, 32]


@pytest.mark.parametrize("short_conv", [None, 4])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
def test_changing_a_document_leaves_the_logits_of_the_others_bit_equal(model_type: str, short_conv: int | None) -> None:
    model = make(model_type=model_type, separate_documents=True, qk_norm=True, short_conv=short_conv)
    ids = torch.tensor([PACKED, PACKED[::-1]])
    changed = ids.clone()
    changed[0, :4] = torch.tensor([40, 41, 42, 43])
    changed[0, 6:11] = torch.tensor([11, 12, 13, 14, 15])

    before, after = model(ids), model(changed)

    assert torch.equal(before[0, 12:], after[0, 12:])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, 6:12], after[0, 6:12])


@pytest.mark.parametrize("short_conv", [None, 4])
@pytest.mark.parametrize("model_type", ["llama", "gpt"])
def test_a_document_in_a_window_of_many_has_the_logits_that_it_has_alone(
    model_type: str, short_conv: int | None
) -> None:
    model = make(model_type=model_type, separate_documents=True, short_conv=short_conv)

    packed = model(torch.tensor([PACKED]))[0]

    for first, last in ((0, 5), (5, 12), (12, 16)):
        alone = model(torch.tensor([PACKED[first:last]]))[0]
        torch.testing.assert_close(packed[first:last], alone, atol=1e-6, rtol=1e-5)


def test_without_the_setting_a_document_sees_the_one_before_it() -> None:
    model = make()
    ids = torch.tensor([PACKED])
    changed = ids.clone()
    changed[0, 0] = 40

    assert bool((model(ids) != model(changed)).any(-1).all())


@pytest.mark.parametrize("short_conv", [None, 4])
def test_gradients_of_a_document_do_not_reach_the_others(short_conv: int | None) -> None:
    model = make(separate_documents=True, short_conv=short_conv)
    model.embed_tokens.weight.grad = None

    model(torch.tensor([PACKED]))[0, 13:, :].sum().backward()

    moved = model.embed_tokens.weight.grad
    direct = make(separate_documents=True, short_conv=short_conv)
    direct(torch.tensor([PACKED[12:]]))[0, 1:, :].sum().backward()
    torch.testing.assert_close(moved, direct.embed_tokens.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("short_conv", [None, 4])
def test_a_window_of_one_document_is_as_without_the_setting(short_conv: int | None) -> None:
    ids = torch.randint(2, 50, (2, 16))

    assert torch.equal(make(separate_documents=True, short_conv=short_conv)(ids), make(short_conv=short_conv)(ids))


@pytest.mark.parametrize("size", [2, 4, 9])
def test_a_short_convolution_is_that_of_torch_beside_the_identity(size: int) -> None:
    conv = ShortConv(6, size)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(3, 7, 6)

    mixed = conv(x, None, 0, None)

    theirs = torch.nn.Conv1d(6, 6, size, groups=6, padding=size - 1, bias=False)
    theirs.weight.data = conv.weight.data
    torch.testing.assert_close(mixed, x + theirs(x.mT)[..., :7].mT, atol=1e-5, rtol=1e-5)


def test_short_convolutions_begin_as_if_they_were_not_there() -> None:
    ids = torch.randint(50, (2, 16))
    arguments = {"vocab_size": 50, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "max_seq_len": 16}
    torch.manual_seed(0)
    model = Transformer(**arguments, short_conv=4)

    assert torch.equal(model(ids), make()(ids))
    model(ids).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if "_conv" in name)


def test_dropout_acts_in_training_only() -> None:
    model = make(dropout=0.5)
    ids = torch.randint(50, (1, 8))

    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("attention_dropout", [None, 0.5])
def test_attention_drops_as_often_as_the_rest_unless_told_otherwise(attention_dropout: float | None) -> None:
    ids = torch.randint(50, (2, 8))
    results = []
    for model in (make(dropout=0.5), make(dropout=0.5, attention_dropout=attention_dropout)):
        torch.manual_seed(5)
        results.append(model.train()(ids))

    assert torch.equal(*results)


def test_attention_drops_by_itself() -> None:
    x, ids = torch.randn(2, 8, 32), torch.randint(50, (2, 8))
    without, alone = make(dropout=0.5, attention_dropout=0.0).train(), make(attention_dropout=0.5).train()

    mixed = [without.layers[0].self_attn(x, without.mask[:8, :8], None, None, 0) for _ in range(2)]

    assert torch.equal(*mixed)
    assert not torch.equal(without(ids), without(ids))
    assert not torch.equal(alone(ids), alone(ids))
    assert torch.equal(alone.eval()(ids), alone(ids))
