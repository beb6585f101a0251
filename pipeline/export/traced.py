"""Models as graphs: traced with free batch and length, with or without keys and values that come and go."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from pipeline.export.source import FREE, example
from pipeline.models.bert import Bert
from pipeline.models.model import Model
from pipeline.models.transformer import Cache, Transformer

_TRACED_PAST = 5  # tokens, or fewer where the model has no room; not 0 or 1, which torch.export takes for constants
_AnyModel = TypeVar("_AnyModel", bound=Model)


def program_of(model: Model) -> ExportedProgram:
    """The model as a graph of tensor operations that checks its ranges: any batch, any length up to the longest."""
    free = {0: Dim("batch", min=1)}
    if model.input_name == "ids":
        free[1] = Dim("length", min=1, max=model.max_seq_len)
    program = torch.export.export(with_room(model), (example(model),), dynamic_shapes=(free,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def graph_of(model: Model) -> ExportedProgram:
    """The same to be written as ONNX, which knows no ranges: those that torch.export claims leave the longest out."""
    free = dict.fromkeys(range(len(FREE[model.input_name])), Dim.DYNAMIC)
    return torch.export.export(model, (example(model),), dynamic_shapes=(free,))


def cached_graph_of(model: Transformer) -> ExportedProgram:
    """The model as a graph that takes and gives keys and values, see `Cached`. The past may be empty.

    As in `graph_of`, ranges do not count: past and length end together at the longest text, which torch.export takes
    for limits of each.
    """
    ids = example(model)
    traced = min(_TRACED_PAST, model.max_seq_len - ids.shape[1])
    shape = (len(ids), model.num_kv_heads, traced, model.d_model // model.num_heads)
    held = [torch.zeros(shape) for _ in range(2 * len(model.layers))]  # each its own, or they become one input
    free = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, tuple({0: Dim.DYNAMIC, 2: Dim.DYNAMIC} for _ in held))
    return torch.export.export(Cached(model).eval(), (ids, *held), dynamic_shapes=free)


def with_room(model: _AnyModel) -> _AnyModel:
    """The same model, with tables that are one token longer than its longest text.

    torch.export makes a case of its own for a slice that is the whole of a table, and would leave the longest text out.
    """
    roomy = copy.deepcopy(model)
    for part in roomy.modules():
        if isinstance(part, Transformer):
            part.max_seq_len += 1
            part.build_tables(torch.device("cpu"))
        if isinstance(part, Transformer | Bert) and part.embed_positions is not None:
            rows = functional.pad(part.embed_positions.weight.detach(), (0, 0, 0, 1))
            part.embed_positions.weight = nn.Parameter(rows)
    return roomy


class GraphCache(Cache):
    """Keys and values that are joined, not written in place: a graph has no memory of its own.

    Args:
        past: keys and values of each layer in turn, (B, K, S, E).
    """

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self.keys, self.values = list(past[0::2]), list(past[1::2])
        self.length = past[0].shape[2]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the (B, K, T, E) keys and values of new tokens; return those of all."""
        self.keys[layer] = torch.cat((self.keys[layer], keys), dim=2)
        self.values[layer] = torch.cat((self.values[layer], values), dim=2)
        return self.keys[layer], self.values[layer]


class Cached(nn.Module):
    """A transformer whose cache comes and goes as tensors.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """(B, T) ids and 2 · layers (B, K, S, E) → (B, T, V) logits and 2 · layers (B, K, S + T, E)."""
        cache = GraphCache(past)
        logits = self.model(ids, cache)
        return logits, *(tensor for pair in zip(cache.keys, cache.values, strict=True) for tensor in pair)
