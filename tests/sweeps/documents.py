"""A sweep for tests."""

from __future__ import annotations

from typing import Any

from pipeline.spec.load import parse_spec

DOCUMENT = """\
schema_version: 1
kind: sweep
name: tried
method: random
budget: {max_trials: 12}
space:
  training.learning_rate: {kind: log_range, low: 1e-4, high: 1e-2}
  model.num_layers: {kind: range, low: 1, high: 8}
  hardware.compile_mode: [null, default]
"""


def document(text: str = DOCUMENT, **changed: Any) -> dict[str, Any]:
    """A sweep, complete, with some of its settings changed."""
    return {**parse_spec(text.encode(), "sweep.yaml", kind="sweep").to_dict(), **changed}
