"""Names of today made from what earlier systems called a run, a file or a dataset."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 100  # characters
_WIKITEXT = "Salesforce/wikitext"
# What was written before the hub gave every dataset an owner, and configurations that were taken for datasets.
_OWNED: dict[str, tuple[str, str | None]] = {
    "ag_news": ("fancyzhx/ag_news", None),
    "imdb": ("stanfordnlp/imdb", None),
    "wikitext": (_WIKITEXT, None),
    **{name: (_WIKITEXT, name) for name in ("wikitext-2-v1", "wikitext-2-raw-v1")},
    **{name: (_WIKITEXT, name) for name in ("wikitext-103-v1", "wikitext-103-raw-v1")},
}


def as_name(text: Any) -> Any:
    """A text as the name of a document: other characters than letters, digits, `.`, `_` and `-` become `-`."""
    if not isinstance(text, str):
        return text
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:_LONGEST] or "unnamed"


def on_hub(name: Any) -> tuple[str, str | None] | None:
    """The repository and the subset on the Hugging Face hub that the name of a dataset means; None if it means none."""
    if not isinstance(name, str):
        return None
    is_owned = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", name)
    return (name, None) if is_owned else _OWNED.get(name)
