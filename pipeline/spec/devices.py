"""How many devices a spec asks for: each of them gets `training.batch_size` rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def asked_devices(hardware: Mapping[str, Any]) -> int | None:
    """Devices of all machines together; None where the spec leaves it to whoever starts the run.

    Args:
        hardware: the section of a spec.
    """
    devices, machines = hardware["devices"], hardware["num_nodes"]
    if isinstance(devices, list):
        return len(devices) * int(machines)
    if isinstance(devices, int):
        return devices * int(machines)
    return None if machines == 1 else int(machines)
