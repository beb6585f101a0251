"""A Hugging Face folder: config.json, safetensors and tokenizer files that `transformers` loads by itself.

| model | class in transformers |
|---|---|
| `llama` with a gate (SwiGLU) | LlamaForCausalLM |
| the same with normalized queries and keys | Qwen3ForCausalLM |
| `llama` without a gate (GELU, squared ReLU) | ArceeForCausalLM |
| `gpt` | GPT2LMHeadModel |

Nothing of `transformers` is needed to write it; the folder is opened with it, to be compared with the model.
"""

# ruff: noqa: PLC0415 - torch and transformers are imported by the functions that need them

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.encoded import read_metadata
from pipeline.errors import ExportError
from pipeline.export.hf_tokenizer import tokenizer_json
from pipeline.export.source import Inputs, Logits, Run, Source
from pipeline.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# Our names of feed-forward layers without a gate → those of transformers; both GELUs are the exact one.
_ACTIVATION = {"gelu": "gelu", "relu2": "relu2", "auto": "gelu"}


def write_hf(source: Source, path: Path) -> None:
    """Write the folder."""
    from safetensors.torch import save_file

    arguments, about = source.description["model"], read_metadata(source.folder)
    path.mkdir()
    state = {name: tensor.contiguous() for name, tensor in _state(source.model.state_dict(), arguments).items()}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    ids = {f"{name}_token_id": about[f"{name}_id"] for name in ("bos", "eos", "pad")}
    write_json(path / "config.json", {**config(arguments), **ids})
    write_json(path / "generation_config.json", {**ids, "max_length": arguments["max_seq_len"]})
    shutil.copyfile(source.folder / "tokenizer.model", path / "tokenizer.model")
    write_json(path / "tokenizer.json", tokenizer_json(source.folder))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
            "model_max_length": arguments["max_seq_len"],
            "clean_up_tokenization_spaces": False,
        },
    )


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model, from the arguments of its class."""
    common = {
        "vocab_size": arguments["vocab_size"],
        "tie_word_embeddings": arguments.get("tie_embeddings", True),
        "dtype": "float32",
        "torch_dtype": "float32",  # what versions of transformers before 4.56 call it
    }
    if arguments["model_type"] == "gpt":
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            **common,
            "n_embd": arguments["d_model"],
            "n_layer": arguments["num_layers"],
            "n_head": arguments["num_heads"],
            "n_inner": arguments["d_ff"],
            "n_positions": arguments["max_seq_len"],
            "activation_function": _ACTIVATION[arguments.get("activation", "auto")],
            "layer_norm_epsilon": arguments.get("norm_epsilon", 1e-5),
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    kind, name = _decoder(arguments)
    theta = arguments.get("rope_theta", 10000.0)
    gate = kind != "arcee"
    return {
        "model_type": kind,
        "architectures": [name],
        **common,
        "hidden_size": arguments["d_model"],
        "intermediate_size": arguments["d_ff"],
        "num_hidden_layers": arguments["num_layers"],
        "num_attention_heads": arguments["num_heads"],
        "num_key_value_heads": arguments.get("num_kv_heads") or arguments["num_heads"],
        "head_dim": arguments["d_model"] // arguments["num_heads"],
        "hidden_act": "silu" if gate else _ACTIVATION[arguments["activation"]],
        "max_position_embeddings": arguments["max_seq_len"],
        "rms_norm_eps": arguments.get("norm_epsilon", 1e-5),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},  # where transformers 5 looks
        "attention_bias": False,
        "mlp_bias": False,
    }


def _decoder(arguments: Mapping[str, Any]) -> tuple[str, str]:
    if arguments.get("qk_norm"):
        return "qwen3", "Qwen3ForCausalLM"
    if arguments.get("activation", "auto") in ("auto", "swiglu"):
        return "llama", "LlamaForCausalLM"
    return "arcee", "ArceeForCausalLM"


def _state(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    if arguments["model_type"] == "gpt":
        return _gpt2_state(state, arguments["num_layers"])
    return {name if name.startswith("lm_head.") else f"model.{name}": tensor for name, tensor in state.items()}


def _gpt2_state(state: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """GPT-2's names; its matrices stand the other way round, and those of queries, keys and values are one."""
    import torch

    found = {
        "transformer.wte.weight": state["embed_tokens.weight"],
        "transformer.wpe.weight": state["embed_positions.weight"],
        "transformer.ln_f.weight": state["norm.weight"],
        "transformer.ln_f.bias": state["norm.bias"],
    }
    if "lm_head.weight" in state:
        found["lm_head.weight"] = state["lm_head.weight"]
    for layer in range(num_layers):
        ours, theirs = f"layers.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):
            joined = torch.cat([state[f"{ours}.self_attn.{name}_proj.{part}"] for name in "qkv"])
            found |= {
                f"{theirs}.ln_1.{part}": state[f"{ours}.input_layernorm.{part}"],
                f"{theirs}.ln_2.{part}": state[f"{ours}.post_attention_layernorm.{part}"],
                f"{theirs}.attn.c_attn.{part}": joined.t(),
                f"{theirs}.attn.c_proj.{part}": state[f"{ours}.self_attn.o_proj.{part}"].t(),
                f"{theirs}.mlp.c_fc.{part}": state[f"{ours}.mlp.up_proj.{part}"].t(),
                f"{theirs}.mlp.c_proj.{part}": state[f"{ours}.mlp.down_proj.{part}"].t(),
            }
    return found


def inspect_hf(path: Path) -> dict[str, Any]:
    """Check that the files are there and that the weights are as many as the header says.

    Raises:
        ExportError: one is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise ExportError(f"{missing[0]} is missing", where=str(path))
    about = read_json(path / "config.json")
    try:
        with safe_open(path / "model.safetensors", framework="np") as weights:
            tensors = len(list(weights.keys()))
    except SafetensorError as error:
        raise ExportError(f"not a safetensors file: {error}", where=str(path / "model.safetensors")) from error
    return {"architecture": about["architectures"][0], "tensors": tensors}


def open_hf(path: Path, threads: int) -> Run:
    """Open the folder with transformers, as its users do."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()

    def logits(inputs: Inputs) -> Logits:
        with torch.inference_mode():
            found: Logits = model(torch.from_numpy(inputs)).logits.numpy()
        return found

    return Run(logits)
