"""A model that writes text as an ONNX graph with keys and values, written node by node.

What is notable about it:

* Attention is one node, ONNX Runtime's `GroupQueryAttention`: it turns positions, looks at the past, and writes the
  keys and values of new tokens beside those of the past. Nothing is copied from token to token.
* One node, too, is each norm with the sum before it, and the product with the query, key and value matrices.
* That node takes heads of 16 features or a multiple. Others are filled up with zeros, which add nothing.
* A short convolution keeps the features of the last tokens, as many as it reaches back.
* A row is one document from its first token on, so `model.separate_documents` has nothing to separate.

It is a second way to write down `models.transformer`. That it computes the same is what the health checks show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from pipeline.export.runner import IDS, LENGTH, LOGITS, PAST, PRESENT, TOTAL
from pipeline.models.transformer import Block, PlainMLP, Transformer, relu_squared

Matrix = NDArray[np.float32]

_RUNTIME = "com.microsoft"  # domain of ONNX Runtime's own operators
_HEAD_STEP = 16  # GroupQueryAttention turns the positions of heads of so many features, or a multiple
_PARTS = ("q_proj", "k_proj", "v_proj")
_END = np.iinfo(np.int64).max  # of whatever is sliced


def generating_graph(model: Transformer, opset: int) -> onnx.ModelProto:
    """The graph of a model, for `runner.Graph`.

    Inputs are `ids` (batch, length) int64, which follow the tokens of the past; `seqlens_k` (batch,) int32, the number
    of tokens of past and ids together, less one; `total_sequence_length` () int32, that number; and for each layer N
    `past_key_values.N.key` and `.value` (batch, K, past, E) float32, which may have room for more tokens than there
    are, and where there are convolutions `.features` (batch, size - 1, D) float32, zeros before the first token.
    Outputs are `logits` (batch, length, V) of the new tokens and for each layer `present.N.key`, `.value`, `.features`.
    After a past, a batch of several rows takes one id each.

    Args:
        model: in evaluation mode, on the CPU.
        opset: version of the ONNX operator set.
    """
    graph = _Graph(model)
    x, branch = graph.embedding(), ""
    for layer in range(len(model.layers)):
        x, normed = graph.norm(x, branch, f"layers.{layer}.input_layernorm")
        branch = graph.attention(normed, layer)
        x, normed = graph.norm(x, branch, f"layers.{layer}.post_attention_layernorm")
        branch = graph.feed_forward(graph.convolved(normed, layer), layer)
    _, normed = graph.norm(x, branch, "norm")
    graph.head(normed)
    versions = [helper.make_opsetid("", opset), helper.make_opsetid(_RUNTIME, 1)]
    oldest = helper.find_min_ir_version_for(versions, ignore_unknown=True)
    found = helper.make_model(graph.proto(), opset_imports=versions, ir_version=oldest, producer_name="model-foundry")
    helper.set_model_props(found, {"max_seq_len": str(model.max_seq_len)})
    return found


class _Graph:
    """Nodes and weights, as they come. Methods add to them and return the names of what was computed."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._state: Mapping[str, Matrix] = {name: value.numpy() for name, value in model.state_dict().items()}
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._tables: list[str] = []
        self._llama = model.model_type == "llama"
        self._head_dim = model.d_model // model.num_heads  # E
        self._filled = -(-self._head_dim // _HEAD_STEP) * _HEAD_STEP  # features of a head in the graph

    def proto(self) -> onnx.GraphProto:
        """All of it, with inputs and outputs."""
        model, value = self._model, helper.make_tensor_value_info
        layers = [f"{layer}.{kind}" for layer in range(len(model.layers)) for kind in ("key", "value")]
        held, given = (["batch", model.num_kv_heads, length, self._filled] for length in ("past", "total"))
        convolved = [] if model.short_conv is None else [f"{layer}.features" for layer in range(len(model.layers))]
        latest: list[str | int | None] = ["batch", (model.short_conv or 1) - 1, model.d_model]
        inputs = [
            value(IDS, TensorProto.INT64, ["batch", "length"]),
            value(LENGTH, TensorProto.INT32, ["batch"]),
            value(TOTAL, TensorProto.INT32, []),
            *(value(PAST + layer, TensorProto.FLOAT, held) for layer in layers),
            *(value(PAST + layer, TensorProto.FLOAT, latest) for layer in convolved),
        ]
        outputs = [
            value(LOGITS, TensorProto.FLOAT, ["batch", "length", model.vocab_size]),
            *(value(PRESENT + layer, TensorProto.FLOAT, given) for layer in layers),
            *(value(PRESENT + layer, TensorProto.FLOAT, latest) for layer in convolved),
        ]
        return helper.make_graph(self._nodes, "generating", inputs, outputs, list(self._weights.values()))

    def embedding(self) -> str:
        """(B, T, D) features of the ids, together with those of learned positions."""
        x = self._add("Gather", self._weight("embed_tokens.weight"), IDS)
        if self._llama:
            return x
        total = self._add("Cast", TOTAL, to=TensorProto.INT64)
        end = self._add("Reshape", total, self._constant("[1]", np.array([1])))
        start = self._add("Sub", end, self._add("Shape", IDS, start=1, end=2))
        rows = self._constant("[0]", np.array([0]))
        return self._add("Add", x, self._add("Slice", self._weight("embed_positions.weight"), start, end, rows))

    def norm(self, x: str, branch: str, name: str) -> tuple[str, str]:
        """The sum of (B, T, D) features and of a branch, which may be empty, and that sum normalized."""
        weight, epsilon = self._weight(f"{name}.weight"), _epsilon(self._model)
        bias = [] if self._llama else [self._weight(f"{name}.bias")]
        if branch:
            operator = "SkipSimplifiedLayerNormalization" if self._llama else "SkipLayerNormalization"
            outputs = [f"{name}.normed", "", "", f"{name}.summed"]
            self._node(operator, [x, branch, weight, *bias], outputs, domain=_RUNTIME, epsilon=epsilon)
            return outputs[3], outputs[0]
        if self._llama:
            return x, self._rms_norm(x, weight, epsilon)
        return x, self._add("LayerNormalization", x, weight, *bias, axis=-1, epsilon=epsilon)

    def _rms_norm(self, x: str, weight: str, epsilon: float) -> str:
        """The norm x / √(mean of x² + epsilon) · weight, in the words that ONNX Runtime makes one node of."""
        squares = self._add("Pow", x, self._constant("2.0", np.array(2, np.float32)))
        mean = self._add("ReduceMean", squares, self._constant("[-1]", np.array([-1])))
        root = self._add("Sqrt", self._add("Add", mean, self._constant(f"{epsilon}", np.array(epsilon, np.float32))))
        return self._add("Mul", self._add("Div", x, root), weight)

    def convolved(self, x: str, layer: int) -> str:
        """(B, T, D) → (B, T, D), with the last tokens of the past; in a model without convolutions what was given."""
        size, name = self._model.short_conv, f"{layer}.features"
        if size is None:
            return x
        joined = self._add("Concat", PAST + name, x, axis=1)  # (B, size - 1 + T, D)
        first, last, axis = (self._constant(f"[{number}]", np.array([number])) for number in (1 - size, _END, 1))
        self._node("Slice", [joined, first, last, axis], [PRESENT + name])
        turned, weight = self._add("Transpose", joined, perm=[0, 2, 1]), self._weight(f"layers.{layer}.mlp_conv.weight")
        mixed = self._add("Conv", turned, weight, group=self._model.d_model)  # (B, D, T)
        return self._add("Add", x, self._add("Transpose", mixed, perm=[0, 2, 1]))

    def attention(self, x: str, layer: int) -> str:
        """(B, T, D) → (B, T, D), with the keys and values of the past."""
        model, name = self._model, f"layers.{layer}.self_attn"
        joined = self._linear(x, f"{name}.qkv_proj", *self._joined(name))  # (B, T, (H + 2 · K) · E)
        taken = self._normalized(joined, name) if f"{name}.q_norm.weight" in self._state else [joined, "", ""]
        held, given = ([f"{prefix}{layer}.{kind}" for kind in ("key", "value")] for prefix in (PAST, PRESENT))
        tables = self._rotary_tables() if self._llama else []
        self._node(
            "GroupQueryAttention",
            [*taken, *held, LENGTH, TOTAL, *tables],
            [f"{name}.mixed", *given],
            domain=_RUNTIME,
            num_heads=model.num_heads,
            kv_num_heads=model.num_kv_heads,
            scale=self._head_dim**-0.5,
            do_rotary=int(self._llama),
        )
        weight = self._fill(self._state[f"{name}.o_proj.weight"].T, model.num_heads).T  # (D, H · E)
        return self._linear(f"{name}.mixed", f"{name}.o_proj", weight, self._state.get(f"{name}.o_proj.bias"))

    def _joined(self, name: str) -> tuple[Matrix, Matrix | None]:
        """The three matrices of a layer, one below the other, and likewise their biases."""
        weight, bias = (
            [
                self._fill(self._state[key], self._heads[part], halves=self._llama and part != "v_proj")
                for part in _PARTS
                if (key := f"{name}.{part}.{kind}") in self._state
            ]
            for kind in ("weight", "bias")
        )
        return np.concatenate(weight), np.concatenate(bias) if bias else None

    @property
    def _heads(self) -> Mapping[str, int]:
        model = self._model
        return dict(zip(_PARTS, (model.num_heads, model.num_kv_heads, model.num_kv_heads), strict=True))

    def _normalized(self, joined: str, name: str) -> list[str]:
        """Queries, keys and values by themselves, the first two with each head normalized."""
        sizes = np.array([heads * self._filled for heads in self._heads.values()])
        parts = [f"{name}.{part}" for part in _PARTS]
        self._node("Split", [joined, self._constant("sizes", sizes)], parts, axis=-1)
        share = self._head_dim / self._filled  # the mean counts the zeros that a head was filled up with
        epsilon = share * _epsilon(self._model)
        by_head = self._constant("[0, 0, -1, E]", np.array([0, 0, -1, self._filled]))
        by_token = self._constant("[0, 0, -1]", np.array([0, 0, -1]))
        for index, norm in enumerate(("q_norm", "k_norm")):
            weight = self._fill(self._state[f"{name}.{norm}.weight"], 1, halves=self._llama) * np.float32(share**0.5)
            heads = self._add("Reshape", parts[index], by_head)
            normed = self._rms_norm(heads, self._constant(f"{name}.{norm}", weight), epsilon)
            parts[index] = self._add("Reshape", normed, by_token)
        return parts

    def _rotary_tables(self) -> list[str]:
        """Cosines and sines of positions, (S, E/2) each, which are computed when the graph is loaded."""
        if not self._tables:
            angles = np.arctan2(self._model.sin.numpy(), self._model.cos.numpy())
            missing = (self._filled - self._head_dim) // 2
            turns = self._constant("turns", np.pad(angles, ((0, 0), (0, missing))))
            self._tables = [self._add("Cos", turns), self._add("Sin", turns)]
        return self._tables

    def _fill(self, rows: Matrix, heads: int, *, halves: bool = False) -> Matrix:
        """(heads · E, …) rows with zeros after those of each head, or of each of its halves, which positions pair."""
        parts = heads * (2 if halves else 1)
        split = rows.reshape(parts, -1, *rows.shape[1:])
        missing = heads * (self._filled - self._head_dim) // parts
        filled: Matrix = np.pad(split, ((0, 0), (0, missing), *((0, 0) for _ in rows.shape[1:])))
        return filled.reshape(-1, *rows.shape[1:])

    def feed_forward(self, x: str, layer: int) -> str:
        """(B, T, D) → (B, T, D)."""
        block, name = self._model.layers[layer], f"layers.{layer}.mlp"
        assert isinstance(block, Block)
        up = self._projected(x, f"{name}.up_proj")
        if isinstance(block.mlp, PlainMLP):
            inner = _ACTIVATIONS[block.mlp.activation](self, up)
        else:
            gate = self._projected(x, f"{name}.gate_proj")
            inner = self._add("Mul", self._add("Mul", gate, self._add("Sigmoid", gate)), up)
        return self._projected(inner, f"{name}.down_proj")

    def gelu(self, x: str) -> str:
        """As it is defined, x · Φ(x), not its approximation."""
        return self._add("Gelu", x, domain=_RUNTIME)

    def relu_squared(self, x: str) -> str:
        """max(x, 0)²."""
        positive = self._add("Relu", x)
        return self._add("Mul", positive, positive)

    def head(self, x: str) -> None:
        """(B, T, V) logits, the output."""
        tied = self._model.lm_head is None
        weight = self._weight("embed_tokens.weight" if tied else "lm_head.weight")
        self._node("MatMul", [x, self._add("Transpose", weight, perm=[1, 0])], [LOGITS])

    # How nodes and weights are added

    def _projected(self, x: str, name: str) -> str:
        return self._linear(x, name, self._state[f"{name}.weight"], self._state.get(f"{name}.bias"))

    def _linear(self, x: str, name: str, weight: Matrix, bias: Matrix | None) -> str:
        """The product x · weightᵀ, and bias."""
        product = self._add("MatMul", x, self._constant(f"{name}.weight", weight.T))
        return product if bias is None else self._add("Add", product, self._constant(f"{name}.bias", bias))

    def _weight(self, name: str) -> str:
        return self._constant(name, self._state[name])

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"{operator}.{len(self._nodes)}"
        self._node(operator, list(inputs), [output], domain=domain, **attributes)
        return output

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        name = f"{operator}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))


# What a feed-forward layer without a gate does in between → how it is written.
_ACTIVATIONS: Mapping[Callable[..., Any], Callable[[_Graph, str], str]] = {
    functional.gelu: _Graph.gelu,
    relu_squared: _Graph.relu_squared,
}


def _epsilon(model: Transformer) -> float:
    """What each norm of a model adds to the mean square."""
    epsilon = model.norm.eps
    assert epsilon is not None
    return epsilon
