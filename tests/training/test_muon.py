"""Muon against torch's own, what it updates, and the running mean of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_schedule import MUON
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.models.transformer import Transformer
from pipeline.training import optimizer as optimizer_file
from pipeline.training.averaging import MEAN, keep_mean, mean_state, mean_weights
from pipeline.training.optimizer import POLYNOMIALS, Method, Muon, Polynomials, Together, make_optimizer, orthogonalized

pytestmark = pytest.mark.unit


def make_model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "max_seq_len": 12}
    return Transformer(**{**shape, **changes})


def learn(model: Transformer, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        ids = torch.randint(40, (4, 13), generator=generator)
        optimizer.zero_grad()
        logits = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


def test_muon_in_bfloat16_takes_the_steps_of_torch_muon_bit_for_bit() -> None:
    models = make_model(), make_model()
    matrices = [[p for p in model.layers.parameters() if p.dim() == 2] for model in models]
    ours = Muon(
        [{"params": matrices[0]}],
        learning_rate=0.02,
        weight_decay=0.1,
        momentum=0.9,
        method="newton_schulz",
        products=torch.bfloat16,
    )
    theirs = torch.optim.Muon(matrices[1], lr=0.02, weight_decay=0.1, momentum=0.9)

    for model, optimizer in zip(models, (ours, theirs), strict=True):
        learn(model, optimizer, 3)

    assert all(torch.equal(a, b) for a, b in zip(matrices[0], matrices[1], strict=True))
    assert not torch.equal(matrices[0][0], next(p for p in make_model().layers.parameters() if p.dim() == 2))


@pytest.mark.parametrize(("method", "least", "most"), [("newton_schulz", 0.3, 1.3), ("polar_express", 0.4, 1.6)])
@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_an_orthogonalized_matrix_has_singular_values_near_one_and_keeps_its_vectors(
    shape: tuple[int, int], method: Method, least: float, most: float
) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)

    result = orthogonalized(matrix, POLYNOMIALS[method], torch.float32)

    values = torch.linalg.svdvals(result)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ result @ right.T
    assert least < values.min() < values.max() < most
    torch.testing.assert_close(turned, turned.diag().diag(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", POLYNOMIALS)
@pytest.mark.parametrize("shape", [(16, 16), (16, 48)])
def test_a_matrix_of_one_direction_stays_one(shape: tuple[int, int], method: Method, products: torch.dtype) -> None:
    torch.manual_seed(3)
    matrix = torch.randn(shape[0], 1) @ torch.randn(1, shape[1])  # its only singular value is the largest there can be

    result = orthogonalized(matrix, POLYNOMIALS[method], products)

    values = torch.linalg.svdvals(result)
    assert 0.5 < values[0] < 1.7
    assert values[1] < (0.3 if products == torch.float32 else 1.7)  # what is rounded in bfloat16 is raised, too


@pytest.mark.parametrize("method", POLYNOMIALS)
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (3, 16, 48), (16, 32)])
def test_a_long_matrix_in_float32_becomes_what_the_iterations_written_out_make_of_it(
    shape: tuple[int, ...], smallest: float, method: Method
) -> None:
    torch.manual_seed(2)
    left, values, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = (
        left
        @ torch.diag_embed(torch.linspace(1, smallest, values.shape[-1], dtype=torch.float64).expand(values.shape))
        @ right
    )

    result = orthogonalized(matrix.float(), POLYNOMIALS[method], torch.float32).double()

    expected = matrix / torch.linalg.matrix_norm(matrix, keepdim=True)
    for a, b, c in POLYNOMIALS[method]:
        square = expected @ expected.mT
        expected = a * expected + (b * square + c * square @ square) @ expected
    torch.testing.assert_close(result, expected, atol=5e-5, rtol=0)


def test_the_polar_express_raises_what_is_small_as_far_as_newton_and_schulz_in_one_application_less() -> None:
    small = torch.diag(torch.tensor([1.0, 2e-3, 1e-3, 5e-4]))

    raised = {name: orthogonalized(small, each, torch.float32).diag()[1:] for name, each in POLYNOMIALS.items()}

    assert len(POLYNOMIALS["polar_express"]) == len(POLYNOMIALS["newton_schulz"]) - 1
    torch.testing.assert_close(raised["polar_express"], raised["newton_schulz"], rtol=0.15, atol=0)


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_everything_else() -> None:
    model = make_model(model_type="gpt", tie_embeddings=False, qk_norm=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    matrices, decayed, spared = make_optimizer(model, **MUON).param_groups

    by_muon = {names[id(parameter)] for parameter in matrices["params"]}
    assert {name.split(".")[0] for name in by_muon} == {"layers"}
    assert all(name.endswith("_proj.weight") for name in by_muon)
    assert {names[id(parameter)] for parameter in decayed["params"]} == {"embed_tokens.weight", "lm_head.weight"}
    assert len(by_muon) + len(decayed["params"]) + len(spared["params"]) == len(names)


def test_optimizers_that_work_together_go_on_from_a_state_that_was_taken_over() -> None:
    model = make_model()
    optimizer = make_optimizer(model, **MUON)
    learn(model, optimizer, 2)
    twin = make_model()
    twin.load_state_dict(model.state_dict())
    other = make_optimizer(twin, **MUON)

    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    learn(model, optimizer, 2)
    learn(twin, other, 2)

    assert isinstance(other, Together)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_step_of_muon_that_ran_out_of_memory_halfway_is_not_taken_twice(
    make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def short_of_memory(matrix: Tensor, polynomials: Polynomials, products: torch.dtype) -> Tensor:
        calls.append(1)
        if len(calls) == 20:  # a step has 14 matrices
            raise MemoryError
        return orthogonalized(matrix, polynomials, products)

    monkeypatch.setattr(optimizer_file, "orthogonalized", short_of_memory)

    with pytest.raises(TrainingError, match="cannot be taken back"):
        make_bench(optimizer_name="muon").start()
    assert len(calls) == 20


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_mean_of_the_weights_is_the_one_written_out(name: str) -> None:
    model = make_model()
    optimizer = make_optimizer(model, **{**MUON, "optimizer_name": name})
    keep_mean(optimizer, 0.75)
    path = []
    for _ in range(4):
        learn(model, optimizer, 1)
        path.append(model.layers[0].mlp.up_proj.weight.detach().clone())

    expected = path[0]
    for weight in path[1:]:
        expected = 0.75 * expected + 0.25 * weight

    torch.testing.assert_close(optimizer.state[model.layers[0].mlp.up_proj.weight][MEAN], expected)


def test_inside_the_block_the_model_has_the_mean_and_afterwards_its_own_weights() -> None:
    model = make_model()
    optimizer = make_optimizer(model, **MUON)
    keep_mean(optimizer, 0.9)
    learn(model, optimizer, 3)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    means = {name: tensor.clone() for name, tensor in mean_state(model, optimizer).items()}

    with mean_weights(model, optimizer):
        inside = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    assert own.keys() == means.keys()
    assert all(torch.equal(inside[name], means[name]) for name in means)
    assert not any(torch.equal(inside[name], own[name]) for name in own)
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_the_mean_of_weights_in_sixteen_bits_is_kept_in_float32_and_looking_at_it_does_not_round_it() -> None:
    model = make_model().bfloat16()
    optimizer = make_optimizer(model, **MUON)
    keep_mean(optimizer, 0.999)
    learn(model, optimizer, 3)
    weight = model.layers[0].mlp.up_proj.weight
    before = optimizer.state[weight][MEAN].clone()

    with mean_weights(model, optimizer):
        assert torch.equal(weight, before.bfloat16())

    assert before.dtype == torch.float32
    assert not torch.equal(before, before.bfloat16().float())
    assert torch.equal(optimizer.state[weight][MEAN], before)


def test_without_a_mean_the_model_is_evaluated_as_it_is() -> None:
    model = make_model()
    optimizer = make_optimizer(model, **MUON)
    learn(model, optimizer, 1)

    assert mean_state(model, optimizer) == {}
    with mean_weights(model, optimizer):
        pass
