"""A bidirectional encoder that guesses hidden tokens, complete in one file: BERT's shape.

* Devlin et al., arXiv:1810.04805: learned positions, LayerNorm after each sublayer and after the embeddings, GELU,
  biases, and a head of its own: a dense layer, GELU, LayerNorm, and an output projection tied to the embedding.
* Logits are those of Hugging Face's BertForMaskedLM with the same weights. Of BERT it leaves out what one segment has
  no use for: segment embeddings (one segment adds the same vector everywhere, which positions can hold) and the pooler.
* Every token sees the whole sequence, before and after itself. Padding is seen by no token of a text. Documents of one
  sequence are kept apart, if asked for.
* Training asks for logits at the hidden places alone: the head, the most expensive part of a small model, then
  computes an eighth of what all places would take.

Shapes: B sequences, T tokens, K places asked for, D = d_model, H heads, E = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.models.model import Model
from pipeline.models.transformer import DOCUMENT_START

MASKED_SHARE = 0.15  # of the tokens of a sequence; BERT, section 3.1


def masked_places(tokens: int) -> int:
    """How many of so many tokens are hidden: K of a sequence."""
    return max(1, round(MASKED_SHARE * tokens))


class SelfAttention(nn.Module):
    """Self-attention in both directions."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = num_heads, d_model // num_heads, dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.o_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """Mix (B, T, D) features; `unseen` is (B, 1, T, T), true where a token may not look."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, H, T, E)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out: Tensor = self.o_proj(self._attend(q, k, v, unseen).transpose(1, 2).flatten(2))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if q.is_cuda:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=~unseen, dropout_p=dropout)
        scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)  # (B, H, T, T)
        weights = torch.softmax(scores.float().masked_fill(unseen, -math.inf), dim=-1).to(v.dtype)
        return functional.dropout(weights, dropout, training=self.training) @ v  # (B, H, T, E)


class FeedForward(nn.Module):
    """down(GELU(up(x)))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff)
        self.down_proj = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        out: Tensor = self.down_proj(functional.gelu(self.up_proj(x)))
        return out


class EncoderBlock(nn.Module):
    """One layer: norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        dropout: float,
        attention_dropout: float,
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = SelfAttention(d_model, num_heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(d_model, eps=norm_epsilon)
        self.mlp = FeedForward(d_model, d_ff)
        self.output_norm = nn.LayerNorm(d_model, eps=norm_epsilon)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D). See `SelfAttention` for `unseen`."""
        x = self.attention_norm(x + self._drop(self.self_attn(x, unseen)))
        out: Tensor = self.output_norm(x + self._drop(self.mlp(x)))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, training=self.training)


class Bert(Model):
    """An encoder that says for each place which token stands there.

    Args:
        vocab_size: V, rows of the token embedding.
        d_model: D, width of the features.
        num_layers: number of blocks.
        num_heads: H; must divide d_model.
        d_ff: inner width of the feed-forward layers.
        max_seq_len: longest sequence, in tokens.
        pad_id: the token that fills sequences up.
        dropout: probability of dropping a feature while training.
        attention_dropout: probability of dropping an attention weight while training; None takes that of `dropout`.
        tie_embeddings: use the token embedding as output projection.
        norm_epsilon: added to the variance in each normalization.
        init_std: standard deviation of the initial weights.
        separate_documents: a token sees only tokens of its own document, and positions count from the document's first
            token in the sequence. Without it, documents of one sequence see each other.
        model_type: as in the spec.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_seq_len: int,
        pad_id: int,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        tie_embeddings: bool = True,
        norm_epsilon: float = 1e-5,
        init_std: float = 0.02,
        separate_documents: bool = False,
        model_type: Literal["bert"] = "bert",
    ) -> None:
        super().__init__()
        self.vocab_size, self.d_model, self.max_seq_len = vocab_size, d_model, max_seq_len
        self.pad_id, self.dropout, self.model_type = pad_id, dropout, model_type
        self.separate_documents = separate_documents
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(max_seq_len, d_model)
        self.embed_norm = nn.LayerNorm(d_model, eps=norm_epsilon)
        self.layers = nn.ModuleList(
            EncoderBlock(
                d_model,
                num_heads,
                d_ff,
                dropout=dropout,
                attention_dropout=dropout if attention_dropout is None else attention_dropout,
                norm_epsilon=norm_epsilon,
            )
            for _ in range(num_layers)
        )
        self.head_dense = nn.Linear(d_model, d_model)
        self.head_norm = nn.LayerNorm(d_model, eps=norm_epsilon)
        self.head_bias = nn.Parameter(torch.zeros(vocab_size))
        self.lm_head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        self._initialize(init_std)

    def _initialize(self, std: float) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(self, ids: Tensor) -> Tensor:
        """The (B, T, D) features of (B, T) token ids."""
        groups = self._groups(ids)
        visible = groups[:, :, None] == groups[:, None, :]  # (B, T, T)
        places = self.embed_positions.weight[: ids.shape[1]]  # (T, D)
        if self.separate_documents:
            places = places[visible.tril().sum(-1) - 1]  # (B, T, D): tokens of its own document up to each
        x: Tensor = self.embed_norm(self.embed_tokens(ids) + places)
        x = functional.dropout(x, self.dropout, training=self.training)
        unseen = ~visible[:, None]  # (B, 1, T, T)
        for block in self.layers:
            if self.recompute and self.training:
                x = checkpoint(block, x, unseen, use_reentrant=False)
            else:
                x = block(x, unseen)
        return x

    def _groups(self, ids: Tensor) -> Tensor:
        """(B, T) numbers, equal for tokens that see each other. Padding is a group of its own."""
        there = ids != self.pad_id
        if not self.separate_documents:
            return there.long()
        documents = (ids == DOCUMENT_START).cumsum(1) + 1  # documents begin with a token of their own
        return torch.where(there, documents, 0)

    def head(self, hidden: Tensor) -> Tensor:
        """(…, D) features → (…, V) logits."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        features = self.head_norm(functional.gelu(self.head_dense(hidden)))
        return functional.linear(features, weight, self.head_bias)

    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one sequence of full length, the head at K places.

        6 for each weight of a matrix product and 12 · layers · D · T² for attention, as in `Transformer`.
        """
        looked_up = self.embed_positions.weight.numel()
        looked_up += 0 if self.lm_head is None else self.embed_tokens.weight.numel()
        of_the_head = self.head_dense.weight.numel() + self.embed_tokens.weight.numel()
        body = sum(matrix.numel() for matrix in self.parameters() if matrix.dim() == 2) - looked_up - of_the_head
        length = self.max_seq_len
        attention = 12.0 * len(self.layers) * self.d_model * length**2
        return 6.0 * (body * length + of_the_head * masked_places(length)) + attention

    def logits_shape(self, batch: int, length: int) -> tuple[int, ...]:
        """(B, T, V)."""
        return batch, length, self.vocab_size

    def forward(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, T) token ids → (B, T, V) logits of the token at each place.

        With (B, K) `places`, the (B, K, V) logits of these places alone.
        """
        hidden = self.hidden(ids)
        if places is not None:
            hidden = hidden.gather(1, places[..., None].expand(-1, -1, self.d_model))  # (B, K, D)
        return self.head(hidden).float()
