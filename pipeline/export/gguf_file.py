"""GGUF, the file of llama.cpp: weights in float32 and the tokenizer as metadata. Needs the package `gguf`.

`llama` shapes become llama.cpp's architecture `llama`, those with normalized queries and keys `qwen3`. The former turns
neighbouring features of a head where we turn those half a head apart, so rows of its query and key matrices change
places.
"""

# ruff: noqa: PLC0415 - torch and gguf are imported by the functions that need them

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.encoded import read_metadata
from pipeline.errors import ExportError
from pipeline.export.source import Run, Source

# Our names of a layer's weights → those of llama.cpp; `layers.N.` and `blk.N.` stand in front.
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ENDS = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_TOKENIZER = {"unigram": "t5", "bpe": "llama"}  # what llama.cpp calls SentencePiece's two algorithms

Matrix = NDArray[np.float32]


def write_gguf(source: Source, path: Path) -> None:
    """Write the file."""
    from gguf import GGUFWriter

    description, about = source.description, read_metadata(source.folder)
    arguments = description["model"]
    heads, kv_heads = arguments["num_heads"], arguments.get("num_kv_heads") or arguments["num_heads"]
    kind = "qwen3" if arguments.get("qk_norm") else "llama"
    writer = GGUFWriter(path, kind)
    figures = {
        "name": description["model_name"],
        "context_length": arguments["max_seq_len"],
        "embedding_length": arguments["d_model"],
        "block_count": arguments["num_layers"],
        "feed_forward_length": arguments["d_ff"],
        "head_count": heads,
        "head_count_kv": kv_heads,
        "key_length": arguments["d_model"] // heads,
        "value_length": arguments["d_model"] // heads,
        "rope_dimension_count": arguments["d_model"] // heads,
        "rope_freq_base": arguments.get("rope_theta", 10000.0),
        "layer_norm_rms_eps": arguments.get("norm_epsilon", 1e-5),
        "vocab_size": arguments["vocab_size"],
        **_tokenizer(source.folder / "tokenizer.model", about),
    }
    for name, value in figures.items():
        getattr(writer, f"add_{name}")(value)
    for name, tensor in source.model.state_dict().items():
        matrix: Matrix = tensor.numpy()
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            matrix = neighbouring(matrix, heads if "q_proj" in name else kv_heads)
        writer.add_tensor(_theirs(name), matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenizer(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    from pipeline.data.tokenizer import read_pieces

    pieces = list(read_pieces(path.read_bytes()))
    return {
        "tokenizer_model": _TOKENIZER[about["tokenizer_type"]],
        "token_list": [piece.text for piece in pieces],
        "token_scores": [piece.score for piece in pieces],
        "token_types": [piece.kind for piece in pieces],  # both count kinds alike
        "bos_token_id": about["bos_id"],
        "eos_token_id": about["eos_id"],
        "unk_token_id": about["unk_id"],
        "pad_token_id": about["pad_id"],
        "add_bos_token": True,
        "add_space_prefix": False,
        "remove_extra_whitespaces": False,
    }


def neighbouring(matrix: Matrix, heads: int) -> Matrix:
    """Rows of each head, of E features, in the order that turns neighbours: 0, E/2, 1, E/2 + 1 and so on."""
    rows, width = matrix.shape
    return np.ascontiguousarray(matrix.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2)).reshape(rows, width)


def half_apart(matrix: Matrix, heads: int) -> Matrix:
    """The inverse of `neighbouring`."""
    rows, width = matrix.shape
    return np.ascontiguousarray(matrix.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2)).reshape(rows, width)


def _theirs(name: str) -> str:
    """The name that a weight of ours has in the file."""
    part, _, kind = name.rpartition(".")
    if part in _ENDS:
        return f"{_ENDS[part]}.{kind}"
    _, layer, inner = part.split(".", 2)
    return f"blk.{layer}.{_LAYER[inner]}.{kind}"


def inspect_gguf(path: Path) -> dict[str, Any]:
    """Check that the file opens and holds a model and its tokenizer.

    Raises:
        ExportError: it does not.
    """
    reader = _read(path)
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise ExportError("it holds no tokenizer", where=str(path))
    return {
        "architecture": reader.fields["general.architecture"].contents(),
        "tensors": len(reader.tensors),
        "tokens": len(tokens.data),
    }


def open_gguf(path: Path, threads: int) -> Run:
    """Rebuild the model from nothing but the file, and run it in PyTorch."""
    import torch

    from pipeline.export.torch_files import run_in_torch
    from pipeline.models.transformer import Transformer

    torch.set_num_threads(threads)
    reader = _read(path)
    kind = reader.fields["general.architecture"].contents()

    def figure(name: str) -> Any:
        return reader.fields[f"{kind}.{name}"].contents()

    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    heads, kv_heads = figure("attention.head_count"), figure("attention.head_count_kv")
    model = Transformer(
        vocab_size=len(tensors["token_embd.weight"]),
        d_model=figure("embedding_length"),
        num_layers=figure("block_count"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_ff=figure("feed_forward_length"),
        max_seq_len=figure("context_length"),
        tie_embeddings="output.weight" not in tensors,
        rope_theta=figure("rope.freq_base"),
        norm_epsilon=figure("attention.layer_norm_rms_epsilon"),
        qk_norm=kind == "qwen3",
    )
    state = {}
    for name in model.state_dict():
        matrix = tensors[_theirs(name)]
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            matrix = half_apart(matrix, heads if "q_proj" in name else kv_heads)
        state[name] = torch.from_numpy(matrix)
    model.load_state_dict(state)
    return run_in_torch(model.eval())


def _read(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ExportError(f"not a GGUF file: {error}", where=str(path)) from error
