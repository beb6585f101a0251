"""What a check found: text for people, JSON for programs, SARIF for code scanning, commands for GitHub workflows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline import __version__
from pipeline.spec.diagnose import CODES, Problem, render
from pipeline.spec.survey import Checked

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(checked: Sequence[Checked]) -> str:
    """Every problem as a compiler shows it."""
    return "\n\n".join(render(problem) for file in checked for problem in file.problems)


def summary(checked: Sequence[Checked]) -> str:
    """One line: `specs/experiment.yaml: ok (tiny)`, or `3 files: 2 ok, 1 with 4 errors and 1 warning`."""
    odd = [file for file in checked if file.problems]
    if len(checked) == 1 and not odd:
        [file] = checked
        return f"{file.file}: ok" + (f" ({file.name})" if file.name else "")
    parts = [f"{len(checked) - len(odd)} ok"] if len(odd) < len(checked) else []
    if odd:
        errors, warnings = sum(file.errors for file in odd), sum(file.warnings for file in odd)
        counts = [_counted(errors, "error")] if errors else []
        counts += [_counted(warnings, "warning")] if warnings else []
        parts.append(f"{len(odd)} with {' and '.join(counts)}")
    head = checked[0].file if len(checked) == 1 else _counted(len(checked), "file")
    return f"{head}: {', '.join(parts) if len(checked) > 1 else parts[0].removeprefix('1 with ')}"


def as_json(checked: Sequence[Checked]) -> str:
    """One object, as schemas/v1/artefact/check_report.json describes it."""
    report = {
        "format_version": 1,
        "toolkit_version": __version__,
        "files": [
            {
                "file": file.file,
                "kind": file.kind or None,
                "errors": file.errors,
                "warnings": file.warnings,
                "problems": [_plain(problem) for problem in file.problems],
            }
            for file in checked
        ],
        "summary": {
            "files": len(checked),
            "ok": sum(not file.problems for file in checked),
            "errors": sum(file.errors for file in checked),
            "warnings": sum(file.warnings for file in checked),
        },
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def as_sarif(checked: Sequence[Checked]) -> str:
    """A log in the Static Analysis Results Interchange Format 2.1.0 (OASIS)."""
    problems = [problem for file in checked for problem in file.problems]
    codes = sorted({problem.code for problem in problems})
    driver = {
        "name": "foundry check",
        "version": __version__,
        "rules": [{"id": code, "shortDescription": {"text": CODES[code]}} for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, codes.index(problem.code)) for problem in problems],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def as_github(checked: Sequence[Checked]) -> str:
    """One workflow command a problem, which GitHub shows beside the line of the file."""
    return "\n".join(_command(problem) for file in checked for problem in file.problems)


# Name of a format → how it is written
FORMATS: dict[str, Callable[[Sequence[Checked]], str]] = {
    "text": as_text,
    "json": as_json,
    "sarif": as_sarif,
    "github": as_github,
}


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _severity(problem: Problem) -> str:
    return "warning" if problem.is_warning else "error"


def _advice(problem: Problem) -> str:
    """What a person needs besides the place, in one line."""
    allowed = f" (allowed: {problem.allowed})" if problem.allowed else ""
    hint = f"; {problem.hint}" if problem.hint else ""
    return f"{problem.message}{allowed}{hint}"


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "severity": _severity(problem),
        "message": problem.message,
        "path": problem.path,
        "line": problem.line or None,
        "column": problem.column or None,
        "length": problem.length if problem.line else None,
        "allowed": problem.allowed or None,
        "hint": problem.hint or None,
    }


def _result(problem: Problem, rule: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(problem.file)}}
    if problem.line:
        end = problem.column + problem.length
        place["region"] = {"startLine": problem.line, "startColumn": problem.column, "endColumn": end}
    return {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": _severity(problem),
        "message": {"text": _advice(problem)},
        "locations": [{"physicalLocation": place}],
    }


def _uri(file: str) -> str:
    return Path(file).as_uri() if Path(file).is_absolute() else quote(file)


def _command(problem: Problem) -> str:
    properties = {"file": problem.file, "title": f"{problem.code} {CODES[problem.code]}"}
    if problem.line:
        end = problem.column + problem.length
        properties |= {"line": str(problem.line), "col": str(problem.column), "endColumn": str(end)}
    listed = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{_severity(problem)} {listed}::{_escaped(_advice(problem))}"


def _escaped(text: str, separators: str = "") -> str:
    """Text as GitHub's workflow commands take it; in properties the signs between them, too."""
    for sign in f"%\r\n{separators}":  # the percent sign first, because the others bring one
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text
