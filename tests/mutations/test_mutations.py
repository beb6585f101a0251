"""Every mistake in every shipped spec: the error is at its line, the help is right, and the committed score is true."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace

import pytest
import yaml
from mutants import OPERATORS, shipped, sources
from page import PAGE
from score import SCORE, by_file, by_operator, failures, judged, score, total, wrong_with
from verdicts import judge

from pipeline.paths import SPECS
from pipeline.spec import SpecError, load_spec, parse_spec

pytestmark = pytest.mark.integration
ONE_IN = 40  # mutants of the sample, chosen by their names: a new spec leaves the choice among the others as it is


@pytest.fixture(scope="module")
def corpus():
    return [mutant for source in sources() for mutant in source.mutants()]


@pytest.fixture(scope="module")
def sample(corpus):
    return judged(mutant for mutant in corpus if zlib.crc32(mutant.name.encode()) % ONE_IN == 0)


def problems(text):
    try:
        return parse_spec(text.encode(), "experiment.yaml").warnings
    except SpecError as error:
        return error.problems


def mutant_of(file, operator, path):
    source = next(source for source in sources() if source.file == file)
    return next(mutant for mutant in source.mutants() if (mutant.operator, mutant.path) == (operator, path))


def test_a_sample_of_all_mutants_meets_the_thresholds(sample):
    found = score(sample)

    assert failures(found) == [], found["exceptions"]
    assert all(total(found, operator)["mutants"] > 10 for operator in OPERATORS)


def test_the_committed_score_is_what_the_sample_gives(sample):
    committed = json.loads(SCORE.read_text(encoding="utf-8"))["exceptions"]

    found = {mutant.name: wrong for mutant, verdict in sample if (wrong := wrong_with(mutant, verdict))}

    expected = {mutant.name: committed[mutant.name] for mutant, _ in sample if mutant.name in committed}
    assert found == expected, "run: python tests/mutations/score.py --write"


def test_the_committed_score_meets_the_thresholds():
    assert failures(json.loads(SCORE.read_text(encoding="utf-8"))) == []


def test_the_tables_of_the_page_are_those_of_the_committed_score():
    committed = json.loads(SCORE.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")

    assert by_operator(committed) in text, "run: python tests/mutations/score.py --write"
    assert by_file(committed) in text


@pytest.mark.slow
def test_all_mutants_meet_the_thresholds_and_give_the_committed_score(corpus):
    found = score(judged(corpus))

    assert failures(found) == []
    assert found == json.loads(SCORE.read_text(encoding="utf-8")), "run: python tests/mutations/score.py --write"


def test_every_key_of_every_shipped_spec_is_broken_in_every_way_that_it_can_be(corpus):
    broken = {(mutant.file, mutant.path, mutant.operator) for mutant in corpus}

    assert {source.file for source in sources()} == {path.relative_to(SPECS).as_posix() for path in shipped()}
    for source in sources():
        paths = {mutant.path for mutant in source.mutants()}
        assert len(paths) == len(source.document.keys)
        for path in paths:
            assert {(source.file, path, operator) for operator in ("rename", "delete", "retype", "duplicate")} <= broken
    assert len({mutant.name for mutant in corpus}) == len(corpus)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.relative_to(SPECS).as_posix()) for path in shipped()])
def test_what_is_broken_was_right(path):
    assert load_spec(path, kind=None)


def test_a_mutant_differs_from_its_spec_in_what_it_says_alone():
    moved = mutant_of("experiment.yaml", "misplace", "validation.budgets")
    text = next(source.text for source in sources() if source.file == moved.file)

    before, after = yaml.safe_load(text), yaml.safe_load(moved.text)

    assert moved.change == "moved to the top level"
    assert after.pop("budgets") == before["validation"].pop("budgets")
    assert after == before
    assert moved.text.splitlines()[moved.lines[0] - 1].startswith("budgets:")


def test_a_typo_is_one_problem_not_several(sample):
    typos = [(mutant, verdict) for mutant, verdict in sample if mutant.operator == "typo" and mutant.meant]

    # A template with an unknown key also has a parameter that nothing uses.
    several = [mutant.name for mutant, verdict in typos if len(verdict.errors) > 1 and "template" not in mutant.file]

    assert len(typos) > 100
    assert several == []


# The judge


def test_an_error_at_another_line_is_not_right():
    mutant = mutant_of("experiment.yaml", "typo", "training.batch_size")

    assert judge(mutant).outcome == "right"
    assert judge(replace(mutant, lines=(1,))).outcome == "elsewhere"


def test_no_error_is_right_only_where_the_schema_allows_the_change():
    optional = mutant_of("experiment.yaml", "delete", "optimizer.adam_beta1")

    assert judge(optional).outcome == "valid"
    assert judge(replace(optional, allowed=False)).outcome == "missed"


def test_another_suggestion_than_the_right_one_is_noticed():
    mutant = mutant_of("experiment.yaml", "typo", "training.batch_size")
    moved = mutant_of("experiment.yaml", "misplace", "training.batch_size")

    assert judge(mutant).suggested
    assert not judge(replace(mutant, meant="epochs")).suggested
    assert judge(moved).suggested
    assert not judge(replace(moved, home="optimizer")).suggested


@pytest.mark.parametrize("outcome", ["elsewhere", "missed", "traceback", "slow"])
def test_a_single_mutant_that_is_not_found_misses_a_threshold(outcome):
    found = {"files": {"x.yaml": {"range": {"mutants": 1000, "right": 999, outcome: 1}}}}

    assert failures(found) == [f"1 mutants: {outcome}"]


def test_fewer_than_95_right_suggestions_in_100_typos_miss_a_threshold():
    enough = {"files": {"x.yaml": {"typo": {"answers": 100, "suggested": 95}}}}
    too_few = {"files": {"x.yaml": {"typo": {"answers": 100, "suggested": 94}}}}

    assert failures(enough) == []
    assert failures(too_few) == ["94 of 100 typos get the right suggestion first"]


# Mistakes that are not about a key


def test_lines_cut_short_anywhere_never_end_in_a_traceback():
    random_ = random.Random(20261121)
    text = (SPECS / "experiment.yaml").read_text(encoding="utf-8")

    for _ in range(60):
        cut = text[: random_.randrange(len(text))]
        at = random_.randrange(len(text))
        for mutant in (cut, text[:at] + random_.choice("{}[]:,&*!|>'\"%@`\t\n#-?") + text[at:]):
            assert all(problem.line <= mutant.count("\n") + 1 for problem in problems(mutant))
