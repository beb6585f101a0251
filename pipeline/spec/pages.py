"""What the toolkit says about its own codes and settings: `foundry explain`, and the pages of docs/ made from tables.

Write the pages again after changing a schema, a code or an explanation: `python -m pipeline.spec.pages`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import FoundryError
from pipeline.files import write_atomic
from pipeline.paths import SCHEMAS
from pipeline.spec.diagnose import CODES
from pipeline.spec.explanations import EXPLANATIONS
from pipeline.spec.migrate.page import keys_page
from pipeline.spec.nearest import closest
from pipeline.spec.schema import EXPERIMENT, Schema, is_leaf, kinds, schema_of
from pipeline.spec.words import expected, listed

DOCS = SCHEMAS.parent / "docs"
_COMMAND = "`python -m pipeline.spec.pages`"
_WIDTH = 110  # characters of a line
_GROUPS = {
    "E01": "The file",
    "E02": "Keys",
    "E03": "Values",
    "E04": "Rules of experiments",
    "E05": "Rules of other documents",
    "E06": "Documents of earlier systems",
    "E07": "Templates",
    "W01": "Odd in an experiment",
    "W02": "Odd in other documents",
}


def known_kind(kind: str) -> str:
    """The kind itself.

    Raises:
        FoundryError: there is none of this name.
    """
    if kind in kinds():
        return kind
    meant = closest(kind, kinds())
    hint = f"did you mean {meant}?" if meant else f"take {listed(kinds())}"
    raise FoundryError(f"there is no kind of document called {kind}", hint=hint)


def explained(code: str) -> str:
    """Everything about a code, as text.

    Raises:
        FoundryError: there is no such code.
    """
    wanted = code.strip("[]").upper()
    if wanted not in CODES:
        near = closest(wanted, CODES)
        hint = f"did you mean {near}, {CODES[near]}?" if near else "`foundry explain` lists all codes"
        raise FoundryError(f"there is no code {code}", hint=hint)
    explanation = EXPLANATIONS[wanted]
    parts = [f"{wanted}: {CODES[wanted]}", _wrapped(explanation.why)]
    if explanation.wrong:
        parts += [f"Wrong:\n\n{_indented(explanation.wrong)}", f"Right:\n\n{_indented(explanation.right)}"]
    return "\n\n".join(parts)


def listed_codes() -> str:
    """Every code with its meaning, a line each."""
    return "\n".join(f"{code}  {meaning}" for code, meaning in sorted(CODES.items()))


def errors_page() -> str:
    """docs/spec-errors.md."""
    lines = [
        "# What `foundry check` can say",
        "",
        f"Made from the table of codes by {_COMMAND}. `foundry explain CODE` prints one entry. A code is for good: it",
        "is never given another meaning. Codes that begin with E make a document unusable, codes with W only warn.",
    ]
    for prefix, title in _GROUPS.items():
        codes = sorted(code for code in CODES if code.startswith(prefix))
        if codes:
            lines += ["", f"## {title}"]
        for code in codes:
            explanation = EXPLANATIONS[code]
            lines += ["", f"### {code}: {CODES[code]}", "", _wrapped(explanation.why)]
            if explanation.wrong:
                lines += ["", "```yaml", "# wrong", *explanation.wrong.splitlines(), "```", ""]
                lines += ["```yaml", "# right", *explanation.right.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def reference_page() -> str:
    """docs/spec-reference.md."""
    lines = [
        "# What can stand in each document",
        "",
        f"Made from the schemas by {_COMMAND}. The schemas are the only definition: what is checked, what is printed",
        "here and what an editor shows come from the same files (`foundry schema show KIND`).",
        "",
        "*Effect* is what a change does: `result` changes what is trained, `speed` only how fast, `output` only what",
        "is written about it, `none` nothing of either. *Stages* read the setting.",
    ]
    printed: dict[tuple[str, ...], str] = {}
    for kind in sorted(kinds(), key=lambda kind: (kind != EXPERIMENT, kind)):
        schema = schema_of(kind)
        lines += ["", f"## {kind}", "", schema["description"], *_table(schema)]
        for path, section in _sections(schema, ""):
            lines += ["", f"### {kind}: `{path}`", "", section["description"]]
            same = (section.get("title", ""), *section["properties"])
            if same in printed:
                lines += ["", f"Its keys are those of {printed[same]}."]
            else:
                printed[same] = f"{kind}: `{path}`"
                lines += _table(section)
    return "\n".join(lines) + "\n"


PAGES = {"spec-errors.md": errors_page, "spec-reference.md": reference_page, "earlier-keys.md": keys_page}


def write_pages() -> list[Path]:
    """Write all of them; returns their paths."""
    for name, page in PAGES.items():
        write_atomic(DOCS / name, page())
    return [DOCS / name for name in PAGES]


def _sections(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    """Every mapping below one, also inside lists and maps of free names, with its dotted path."""
    for name, child in schema["properties"].items():
        path = f"{prefix}{name}"
        for inner, suffix in ((child, ""), (child.get("items"), "[]"), (child.get("additionalProperties"), ".*")):
            if isinstance(inner, dict) and "properties" in inner:
                yield f"{path}{suffix}", {"description": child["description"], **inner}
                yield from _sections(inner, f"{path}{suffix}.")


def _table(schema: Schema) -> list[str]:
    """The settings that stand directly in a mapping; nothing when it holds sections alone."""
    settings = {name: child for name, child in schema["properties"].items() if is_leaf(child)}
    head = ["Key", "Takes", "Default", "Meaning", "Effect", "Stages"]
    if not any("x-stages" in child for child in settings.values()):
        head = head[:4]
    rows = [_row(name, child, schema)[: len(head)] for name, child in settings.items()]
    return ["", _line(head), _line(["---"] * len(head)), *map(_line, rows)] if rows else []


def _row(name: str, child: Schema, owner: Schema) -> list[str]:
    form = f" ({child['x-form']})" if "x-form" in child else ""
    branches = owner.get("x-branches", {})
    takers = [f"`{kind}`" for kind, names in branches.items() if name in names]
    only = f" Only for {owner['x-discriminator']} {listed(takers)}." if 0 < len(takers) < len(branches) else ""
    effect = child.get("x-effect", "")
    stages = ", ".join(child.get("x-stages", ()))
    return [
        f"`{name}`",
        expected(child) + form,
        _default(name, child, owner),
        child["description"] + only,
        effect,
        stages,
    ]


def _default(name: str, child: Schema, owner: Schema) -> str:
    if "default" in child:
        return f"`{json.dumps(child['default'], ensure_ascii=False)}`"
    return "needed" if name in owner.get("required", ()) else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _indented(text: str) -> str:
    return textwrap.indent(text.rstrip("\n"), "    ")


if __name__ == "__main__":
    print(*write_pages(), sep="\n")
