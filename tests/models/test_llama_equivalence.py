"""Our llama shape against transformers' own implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models.transformer import Transformer

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1}, {"tie_embeddings": False}], ids=str)
def test_logits_equal_those_of_llama_for_causal_lm(changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {"vocab_size": 300, "d_model": 48, "num_layers": 3, "num_heads": 3, "d_ff": 100, "max_seq_len": 40}
    arguments |= changes
    torch.manual_seed(1)
    model = Transformer(**arguments).eval()
    for parameter in model.parameters():  # as large as trained weights, so that every part shows in the logits
        parameter.data = torch.randn_like(parameter) * 0.1 + (1.0 if parameter.dim() == 1 else 0.0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=arguments.get("num_kv_heads", 3),
        max_position_embeddings=40,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=arguments.get("tie_embeddings", True),
        attn_implementation="eager",
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = {(name if name.startswith("lm_head") else f"model.{name}"): w for name, w in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    theirs.tie_weights()
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    ids = torch.randint(300, (2, 40))

    with torch.inference_mode():
        ours, expected = model(ids), theirs(ids).logits

    assert expected.abs().max() > 1
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)
