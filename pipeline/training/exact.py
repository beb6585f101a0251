"""Whether a process may go on with a run that another one began: what executes otherwise changes the last bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError, is_out_of_memory
from pipeline.training.hardware import Execution, keeping_random_states

# What was otherwise → what makes it as it was; `{}` is its earlier value.
_REMEDIES = {
    "device": "train on {}",
    "gpu": "train on a {}",
    "precision": "train where {} is chosen",
    "compile_mode": "train where torch.compile works as it did then ({})",
    "num_threads": "let the process use {} processors (Linux: taskset)",
    "torch": "install torch {}",
    "arithmetic": "run it again; if it says so again, train on the machine that began (its first batch gave {})",
    "cpu_capability": "train on a processor with {}, or set ATEN_CPU_CAPABILITY to it if this one can do more",
}


def arithmetic_of(loss_sum: Callable[..., Tensor], model: nn.Module, batch: Sequence[Tensor]) -> str | None:
    """What this process makes of a batch: the start of a SHA-256 of its gradients.

    Every process of a run does this with the weights that the seed gives, before it goes on from anywhere. What is
    known of processor and libraries cannot say whether two of them compute the same bits; this can. It leaves no trace
    in the gradients and random states. None: memory did not suffice.

    Args:
        loss_sum: the tensors of a batch → sum of the loss, in nats.
        model: that it computes with.
        batch: on the model's device.
    """
    try:
        with keeping_random_states(batch[0].device.type):
            loss_sum(*batch).backward()  # type: ignore[no-untyped-call]
        found = gradient_hash(model)[:16]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found = None
    model.zero_grad(set_to_none=True)
    return found


def gradient_hash(model: nn.Module) -> str:
    """SHA-256 of all gradients of a model, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            digest.update(name.encode())
            digest.update(parameter.grad.detach().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def require_same_execution(now: Execution, earlier: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose last bits this process would not reproduce.

    Args:
        now: what this process executes on.
        earlier: what the run executed on, from its checkpoint.

    Raises:
        TrainingError: they differ; names each difference and what to do about it.
    """
    differences = now.differences(dict(earlier))
    if not differences:
        return
    names = [difference.partition(":")[0] for difference in differences]
    remedies = [_REMEDIES.get(name, f"train where {name} is {{}}").format(earlier.get(name)) for name in names]
    raise TrainingError(
        f"this process executes otherwise than the one that began the run: {'; '.join(differences)}",
        hint=f"{'; '.join(remedies)}; or go on without --exact: then the last bits of the weights can differ",
    )


def require_same_processes(now: int, earlier: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose gradients another number of processes would add up in another order.

    Args:
        now: processes that train together.
        earlier: the `world` of the run's checkpoint.

    Raises:
        TrainingError: they were more or fewer.
    """
    if now != earlier["processes"]:
        raise TrainingError(
            f"{now} processes would go on with what {earlier['processes']} began",
            hint=f"start {earlier['processes']}; or go on without --exact: then the last bits can differ",
        )
