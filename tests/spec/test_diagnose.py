"""How problems look, and that every code is one that the room can really give."""

import re
from pathlib import Path

import pytest

import pipeline.spec
from pipeline.errors import ExitCode, FoundryError
from pipeline.spec import CODES, Problem, SpecError, render

pytestmark = pytest.mark.unit


def test_a_problem_is_shown_like_a_compiler_shows_it(problems_of):
    [problem] = problems_of("training:\n  learning_rte: 1e-3\n")

    assert render(problem) == (
        "error[E0201]: `learning_rte` is not a key of `training`\n"
        " --> x.yaml:6:3\n"
        "  |\n"
        "6 |   learning_rte: 1e-3\n"
        "  |   ^^^^^^^^^^^^\n"
        "  = help: did you mean `learning_rate`?"
    )


def test_what_is_allowed_is_shown(problems_of):
    [problem] = problems_of("training: {batch_size: 0}\n")

    assert "= allowed: a whole number from 1 to 65536" in render(problem)
    assert problem.message == "`training.batch_size` must be at least 1, but is 0"


def test_a_problem_without_a_line_shows_the_file_alone():
    assert render(Problem("E0101", "gone", "x.yaml", hint="look")) == "error[E0101]: gone\n --> x.yaml\n  = help: look"


def test_a_long_line_is_cut_around_the_place(problems_of):
    [problem] = problems_of(f'notes: "{"a" * 5000}"  \nvalidation: {{prompts: [{"b, " * 14}{"c" * 400}, ""]}}')

    lines = render(problem).splitlines()
    assert max(map(len, lines)) < 200
    assert lines[3].startswith("6 | …")
    assert lines[3][lines[4].index("^") :].startswith('""')


def test_an_error_says_everything_and_how_to_check_again(problems_of):
    error = SpecError(problems_of("training: {lr: 1, batch_size: 0}\nmodel: {n_layer: 2}\n"))

    assert str(error).startswith("x.yaml: the spec has 3 problems\n\nerror[E0201]")
    assert str(error).count("error[") == 3
    assert error.hint == "mend them (3 problems), then run: foundry check x.yaml"
    assert error.exit_code is ExitCode.PREREQUISITES
    assert isinstance(error, FoundryError)
    assert isinstance(error, ValueError)


def test_problems_come_in_the_order_of_the_file(problems_of):
    problems = problems_of(
        "model: {num_heads: 5}\ntraining: {lr: 1, batch_size: x}\nmodel: {}\nhardware: {device: 3}\n"
    )

    places = [(problem.line, problem.column) for problem in problems]
    assert places == sorted(places)
    assert [problem.code for problem in problems] == ["E0201", "E0301", "E0108", "E0301"]


def test_an_endless_list_of_problems_is_cut_in_the_text_and_kept_in_the_value(problems_of):
    error = SpecError(problems_of("training:\n" + "".join(f"  zzzzzzzzzzz{number}: 1\n" for number in range(300))))

    assert len(error.problems) == 300
    assert str(error).endswith("… and 250 more\n")


def test_codes_are_used_and_known():
    source = "".join(path.read_text() for path in Path(pipeline.spec.__file__).parent.rglob("*.py"))

    used = set(re.findall(r'"([EW]\d{4})"(?!: )', source))
    assert used == set(CODES)
