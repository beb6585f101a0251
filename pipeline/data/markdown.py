"""Markdown to the text that a reader sees.

Not a parser of the whole language: it takes away the marks (headings, emphasis, links, images, quotes, rules, fences,
code spans, HTML, escapes, front matter) and leaves words, line breaks, lists and tables as they are. It also takes
the unbalanced underscores that converters leave behind, which a parser would keep. Terms are those of CommonMark 0.31.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

# Each pattern has one way to match a given text, so that no input makes it backtrack without end.
_FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n(?:(?:[\w\"'][^\n:]*:[^\n]*|[ \t]+[^\n]*|-[ \t][^\n]*|#[^\n]*)\n)*---[ \t]*(?:\n|\Z)"
)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^`\n]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_BACKTICKS = re.compile(r"`+")
_HARD_BREAK = re.compile(r"\\$", re.MULTILINE)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1[ \t]*>", re.DOTALL | re.IGNORECASE)
_LINE_BREAK_TAG = re.compile(r"<br[ \t]*/?>[ \t]*\n?", re.IGNORECASE)
_AUTOLINK = re.compile(r"<((?:https?|ftp|mailto):[^\s<>]*|[^\s<>@]+@[^\s<>@]+)>")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9-]*(?:[ \t\n](?:[^<>\n]|\n(?![ \t]*\n))*)?/?>")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINK = re.compile(
    r"!?\[([^\[\]]*)\]"  # the text, which stays
    r"\([ \t]*(?:<[^<>\n]*>|(?:[^\s()<>]|\([^\s()]*\))*)"  # the target, perhaps with a pair of parentheses
    r"(?:\s+(?:\"[^\"]*\"|'[^']*'))?[ \t]*\)"  # the title
)
_REFERENCE = re.compile(r"!?\[([^\[\]]+)\](?:[ ]?\[([^\[\]]*)\])?")
_TARGET = re.compile(
    r"^ {0,3}\[([^\[\]\n^][^\[\]\n]*)\]:[ \t]*(?:<[^<>\n]*>|[A-Za-z][A-Za-z0-9+.-]*:\S+|[/#.]\S*)"
    r"(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?[ \t]*(?:\n|\Z)",
    re.MULTILINE,
)
_UNDERLINE = re.compile(r"(?<=[^\n])\n {0,3}={2,}$", re.MULTILINE)
_RULE = re.compile(r"^ {0,3}(?:\*[ \t]*\*[ \t]*\*[* \t]*|-[ \t]*-[ \t]*-[- \t]*|_[ \t]*_[ \t]*_[_ \t]*)$", re.MULTILINE)
_QUOTE = re.compile(r"^ {0,3}(?:>[ \t]?)+", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}(?:[ \t]+|$)", re.MULTILINE)
_HEADING_END = re.compile(r"(?<=\S)[ \t]+#+$")
_BULLET = re.compile(r"^([ \t]*)[*+](?=[ \t]+\S)", re.MULTILINE)
# Two equal runs that hug what is between them, inside one paragraph. A star with spaces on both sides is a star.
_STARS = re.compile(r"(\*{1,3})(?=[^\s*])((?:[^*\n]|\n(?![ \t]*\n))*)(?<=\S)\1(?!\*)")
_STRUCK = re.compile(r"~~(?=\S)((?:[^~\n]|\n(?![ \t]*\n))+)(?<=\S)~~")
_UNDERSCORES = re.compile(r"_+")
_LINE_END_SPACE = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_KEPT = re.compile(r"\0([0-9]+)\0")
_NESTING = 4  # emphasis inside emphasis, and a linked image, are undone from the inside out


def strip_markdown(text: str) -> str:
    r"""Take the marks of Markdown out of a text and keep what they mark.

    Line breaks stay where they are; runs of blank lines become one, and spaces at line ends go.

    Args:
        text: Markdown with `\n` line ends.

    Returns:
        The text without leading and trailing blank lines.
    """
    literals: list[str] = []

    def keep(literal: str) -> str:
        # NUL cannot be in Markdown (CommonMark replaces it), so a number between two stands for what is settled.
        literals.append(literal)
        return f"\0{len(literals) - 1}\0"

    text = _FRONT_MATTER.sub("", text.replace("\0", "\ufffd"))
    text = _FENCE.sub(lambda match: keep(match[2].rstrip("\n")), text)
    text = _without_code_marks(text, keep)
    text = _ESCAPE.sub(lambda match: keep(match[1]), _HARD_BREAK.sub("", text))
    text = _without_html(text, keep)
    text = _LINE_END_SPACE.sub("", _without_links(text))
    text = _QUOTE.sub("", text)
    text = _RULE.sub("", _UNDERLINE.sub("", text))
    text = _without_heading_marks(text)
    text = _BULLET.sub(r"\1-", text)
    text = _inside_out(_STARS, r"\2", text)
    text = _STRUCK.sub(r"\1", text)
    text = _UNDERSCORES.sub(_underscores, text)
    text = _BLANK_LINES.sub("\n\n", _LINE_END_SPACE.sub("", text)).strip("\n")
    return _KEPT.sub(lambda match: literals[int(match[1])], text)


def _without_code_marks(text: str, keep: Callable[[str], str]) -> str:
    """Replace code spans by their content: a run of backticks up to the next run of the same length."""
    runs = list(_BACKTICKS.finditer(text))
    closing: dict[int, list[int]] = {}  # run length → indices of runs, the next one last
    for index in range(len(runs) - 1, -1, -1):
        closing.setdefault(len(runs[index][0]), []).append(index)
    parts, done, index = [], 0, 0
    while index < len(runs):
        opening = runs[index]
        same = closing[len(opening[0])]
        while same and same[-1] <= index:
            same.pop()
        content = text[opening.end() : runs[same[-1]].start()] if same else ""
        escaped = text[: opening.start()].endswith("\\") if opening.start() < 2 else text[opening.start() - 1] == "\\"
        if not content or "\n\n" in content or escaped:
            index += 1
            continue
        padded = content.startswith(" ") and content.endswith(" ") and content.strip()
        parts += [text[done : opening.start()], keep(content[1:-1] if padded else content)]
        done = runs[same[-1]].end()
        index = same[-1] + 1
    return "".join([*parts, text[done:]])


def _without_html(text: str, keep: Callable[[str], str]) -> str:
    if "<" in text:
        text = _LINE_BREAK_TAG.sub("\n", _HIDDEN.sub("", text))
        text = _TAG.sub("", _AUTOLINK.sub(lambda match: keep(match[1]), text))
    return _ENTITY.sub(lambda match: keep(html.unescape(match[0])), text)


def _without_links(text: str) -> str:
    targets = {match[1].casefold() for match in _TARGET.finditer(text)}

    def linked(match: re.Match[str]) -> str:
        # Brackets that lead nowhere are brackets: "[Aside]" is a stage direction.
        return match[1] if (match[2] or match[1]).casefold() in targets else match[0]

    text = _inside_out(_LINK, r"\1", text)
    return _REFERENCE.sub(linked, _TARGET.sub("", text)) if targets else text


def _without_heading_marks(text: str) -> str:
    lines = text.split("\n")
    for number, line in enumerate(lines):
        bare = _HEADING.sub("", line, count=1)
        if bare != line:
            lines[number] = _HEADING_END.sub("", bare)
    return "\n".join(lines)


def _underscores(run: re.Match[str]) -> str:
    """Drop underscores at the edge of a word; keep them inside one (snake_case) and alone (a blank to fill in)."""
    text = run.string
    before = text[run.start() - 1] if run.start() else " "
    after = text[run.end()] if run.end() < len(text) else " "
    inside = before.isalnum() and after.isalnum()
    alone = before.isspace() and after.isspace()
    return run[0] if inside or alone else ""


def _inside_out(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    for _ in range(_NESTING):
        text, found = pattern.subn(replacement, text)
        if not found:
            break
    return text
