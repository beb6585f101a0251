"""What an editor sees of the mistakes that the checker finds.

    python tests/mutations/editor.py [--write] [--one-in N]

Gives one of N mutants (default: 10; 1 takes a quarter of an hour) to yaml-language-server with the schema that the
first line of each spec names, and asks whether it underlines the line that the checker shows. `--write` keeps the
comparison in editor.json and its table in docs/checking-score.md. Ends with 1 when the editor overlooks a mistake that
a schema can say.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from language_server import LanguageServer, command, language_server, version
from mutants import Mutant, sources
from page import insert, table
from verdicts import Verdict, judge

from pipeline.files import write_json
from pipeline.paths import SCHEMAS, SPECS
from pipeline.spec import Problem

COMPARISON = Path(__file__).with_name("editor.json")
NOTHING = "nothing: still valid"
# What the checker finds → its codes. The editor has to see the first three; others are listed with an example.
GROUPS = {
    "unknown or misplaced key": ("E0201", "E0202", "E0203"),
    "wrong type": ("E0205", "E0301", "E0302"),
    "out of range, wrong choice, form or length": ("E0303", "E0304", "E0305", "E0306", "E0307"),
    "missing key": ("E0204",),
    "key written twice": ("E0108",),
    "unknown kind or version": ("E0206", "E0207"),
    "number beyond 64 bits": ("E0113",),
    "what a template becomes": ("E0704",),
}
REQUIRED = tuple(GROUPS)[:3]
_RULES = "rules between settings"  # every other code


def chosen(one_in: int) -> list[Mutant]:
    """The mutants to compare: chosen by their names, so that a new spec leaves the choice among the others as it is."""
    mutants = (mutant for source in sources() for mutant in source.mutants())
    return [mutant for mutant in mutants if zlib.crc32(mutant.name.encode()) % one_in == 0]


def compare(server: LanguageServer, mutants: list[Mutant]) -> dict[str, Any]:
    """How many of the mutants of each group the editor underlines at the line that the checker shows."""
    counts = {group: {"mutants": 0, "same_line": 0} for group in (*GROUPS, _RULES, NOTHING)}
    overlooked: dict[str, list[str]] = {group: [] for group in counts}
    for mutant, lines in zip(mutants, underlined(server, mutants), strict=True):
        group, agrees, said = _compared(mutant, judge(mutant), lines)
        counts[group]["mutants"] += 1
        counts[group]["same_line"] += agrees
        if not agrees:
            overlooked[group].append(f"{mutant.name} ({said})")
    return {"server": version(), "groups": counts, "overlooked": overlooked}


def underlined(server: LanguageServer, mutants: Iterable[Mutant]) -> Iterator[set[int]]:
    """The lines, from 1, where the editor shows something in each mutant."""
    # Beside the spec, so that the path in its first line leads to the schema.
    texts = (
        ((SPECS / mutant.file).with_name(f"mutant-{count}.yaml"), mutant.text) for count, mutant in enumerate(mutants)
    )
    for found in server.diagnostics(texts):
        yield {diagnostic["range"]["start"]["line"] + 1 for diagnostic in found}


def _compared(mutant: Mutant, verdict: Verdict, lines: set[int]) -> tuple[str, bool, str]:
    """The group of a mutant, whether the editor agrees, and what the checker says."""
    if not verdict.errors:
        return NOTHING, not lines, "nothing"
    shown = next((problem for problem in verdict.errors if problem.line in mutant.lines), verdict.errors[0])
    return _group(shown), shown.line in lines, f"{shown.code}: {shown.message}"


def _group(problem: Problem) -> str:
    return next((group for group, codes in GROUPS.items() if problem.code in codes), _RULES)


def failures(comparison: dict[str, Any]) -> list[str]:
    """What the editor overlooks although the schema says it, and what it underlines although it is right."""
    return [name for group in (*REQUIRED, NOTHING) for name in comparison["overlooked"][group]]


def by_group(comparison: dict[str, Any]) -> str:
    """The table of the groups, with an example of what the editor overlooks in each."""
    rows = []
    for group, found in comparison["groups"].items():
        name, _, said = next(iter(comparison["overlooked"][group]), "").partition(" (")
        example = f"`{name}` ({said}".replace("|", "\\|") if name else ""
        rows.append((group, found["mutants"], found["same_line"], example))
    heads = ("The checker finds", "Mutants", "The editor agrees", "Overlooked by the editor, for example")
    return f"{table(heads, rows)}\n\nyaml-language-server {comparison['server']}."


def main() -> None:
    """Read the command line, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the comparison, and its table in the document")
    parser.add_argument("--one-in", type=int, default=10, help="how many mutants stand for one that is compared")
    given = parser.parse_args()
    if (start := command()) is None:
        sys.exit("Node or yaml-language-server is missing; the first lines of language_server.py say how to get them")
    with language_server(start, SCHEMAS.parent) as server:
        found = compare(server, chosen(given.one_in))
    print(by_group(found))
    if given.write:
        write_json(COMPARISON, found)
        insert("editor", by_group(found))
    missed = failures(found)
    print(*missed, sep="\n", file=sys.stderr)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
