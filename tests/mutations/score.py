"""How well the checker speaks of every mistake in every shipped spec.

    python tests/mutations/score.py [--write]

Breaks each key of each file below specs/ in every way of mutants.py (minutes), prints a table per operator and per
file, and ends with 1 when a threshold is missed. `--write` keeps the score in score.json and the tables in
docs/checking-score.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mutants import OPERATORS, Mutant, sources
from page import insert, table
from verdicts import SLOW, Verdict, judge

from pipeline.files import write_json

SCORE = Path(__file__).with_name("score.json")
LEAST_SUGGESTED = 0.95  # of the typos that have one right answer
_OUTCOMES = ("right", "valid", "elsewhere", "missed", "traceback")


def judged(mutants: Iterable[Mutant]) -> list[tuple[Mutant, Verdict]]:
    """Each mutant with its verdict."""
    return [(mutant, judge(mutant)) for mutant in mutants]


def score(verdicts: Iterable[tuple[Mutant, Verdict]]) -> dict[str, Any]:
    """The counts for each file and operator, and every mutant that the checker does not speak of as it should."""
    files: dict[str, dict[str, Counter[str]]] = {}
    exceptions = {}
    for mutant, verdict in verdicts:
        tally = files.setdefault(mutant.file, {}).setdefault(mutant.operator, Counter())
        tally["mutants"] += 1
        tally[verdict.outcome] += 1
        tally["answers"] += verdict.suggested is not None
        tally["suggested"] += verdict.suggested is True
        tally["slow"] += verdict.seconds > SLOW
        if wrong := wrong_with(mutant, verdict):
            exceptions[mutant.name] = wrong
    counts = {
        file: {operator: {name: count for name, count in tally.items() if count} for operator, tally in tallies.items()}
        for file, tallies in files.items()
    }
    return {"files": counts, "exceptions": exceptions}


def wrong_with(mutant: Mutant, verdict: Verdict) -> str:
    """What a verdict says against the checker; empty when nothing."""
    if verdict.outcome not in ("right", "valid"):
        return verdict.outcome
    if verdict.suggested is not False:
        return ""
    hints = [problem.hint for problem in verdict.errors if problem.line == mutant.lines[0] and problem.hint]
    return hints[0] if hints else "no suggestion"


def total(score: dict[str, Any], *operators: str) -> Counter[str]:
    """The counts of some operators (default: all) over all files."""
    found: Counter[str] = Counter()
    for tallies in score["files"].values():
        for operator in operators or OPERATORS:
            found.update(tallies.get(operator, {}))
    return found


def failures(score: dict[str, Any]) -> list[str]:
    """Which thresholds a score misses, in words."""
    whole, typos = total(score), total(score, "typo")
    found = [f"{whole[name]} mutants: {name}" for name in (*_OUTCOMES[2:], "slow") if whole[name]]
    if typos["suggested"] < LEAST_SUGGESTED * typos["answers"]:
        found.append(f"{typos['suggested']} of {typos['answers']} typos get the right suggestion first")
    return found


def by_operator(score: dict[str, Any]) -> str:
    """The table of the operators."""
    heads = (
        "Mistake",
        "Mutants",
        "Error at the right line",
        "Still valid",
        "Elsewhere or none",
        "Right suggestion first",
    )
    rows = []
    for name, found in [*((operator, total(score, operator)) for operator in OPERATORS), ("all", total(score))]:
        wrong = found["elsewhere"] + found["missed"] + found["traceback"]
        rows.append((name, found["mutants"], found["right"], found["valid"], wrong, _share(found)))
    return table(heads, rows)


def by_file(score: dict[str, Any]) -> str:
    """The table of the files: how many mutants each operator makes, and how many of them are still valid."""
    heads = ("Spec", *OPERATORS, "Right suggestion for a typo")
    rows = []
    for file, tallies in score["files"].items():
        cells = [_cell(tallies.get(operator, {})) for operator in OPERATORS]
        rows.append((f"`{file}`", *cells, _share(Counter(tallies.get("typo", {})))))
    return table(heads, rows)


def _cell(tally: dict[str, int]) -> str:
    wrong = sum(tally.get(name, 0) for name in _OUTCOMES[2:])
    valid = f" ({tally['valid']})" if "valid" in tally else ""
    return f"{tally.get('mutants', 0)}{valid}{f', **{wrong} wrong**' if wrong else ''}"


def _share(tally: Counter[str]) -> str:
    if not tally["answers"]:
        return "-"
    return f"{tally['suggested']:,} of {tally['answers']:,}, {int(1000 * tally['suggested'] / tally['answers']) / 10}%"


def main() -> None:
    """Read the command line, judge every mutant, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the score, and its tables in docs/checking-score.md")
    chosen = parser.parse_args()
    began = time.perf_counter()
    verdicts = judged(mutant for source in sources() for mutant in source.mutants())
    found = score(verdicts)
    print(by_operator(found), by_file(found), sep="\n\n", end="\n\n")
    print(*(f"{name} → {wrong}" for name, wrong in found["exceptions"].items()), sep="\n")
    slowest = max(verdict.seconds for _, verdict in verdicts)
    print(f"\n{len(verdicts):,} mutants in {time.perf_counter() - began:.0f} s; the slowest took {slowest:.2f} s")
    if chosen.write:
        write_json(SCORE, found)
        insert("operators", by_operator(found))
        insert("files", by_file(found))
    missed = failures(found)
    print(*(f"missed: {text}" for text in missed), sep="\n", file=sys.stderr, end="")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
