"""Models as graphs: traced with free batch and length."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from pipeline.export.source import FREE, example
from pipeline.models.bert import Bert
from pipeline.models.model import Model
from pipeline.models.transformer import Transformer

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
    given = example(model)
    longest = model.input_name == "ids" and given.shape[1] == model.max_seq_len  # two tokens: no shorter one is free
    return torch.export.export(with_room(model) if longest else model, (given,), dynamic_shapes=(free,))


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
