"""Whether a process may go on with a run that another one began: what executes otherwise changes the last bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import TrainingError
from pipeline.training.hardware import Execution

# What was otherwise → what makes it as it was; `{}` is its earlier value.
_REMEDIES = {
    "device": "train on {}",
    "gpu": "train on a {}",
    "precision": "train where {} is chosen",
    "compile_mode": "train where torch.compile works as it did then ({})",
    "num_threads": "let the process use {} processors (Linux: taskset)",
    "torch": "install torch {}",
    "cpu_capability": "train on a processor with {}, or set ATEN_CPU_CAPABILITY to it if this one can do more",
}


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
