"""The spec room: one YAML file in, one checked, complete and frozen `Spec` out. Imports no torch."""

from pipeline.spec.diagnose import CODES, Problem, SpecError, render
from pipeline.spec.load import load_spec, parse_spec, require_supported
from pipeline.spec.spec import Section, Spec, stage_values

__all__ = [
    "CODES",
    "Problem",
    "Section",
    "Spec",
    "SpecError",
    "load_spec",
    "parse_spec",
    "render",
    "require_supported",
    "stage_values",
]
