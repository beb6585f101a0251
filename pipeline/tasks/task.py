"""What a task is: four methods between an encoded corpus and a model. The loop, the stages and scaling know no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from pipeline.data.batches import BatchSource
from pipeline.data.encoded import EncodedSplit


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a whole split.

    Attributes:
        nats: the loss, summed over all targets.
        targets: how many targets there are: tokens, documents or pictures.
        metrics: what else the task measures, by name; shares are fractions.
    """

    nats: float
    targets: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Nats per target."""
        return self.nats / self.targets

    def to_dict(self) -> dict[str, float]:
        """The loss as `val_loss`, and the other metrics."""
        return {"val_loss": self.loss, **self.metrics}


@dataclass(frozen=True)
class Sample:
    """A prompt, and what a model makes of it.

    Attributes:
        prompt: the input.
        text: what the model says.
        shown: both as one text where what it says continues the prompt, else what it says.
        new_tokens: how many tokens it wrote.
    """

    prompt: str
    text: str
    shown: str
    new_tokens: int


class Task(Protocol):
    """What a model is asked to do. In the words of earlier systems: an adapter.

    A batch is a tuple of tensors, whichever the task needs; the first dimension of each is rows. So the loop can cut
    a batch into micro-batches, and several processes can share its rows, without knowing what is in it. Nothing here
    reads or changes the global random state.
    """

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> BatchSource:
        """What is learned from: batches of `batch_size` rows, in an order that follows from the seed and the epoch."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Sum of the loss over the targets of a batch that count, in nats.

        A sum, not a mean: the caller divides by `BatchSource.targets_in` of the whole optimizer step, so that the way
        a step is cut does not weigh on the result.
        """

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss and the metrics of a whole split, each target counted once, in an order that never changes.

        Args:
            model: in evaluation mode.
            split: with at least one target.
        """

    def samples(
        self, model: nn.Module, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int
    ) -> list[Sample]:
        """What the model makes of some prompts, for people to read.

        Args:
            model: in evaluation mode.
            prompts: inputs as people write them.
            max_new_tokens: for tasks that write text.
            temperature: of the sampling, for tasks that write text; 0 takes the likeliest token.
            seed: of the sampling.
        """


class Answers(ABC):
    """A task that gives one answer to a prompt and writes no text: what sets how text is sampled has no effect."""

    def samples(
        self,
        model: nn.Module,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,  # noqa: ARG002 - for tasks that write text, as the next two
        temperature: float,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> list[Sample]:
        """The answer to each prompt. See `Task`."""
        return [self.answer(model, prompt) for prompt in prompts]

    @abstractmethod
    def answer(self, model: nn.Module, prompt: str) -> Sample:
        """What a model in evaluation mode says to a prompt."""


def likeliest(prompt: str, shares: Mapping[str, float]) -> Sample:
    """The likeliest class of a prompt, and how likely it is, as an answer.

    Args:
        prompt: the input.
        shares: class → its probability.
    """
    name, share = max(shares.items(), key=lambda item: item[1])
    said = f"{name} ({share:.0%})"
    return Sample(prompt, said, shown=said, new_tokens=0)
