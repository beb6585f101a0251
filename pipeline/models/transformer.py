"""A decoder-only transformer, complete in one file, in two shapes.

* `llama`: RMSNorm, rotary positions, SwiGLU, no biases. Every weight has the name it has in Hugging Face's
  Llama without the prefix `model.`, and the same layout, so the two map one to one.
* `gpt`: LayerNorm, learned positions, GELU, biases; pre-norm as in GPT-2.
* Both, if asked for: grouped-query attention, an output projection tied to the embedding, normalized queries and
  keys, another feed-forward layer than that of the shape, a short convolution before it, projections into the residual
  stream that start at zero, documents of one window kept apart.
* `llama` with normalized queries and keys is Qwen3's shape, and has the names of its weights.
* Attention is written out (two matrix products and a masked softmax) where that is what export and the CPU
  do best, and calls the fused kernel on CUDA.

Shapes: B sequences, T tokens, S tokens seen so far, D = d_model, H heads, K key/value heads, E = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.models.model import Model

ModelType = Literal["llama", "gpt"]
Activation = Literal["auto", "swiglu", "gelu", "relu2"]
DOCUMENT_START = 1  # id of the token that begins a document, in every tokenizer that this toolkit trains


class Cache:
    """What layers need of the tokens seen so far, for generation without recomputing it: keys and values, and features.

    Args:
        model: the model that will use the cache.
        batch_size: sequences generated side by side.
    """

    def __init__(self, model: Transformer, batch_size: int = 1) -> None:
        shape = (batch_size, model.num_kv_heads, model.max_seq_len, model.d_model // model.num_heads)
        weight = model.embed_tokens.weight
        self.keys = [torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in model.layers]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        reach = 0 if model.short_conv is None else model.short_conv - 1
        none = torch.zeros(batch_size, reach, model.d_model, dtype=weight.dtype, device=weight.device)
        self.latest = [none for _ in model.layers]  # features of the last tokens; zeros stand before the first
        self.length = 0  # tokens held

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the (B, K, T, E) keys and values of new tokens; return those of all S tokens."""
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def follow(self, layer: int, x: Tensor) -> Tensor:
        """Put the features of the last tokens before the (B, T, D) features of new ones; keep the last of them all."""
        joined = torch.cat((self.latest[layer].to(x.dtype), x), dim=1)  # (B, reach + T, D)
        self.latest[layer] = joined[:, x.shape[1] :]
        return joined


class HeadNorm(nn.RMSNorm):
    """RMSNorm over the features of each head, in the type of its weights: float32 under autocast, too."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, E) → (…, E)."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ShortConv(nn.Module):
    """Adds to each token a weighted sum of itself and the tokens right before it, each feature by itself.

    A causal, depthwise convolution beside the identity: Allen-Zhu, Physics of Language Models 4.1, 2025, where it is a
    Canon layer of the kind C. It starts at zero, and so as the identity.

    Args:
        d_model: D.
        size: how many tokens the sum is over.
    """

    def __init__(self, d_model: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_model, 1, size))  # as that of Conv1d: the token itself is last

    def forward(self, x: Tensor, cache: Cache | None, layer: int, near: Tensor | None) -> Tensor:
        """(B, T, D) → (B, T, D).

        Args:
            x: the features.
            cache: of the tokens before, if there is one.
            layer: the cache's name for this layer.
            near: (B, T, size), whether the token so many places before is of the same document; None: all are of one.
        """
        length, reach = x.shape[1], self.weight.shape[-1] - 1
        joined = functional.pad(x, (0, 0, reach, 0)) if cache is None else cache.follow(layer, x)
        weights = self.weight.squeeze(1).t().to(x.dtype).contiguous()  # (size, D)
        for back in range(reach + 1):
            earlier = joined[:, reach - back : reach - back + length]  # (B, T, D)
            if near is not None:
                earlier = earlier * near[:, :, back, None]
            x = torch.addcmul(x, earlier, weights[reach - back])
        return x


class Attention(nn.Module):
    """Causal self-attention with H query heads and K key/value heads.

    With `qk_norm`, the queries and keys of each head are normalized before positions turn them, so that scores cannot
    grow with the weights (Dehghani et al., ViT-22B, arXiv:2302.05442, section 2; with RMSNorm as in Qwen3,
    arXiv:2505.09388, section 2).
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        dropout: float,  # of attention weights
        bias: bool,
        qk_norm: bool,
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = d_model // num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * self.head_dim, d_model, bias=bias)
        self.q_norm = HeadNorm(self.head_dim, eps=norm_epsilon) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_dim, eps=norm_epsilon) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """Mix (B, T, D) features over the past.

        Args:
            x: the features.
            mask: (T, S) or (B, 1, T, S), 0 where attention may look, else -inf. None, on CUDA: at all that is past.
            rotary: cosines and sines of the tokens' positions, (T, E/2) or (B, 1, T, E/2) each.
            cache: of keys and values, if there is one.
            layer: the cache's name for this layer.
        """
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, E)
        k = self.k_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, E)
        v = self.v_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, K, S, E)
        if self.num_kv_heads != self.num_heads:
            group = self.num_heads // self.num_kv_heads
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, S, E)
        y = self._attend(q, k, v, mask)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        if q.is_cuda:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), dropout_p=dropout)
        scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)  # (B, H, T, S)
        weights = torch.softmax(scores.float() + mask, dim=-1).to(v.dtype)
        return functional.dropout(weights, dropout, training=self.training) @ v  # (B, H, T, E)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: turn each pair (i, i + E/2) of (B, H, T, E) by its position's angle.

    Su et al., RoFormer, arXiv:2104.09864, section 3.4, with the pairing of Hugging Face's Llama.
    """
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate(x)) · up(x)). Shazeer, arXiv:2002.05202."""

    def __init__(self, d_model: int, d_ff: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class PlainMLP(nn.Module):
    """Feed-forward layer without a gate: down(activation(up(x)))."""

    def __init__(self, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], *, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return out


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)². So et al., Primer, arXiv:2109.08668, section 3.1."""
    return functional.relu(x).square()


# Activation → feed-forward layer of (D, inner width, with biases or not). `auto` is that of the model's shape.
FEED_FORWARD: Mapping[str, Callable[[int, int, bool], nn.Module]] = {
    "swiglu": lambda d_model, d_ff, bias: SwiGLU(d_model, d_ff, bias=bias),
    "gelu": lambda d_model, d_ff, bias: PlainMLP(d_model, d_ff, functional.gelu, bias=bias),
    "relu2": lambda d_model, d_ff, bias: PlainMLP(d_model, d_ff, relu_squared, bias=bias),
}
_ACTIVATION_OF: Mapping[ModelType, str] = {"llama": "swiglu", "gpt": "gelu"}


class Block(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + feed-forward(norm(x)).

    With `short_conv`, the second reads what a `ShortConv` makes of its normalized features.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        d_ff: int,
        dropout: float,
        attention_dropout: float,
        norm_epsilon: float,
        model_type: ModelType,
        qk_norm: bool,
        activation: Activation,
        short_conv: int | None,
    ) -> None:
        super().__init__()
        llama = model_type == "llama"
        norm = nn.RMSNorm if llama else nn.LayerNorm
        self.dropout = dropout
        self.input_layernorm = norm(d_model, eps=norm_epsilon)
        self.self_attn = Attention(
            d_model=d_model,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            dropout=attention_dropout,
            bias=not llama,
            qk_norm=qk_norm,
            norm_epsilon=norm_epsilon,
        )
        self.post_attention_layernorm = norm(d_model, eps=norm_epsilon)
        kind = _ACTIVATION_OF[model_type] if activation == "auto" else activation
        self.mlp = FEED_FORWARD[kind](d_model, d_ff, not llama)
        self.mlp_conv = None if short_conv is None else ShortConv(d_model, short_conv)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
        layer: int,
        *,
        near: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) → (B, T, D). The arguments are those of `Attention` and of `ShortConv`."""
        x = x + self._drop(self.self_attn(self.input_layernorm(x), mask, rotary, cache, layer))
        normed = self.post_attention_layernorm(x)
        if self.mlp_conv is not None:
            normed = self.mlp_conv(normed, cache, layer, near)
        return x + self._drop(self.mlp(normed))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, training=self.training)


class Transformer(Model):
    """A decoder-only language model.

    Args:
        vocab_size: V, rows of the token embedding.
        d_model: D, width of the residual stream.
        num_layers: number of blocks.
        num_heads: H, query heads; must divide d_model.
        d_ff: inner width of the feed-forward layers.
        max_seq_len: longest sequence, in tokens.
        num_kv_heads: K, key/value heads; must divide num_heads. None means H.
        model_type: `llama` or `gpt`, see the top of this file.
        dropout: probability of dropping a feature while training.
        attention_dropout: probability of dropping an attention weight while training; None takes that of `dropout`.
        tie_embeddings: use the token embedding as output projection.
        rope_theta: base of the rotary frequencies (`llama`).
        norm_epsilon: added to the variance in each normalization.
        init_std: standard deviation of the initial weights. Projections into the residual stream start at
            init_std / √(2 · num_layers), so that its variance does not grow with depth (GPT-2, section 2.3).
        qk_norm: normalize queries and keys, see `Attention`.
        activation: which feed-forward layer, a key of `FEED_FORWARD`; `auto` is that of the shape.
        zero_init: projections into the residual stream start at zero, so that every block starts as the identity
            (Zhang et al., Fixup, arXiv:1901.09321, section 3.2).
        short_conv: how many tokens the convolution of each block is over, see `ShortConv`; None for blocks without.
        separate_documents: a token sees only tokens of its own document, and positions count from the document's first
            token in the window. Without it, documents of one window see those before them.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_seq_len: int,
        num_kv_heads: int | None = None,
        model_type: ModelType = "llama",
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        tie_embeddings: bool = True,
        rope_theta: float = 10000.0,
        norm_epsilon: float = 1e-5,
        init_std: float = 0.02,
        qk_norm: bool = False,
        activation: Activation = "auto",
        zero_init: bool = False,
        short_conv: int | None = None,
        separate_documents: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.d_model, self.max_seq_len = vocab_size, d_model, max_seq_len
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.model_type, self.dropout = model_type, dropout
        self.short_conv, self.separate_documents = short_conv, separate_documents
        llama = model_type == "llama"
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.embed_positions = None if llama else nn.Embedding(max_seq_len, d_model)
        self.layers = nn.ModuleList(
            Block(
                d_model=d_model,
                num_heads=num_heads,
                num_kv_heads=self.num_kv_heads,
                d_ff=d_ff,
                dropout=dropout,
                attention_dropout=dropout if attention_dropout is None else attention_dropout,
                norm_epsilon=norm_epsilon,
                model_type=model_type,
                qk_norm=qk_norm,
                activation=activation,
                short_conv=short_conv,
            )
            for _ in range(num_layers)
        )
        self.norm = (nn.RMSNorm if llama else nn.LayerNorm)(d_model, eps=norm_epsilon)
        self.lm_head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        self._initialize(init_std, 0.0 if zero_init else init_std / math.sqrt(2 * num_layers))
        self._rotary = (d_model // num_heads, rope_theta)
        self.build_tables(self.embed_tokens.weight.device)

    def build_tables(self, device: torch.device) -> None:
        """Make the tables that follow from the arguments: they move with the module but are not in its state."""
        cos, sin = rotary_table(self.max_seq_len, *self._rotary, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        mask = torch.full((self.max_seq_len, self.max_seq_len), -math.inf, device=device).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def _initialize(self, std: float, into_residual: float) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=into_residual)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """The (B, T, D) features that the output projection reads, for (B, T) token ids.

        What continues a cache is of one document with what the cache holds.
        """
        length = ids.shape[1]
        start = 0 if cache is None else cache.length
        mask: Tensor | None = self.mask[start : start + length, : start + length]  # (T, S)
        if ids.is_cuda and cache is None:
            mask = None  # what the fused kernel need not read, it need not compute
        cos, sin = self.cos[start : start + length], self.sin[start : start + length]  # (T, E/2) each
        places = None if self.embed_positions is None else self.embed_positions.weight[start : start + length]
        near = None
        if self.separate_documents and cache is None:
            visible = self._visible(ids)
            mask = torch.where(visible, 0.0, -math.inf)[:, None]  # (B, 1, T, T)
            positions = visible.sum(-1) - 1  # (B, T)
            cos, sin = cos[positions][:, None], sin[positions][:, None]  # (B, 1, T, E/2) each
            places = None if places is None else places[positions]  # (B, T, D)
            if self.short_conv is not None:
                near = torch.arange(self.short_conv, device=ids.device) <= positions[:, :, None]  # (B, T, size)
        x = self.embed_tokens(ids)  # (B, T, D)
        if places is not None:
            x = x + places
        x = functional.dropout(x, self.dropout, training=self.training)
        rotary = (cos, sin) if places is None else None
        for layer, block in enumerate(self.layers):
            if self.recompute and self.training:
                x = checkpoint(block, x, mask, rotary, cache, layer, near=near, use_reentrant=False)
            else:
                x = block(x, mask, rotary, cache, layer, near=near)
        if cache is not None:
            cache.length += length
        normed: Tensor = self.norm(x)
        return normed

    def _visible(self, ids: Tensor) -> Tensor:
        """(B, T, T): which tokens each token may see. Documents begin with a token of their own."""
        length = ids.shape[1]
        documents = (ids == DOCUMENT_START).cumsum(1)  # (B, T)
        return (documents[:, :, None] == documents[:, None, :]) & (self.mask[:length, :length] == 0)

    def head(self, hidden: Tensor) -> Tensor:
        """(…, D) features → (…, V) logits."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return functional.linear(hidden, weight)

    def flops_per_token(self) -> float:
        """Floating-point operations that training spends on one token: forward and backward, nothing recomputed.

        Chowdhery et al., PaLM, arXiv:2204.02311, appendix B: 6 for each weight of a matrix product and
        12 · layers · D · T for attention.
        """
        looked_up = 0 if self.embed_positions is None else self.embed_positions.weight.numel()
        looked_up += 0 if self.lm_head is None else self.embed_tokens.weight.numel()
        weights = sum(parameter.numel() for parameter in self.parameters()) - looked_up
        return 6.0 * weights + 12.0 * len(self.layers) * self.d_model * self.max_seq_len

    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one sequence of full length."""
        return self.flops_per_token() * self.max_seq_len

    def logits_shape(self, batch: int, length: int) -> tuple[int, ...]:
        """(B, T, V)."""
        return batch, length, self.vocab_size

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) token ids → (B, T, V) logits of the token that follows each.

        With a cache, `ids` continue what the cache holds, and only they are computed.
        """
        return self.head(self.hidden(ids, cache)).float()


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (T, E/2), of the angle of every position and feature pair."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * theta ** (-pairs / head_dim)
    return angles.cos(), angles.sin()
