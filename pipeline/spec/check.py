"""Everything that is wrong or odd in a parsed spec, in the order of the file."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from pipeline.spec.diagnose import Problem
from pipeline.spec.document import Document, dotted
from pipeline.spec.schema import schema_files


def check(document: Document) -> list[Problem]:
    """All problems of a document, sorted by position; warnings among them."""
    problems = list(document.problems)
    for error in _validator().iter_errors(document.values):
        keys = tuple(error.absolute_path)
        problems.append(document.problem("E0301", error.message, document.place_of(keys), path=dotted(keys)))
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


@cache
def _validator() -> Validator:
    schemas = schema_files()
    resources = [(name, Resource(schema, DRAFT202012)) for name, schema in schemas.items()]
    registry: Registry[Any] = Registry().with_resources(resources)
    return Draft202012Validator(schemas["experiment.json"], registry=registry)
