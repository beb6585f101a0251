"""A classifier of texts: the body of a transformer, pooled over the text, and one linear layer.

* The body is `transformer.Transformer`, whichever of its shapes; its output projection is not used.
* Texts end with padding, which is masked out of the pooling. A position of the body sees nothing after itself, so
  padding changes no logit.
* `mean` pools all positions, `last` takes the last one, which has seen the whole text.

Shapes: B texts, T tokens, D = d_model, C classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.models.model import Model
from pipeline.models.transformer import Transformer

Pooling = Literal["mean", "last"]


class TextClassifier(Model):
    """One of C classes for a text.

    Args:
        num_classes: C.
        pad_id: the token that fills texts up.
        pooling: `mean` or `last`, see the top of this file.
        body: arguments of `Transformer`.
    """

    def __init__(self, *, num_classes: int, pad_id: int, pooling: Pooling = "mean", **body: Any) -> None:
        super().__init__()
        self.body = Transformer(**{**body, "tie_embeddings": True})  # without a projection of its own
        self.classifier = nn.Linear(self.body.d_model, num_classes)
        nn.init.normal_(self.classifier.weight, std=body.get("init_std", 0.02))
        nn.init.zeros_(self.classifier.bias)
        self.num_classes, self.pad_id, self.pooling = num_classes, pad_id, pooling
        self.vocab_size, self.max_seq_len = self.body.vocab_size, self.body.max_seq_len
        self.model_type = self.body.model_type

    @property
    def recompute(self) -> bool:
        """See `Model`: the layers are those of the body."""
        return self.body.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.body.recompute = value

    def build_tables(self, device: torch.device) -> None:
        """Make the tables of the body."""
        self.body.build_tables(device)

    def flops_per_row(self) -> float:
        """Floating-point operations that training spends on one text of full length."""
        unused = 6.0 * self.body.embed_tokens.weight.numel()  # the output projection
        return (self.body.flops_per_token() - unused) * self.max_seq_len

    def logits_shape(self, batch: int, length: int) -> tuple[int, ...]:  # noqa: ARG002 - of any length
        """(B, C)."""
        return batch, self.num_classes

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token ids, filled up at the end with `pad_id` → (B, C) logits."""
        hidden = self.body.hidden(ids).float()  # (B, T, D)
        there = ids != self.pad_id  # (B, T)
        if self.pooling == "mean":
            weights = there.to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        else:
            places = torch.arange(ids.shape[1], device=ids.device) * there  # (B, T)
            last = places.amax(1)[:, None, None].expand(-1, 1, hidden.shape[-1])  # (B, 1, D)
            pooled = hidden.gather(1, last).squeeze(1)
        logits: Tensor = self.classifier(pooled.to(self.classifier.weight.dtype))
        return logits.float()
