"""Model Foundry: one versioned spec becomes a trained, validated and exported small model.

What notebooks and scripts need comes from here: `from pipeline import TrainingConfigBuilder, TrainingConfig`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bundles.pack import create_repro_bundle
    from pipeline.export.bundle import create_export_bundle
    from pipeline.export.health import ExportHealthChecker
    from pipeline.export.making import export_model
    from pipeline.export.report import CheckResult, ExportHealthReport
    from pipeline.records.registry import ModelRegistry
    from pipeline.spec.builder import TrainingConfigBuilder
    from pipeline.spec.flat import TrainingConfig, compare_configs, print_config_diff
    from pipeline.spec.load import load_spec
    from pipeline.stages.in_python import run_training
    from pipeline.sweeps.grid import run_grid_sweep
    from pipeline.tasks.language_model import LanguageModel as DecoderOnlyLMAdapter
    from pipeline.tasks.vision_classification import VisionClassification as VisionClassificationAdapter
    from pipeline.tiers.exports import run_tier4_export_validation
    from pipeline.tiers.run import run_tiers

__all__ = [
    "CheckResult",
    "DecoderOnlyLMAdapter",
    "ExportHealthChecker",
    "ExportHealthReport",
    "ModelRegistry",
    "TrainingConfig",
    "TrainingConfigBuilder",
    "VisionClassificationAdapter",
    "compare_configs",
    "create_export_bundle",
    "create_repro_bundle",
    "export_model",
    "load_spec",
    "print_config_diff",
    "run_grid_sweep",
    "run_tier4_export_validation",
    "run_tiers",
    "run_training",
]
__version__ = "0.1.0"

# Imported when first asked for: every command imports this package, and few need the builder.
_HOMES = {  # name → module, and its name there
    "CheckResult": ("pipeline.export.report", "CheckResult"),
    "DecoderOnlyLMAdapter": ("pipeline.tasks.language_model", "LanguageModel"),  # adapter: an earlier word for task
    "ExportHealthChecker": ("pipeline.export.health", "ExportHealthChecker"),
    "ExportHealthReport": ("pipeline.export.report", "ExportHealthReport"),
    "ModelRegistry": ("pipeline.records.registry", "ModelRegistry"),
    "TrainingConfig": ("pipeline.spec.flat", "TrainingConfig"),
    "TrainingConfigBuilder": ("pipeline.spec.builder", "TrainingConfigBuilder"),
    "VisionClassificationAdapter": ("pipeline.tasks.vision_classification", "VisionClassification"),
    "compare_configs": ("pipeline.spec.flat", "compare_configs"),
    "create_export_bundle": ("pipeline.export.bundle", "create_export_bundle"),
    "create_repro_bundle": ("pipeline.bundles.pack", "create_repro_bundle"),
    "export_model": ("pipeline.export.making", "export_model"),
    "load_spec": ("pipeline.spec.load", "load_spec"),
    "print_config_diff": ("pipeline.spec.flat", "print_config_diff"),
    "run_grid_sweep": ("pipeline.sweeps.grid", "run_grid_sweep"),
    "run_tier4_export_validation": ("pipeline.tiers.exports", "run_tier4_export_validation"),
    "run_tiers": ("pipeline.tiers.run", "run_tiers"),
    "run_training": ("pipeline.stages.in_python", "run_training"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, there = _HOMES[name]
    return getattr(importlib.import_module(home), there)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
