"""Model Foundry: one versioned spec becomes a trained, validated and exported small model.

What notebooks and scripts need comes from here: `from pipeline import TrainingConfigBuilder, TrainingConfig`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.spec.builder import TrainingConfigBuilder
    from pipeline.spec.flat import TrainingConfig, compare_configs, print_config_diff
    from pipeline.spec.load import load_spec

__all__ = ["TrainingConfig", "TrainingConfigBuilder", "compare_configs", "load_spec", "print_config_diff"]
__version__ = "0.1.0"

# Imported when first asked for: every command imports this package, and few need the builder.
_HOMES = {
    "TrainingConfig": "pipeline.spec.flat",
    "TrainingConfigBuilder": "pipeline.spec.builder",
    "compare_configs": "pipeline.spec.flat",
    "load_spec": "pipeline.spec.load",
    "print_config_diff": "pipeline.spec.flat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
