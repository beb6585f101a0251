"""What the tests of the spec room share: a short valid spec and the problems of a text."""

import pytest

from pipeline.spec import SpecError, parse_spec

MINIMAL = "schema_version: 1\nname: x\ndataset:\n  source: {kind: files, paths: [corpus]}\n"


@pytest.fixture
def spec_of():
    """Further lines of a minimal spec → the spec."""
    return lambda text="": parse_spec((MINIMAL + text).encode(), "x.yaml")


@pytest.fixture
def problems_of():
    """Further lines of a minimal spec → its problems, none when it is valid."""

    def problems(text, head=MINIMAL):
        try:
            parse_spec((head + text).encode(), "x.yaml")
        except SpecError as error:
            return error.problems
        return ()

    return problems
