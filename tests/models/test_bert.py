"""The encoder: both sides are seen, padding and other documents are not, and logits are those of BERT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.models.bert import Bert, masked_places
from pipeline.models.table import arguments_of, build_model
from pipeline.spec.estimate_memory import activation_bytes
from pipeline.spec.estimate_model import MASKED_SHARE, count, flops_per_token, parameters, shape_of
from pipeline.spec.presets import expand, read_preset
from pipeline.training.precision import PRECISIONS, arithmetic, convert_weights

pytestmark = pytest.mark.unit

PAD, START = 3, 1
ARGUMENTS: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 24,
    "num_layers": 3,
    "num_heads": 3,
    "d_ff": 50,
    "max_seq_len": 20,
    "pad_id": PAD,
}


def made(**changes: Any) -> Bert:
    """A model with weights so large that every part shows in the logits."""
    torch.manual_seed(1)
    model = Bert(**{**ARGUMENTS, **changes}).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (1.0 if parameter.dim() == 1 else 0.0)
    return model


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(4, 60, (batch, length), generator=torch.Generator().manual_seed(2))


def logits(model: Bert, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids)


def test_a_token_sees_those_before_and_after_it() -> None:
    model, ids = made(), ids_of(1, 8)
    changed = ids.clone()
    changed[0, 4] = 59 if ids[0, 4] != 59 else 58

    moved = (logits(model, ids) != logits(model, changed)).any(-1)[0]

    assert moved.all()


@pytest.mark.parametrize("separate_documents", [False, True])
def test_padding_changes_no_logit_of_a_text(separate_documents: bool) -> None:
    model = made(separate_documents=separate_documents)
    ids = ids_of(2, 9)
    padded = torch.cat([ids, torch.full((2, 5), PAD)], dim=1)

    assert torch.isfinite(logits(model, padded)).all()
    torch.testing.assert_close(logits(model, padded)[:, :9], logits(model, ids), atol=1e-5, rtol=1e-5)


def test_a_row_of_padding_alone_has_finite_logits_and_gradients() -> None:
    model = made().train()

    model(torch.full((1, 6), PAD)).sum().backward()

    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_documents_that_are_kept_apart_do_not_see_each_other_and_count_their_own_positions() -> None:
    model = made(separate_documents=True)
    first, second = ids_of(1, 6), ids_of(1, 5).flip(1)
    first[0, 0] = second[0, 0] = START
    both = torch.cat([first, second], dim=1)
    changed = both.clone()
    changed[0, 3] = 59 if both[0, 3] != 59 else 58

    assert torch.equal(logits(model, both)[:, 6:], logits(model, changed)[:, 6:])
    torch.testing.assert_close(logits(model, both)[:, 6:], logits(model, second), atol=1e-5, rtol=1e-5)
    assert not torch.equal(logits(made(), both)[:, 6:], logits(made(), changed)[:, 6:])


def test_logits_at_places_are_those_of_all_places() -> None:
    model, ids = made(), ids_of(2, 10)
    places = torch.tensor([[0, 7], [3, 9]])

    with torch.inference_mode():
        some = model(ids, places)

    assert some.shape == (2, 2, 60)
    everywhere = logits(model, ids)
    torch.testing.assert_close(some[1, 0], everywhere[1, 3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some[0, 1], everywhere[0, 7], atol=1e-5, rtol=1e-5)


def test_layers_computed_again_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        model = made().train()
        model.recompute = recompute
        model(ids_of(2, 10)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])

    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("length", [2, 20, 41])
def test_parameters_and_operations_are_those_of_the_arithmetic(tie_embeddings: bool, length: int) -> None:
    settings = {
        **{name: value for name, value in ARGUMENTS.items() if name not in ("vocab_size", "pad_id")},
        "max_seq_len": length,
        "model_type": "bert",
        "tie_embeddings": tie_embeddings,
        "dropout": 0.0,
        "num_kv_heads": 1,  # which the encoder has no say in, as the next three
        "qk_norm": True,
        "activation": "swiglu",
        "short_conv": 4,
    }
    shape = shape_of(settings, 60)

    with torch.device("meta"):
        model = build_model(arguments_of(settings, {"vocab_size": 60, "pad_id": PAD}))

    owners = {
        "embeddings": "embed_tokens", "positions": "embed_positions", "norms": "norm", "attention": "self_attn",
        "convolutions": "mlp_conv", "feed_forward": "mlp", "head": "head",
    }  # fmt: skip
    built = dict.fromkeys(owners, 0)
    for name, parameter in model.named_parameters():
        built[next(part for part, owner in owners.items() if owner in name)] += parameter.numel()
    assert parameters(shape) == built
    assert count(shape) == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tensors == len(model.state_dict())
    assert flops_per_token(shape) * length == pytest.approx(model.flops_per_row())
    assert (shape.targets, MASKED_SHARE) == (masked_places(length), 0.15)


def test_the_preset_has_as_many_parameters_as_are_planned() -> None:
    spec = expand(read_preset("mlm_tiny"))
    pieces = spec.tokenizer.vocab_size

    with torch.device("meta"):
        model = build_model(arguments_of(spec.section("model"), {"vocab_size": pieces, "pad_id": PAD}))

    assert count(shape_of(spec.section("model"), pieces)) == sum(weights.numel() for weights in model.parameters())


def test_attention_drops_as_often_as_the_rest_unless_told_otherwise() -> None:
    def rates(**dropped: float) -> tuple[float, float]:
        block = Bert(**ARGUMENTS, **dropped).layers[0]
        return block.dropout, block.self_attn.dropout

    assert rates(dropout=0.5) == (0.5, 0.5)
    assert rates(dropout=0.5, attention_dropout=0.0) == (0.5, 0.0)
    assert rates(attention_dropout=0.5) == (0.0, 0.5)


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.0, None), (0.1, None), (0.1, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_activations_are_what_autograd_keeps(
    precision: str, dropout: float, attention_dropout: float | None, recompute: bool
) -> None:
    dropped = {"dropout": dropout, "attention_dropout": attention_dropout}
    model = Bert(**ARGUMENTS, **dropped).train()
    convert_weights(model, precision)
    model.recompute = recompute
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    places = torch.arange(masked_places(20)).repeat(5, 1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), arithmetic("cpu", precision):
        logits = model(ids_of(5, 20), places).flatten(0, 1)
        functional.cross_entropy(logits, torch.zeros_like(places).flatten(), ignore_index=IGNORED, reduction="sum")
    settings = {**ARGUMENTS, "model_type": "bert", "tie_embeddings": True, **dropped}

    planned = activation_bytes(shape_of(settings, 60), batch_size=5, precision=precision, recompute=recompute)

    assert planned == sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_logits_equal_those_of_transformers_bert_for_masked_lm(tie_embeddings: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = made(tie_embeddings=tie_embeddings)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=50,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
        hidden_act="gelu",
        tie_word_embeddings=tie_embeddings,
        attn_implementation="eager",
    )
    theirs = transformers.BertForMaskedLM(config).eval()
    missing, unexpected = theirs.load_state_dict(names_of_bert(model), strict=False)
    theirs.tie_weights()
    theirs.bert.embeddings.token_type_embeddings.weight.data.zero_()  # the one segment, which ours has not
    assert not unexpected
    of_the_projection = {"cls.predictions.decoder.bias", "cls.predictions.decoder.weight"}  # tied
    assert set(missing) <= of_the_projection | {"bert.embeddings.token_type_embeddings.weight"}
    ids = ids_of(3, 20)
    ids[1, 12:] = PAD

    with torch.inference_mode():
        expected = theirs(ids, attention_mask=(ids != PAD).long()).logits

    assert expected.abs().max() > 1
    there = ids != PAD
    torch.testing.assert_close(logits(model, ids)[there], expected[there], atol=5e-5, rtol=1e-5)


def names_of_bert(model: Bert) -> dict[str, torch.Tensor]:
    """The weights under the names that Hugging Face gives them."""
    parts = {
        "embed_tokens.": "bert.embeddings.word_embeddings.",
        "embed_positions.": "bert.embeddings.position_embeddings.",
        "embed_norm.": "bert.embeddings.LayerNorm.",
        "layers.": "bert.encoder.layer.",
        ".self_attn.q_proj.": ".attention.self.query.",
        ".self_attn.k_proj.": ".attention.self.key.",
        ".self_attn.v_proj.": ".attention.self.value.",
        ".self_attn.o_proj.": ".attention.output.dense.",
        ".attention_norm.": ".attention.output.LayerNorm.",
        ".mlp.up_proj.": ".intermediate.dense.",
        ".mlp.down_proj.": ".output.dense.",
        ".output_norm.": ".output.LayerNorm.",
        "head_dense.": "cls.predictions.transform.dense.",
        "head_norm.": "cls.predictions.transform.LayerNorm.",
        "head_bias": "cls.predictions.bias",
        "lm_head.": "cls.predictions.decoder.",
    }
    named = {}
    for name, weight in model.state_dict().items():
        for ours, theirs in parts.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901 - a chain of replacements
        named[name] = weight
    if "cls.predictions.decoder.weight" in named:
        named["cls.predictions.decoder.bias"] = named["cls.predictions.bias"]
    return named
