"""What a run that does not fit into memory would have needed, for its last words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.spec import Spec
from pipeline.spec.estimate_memory import training_memory
from pipeline.spec.estimate_model import shape_of
from pipeline.stages.train_setup import Setup
from pipeline.training.step import NotEnoughMemoryError

_ESTIMATED = ("llama", "gpt", "bert")  # model types that the estimate knows


@contextmanager
def estimate_of_shortage(spec: Spec, setup: Setup) -> Iterator[None]:
    """Say how much memory the smallest micro-batch is estimated to need when not even that fits.

    Raises:
        NotEnoughMemoryError: the one from inside, with the estimate and what takes it.
    """
    try:
        yield
    except NotEnoughMemoryError as error:
        if setup.arguments["model_type"] not in _ESTIMATED or setup.execution.device != "cpu":
            raise
        memory = training_memory(
            shape_of(setup.arguments, setup.arguments["vocab_size"]),
            batch_size=1,
            precision=setup.execution.precision,
            compiled=setup.execution.compile_mode is not None,
        )
        peak = memory.pop("peak_rss")
        parts = ", ".join(f"{name} {size:,.0f}" for name, size in memory.items())
        raise NotEnoughMemoryError(
            f"{error.message}: with micro-batches of one row this run is estimated to need {peak:,.0f} MB ({parts})",
            hint="lower model.max_seq_len, model.d_model or model.num_layers, or end other programs; "
            f"`foundry plan {spec.path}` shows what each setting costs",
        ) from error
