"""Our llama shape against transformers' own implementations of Llama and, with normalized heads, of Qwen3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models.store import load_model
from pipeline.models.transformer import Transformer
from pipeline.paths import OUTPUT_OF
from pipeline.tasks.language_model import loss_sum

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ARGUMENTS: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 48,
    "num_layers": 3,
    "num_heads": 3,
    "d_ff": 100,
    "max_seq_len": 40,
}


def assert_equal_to_llama(model: Transformer, arguments: dict[str, Any]) -> None:
    """Load the weights into transformers' model under their names there; compare logits of random tokens."""
    transformers = pytest.importorskip("transformers")
    name = "Qwen3" if arguments.get("qk_norm") else "Llama"
    config = getattr(transformers, f"{name}Config")(
        head_dim=arguments["d_model"] // arguments["num_heads"],
        vocab_size=arguments["vocab_size"],
        hidden_size=arguments["d_model"],
        intermediate_size=arguments["d_ff"],
        num_hidden_layers=arguments["num_layers"],
        num_attention_heads=arguments["num_heads"],
        num_key_value_heads=arguments.get("num_kv_heads") or arguments["num_heads"],
        max_position_embeddings=arguments["max_seq_len"],
        rms_norm_eps=arguments.get("norm_epsilon", 1e-5),
        rope_theta=arguments.get("rope_theta", 10000.0),
        tie_word_embeddings=arguments.get("tie_embeddings", True),
        attn_implementation="eager",
    )
    theirs = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    weights = {(name if name.startswith("lm_head") else f"model.{name}"): w for name, w in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    theirs.tie_weights()
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    ids = torch.randint(arguments["vocab_size"], (2, arguments["max_seq_len"]))

    with torch.inference_mode():
        ours, expected = model.eval()(ids), theirs(ids).logits

    assert expected.abs().max() > 1
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_kv_heads": 1}, {"tie_embeddings": False}, {"qk_norm": True}, {"qk_norm": True, "num_kv_heads": 1}],
    ids=str,
)
def test_logits_equal_those_of_llama_or_qwen3_for_weights_of_any_shape(changes: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = Transformer(**ARGUMENTS, **changes)
    for parameter in model.parameters():  # as large as trained weights, so that every part shows in the logits
        parameter.data = torch.randn_like(parameter) * 0.1 + (1.0 if parameter.dim() == 1 else 0.0)

    assert_equal_to_llama(model, {**ARGUMENTS, **changes})


def test_logits_equal_those_of_llama_after_training() -> None:
    torch.manual_seed(1)
    model = Transformer(**ARGUMENTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.arange(8 * 41).view(8, 41) % 7
    for _ in range(60):
        loss = loss_sum(model, tokens[:, :-1], tokens[:, 1:]) / (8 * 40)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1

    assert_equal_to_llama(model, ARGUMENTS)


def test_logits_of_the_model_that_the_pipeline_built_equal_those_of_llama() -> None:
    folder: Path = OUTPUT_OF["train"]
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: run `foundry run` first")
    model, description = load_model(folder)
    if description["model"]["model_type"] != "llama":
        pytest.skip("the model in artifacts/model has the gpt shape")

    assert_equal_to_llama(model, description["model"])
