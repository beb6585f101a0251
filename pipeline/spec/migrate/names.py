"""Names of today made from what earlier systems called a run, or from the name of a file."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 100  # characters


def as_name(text: Any) -> Any:
    """A text as the name of a document: other characters than letters, digits, `.`, `_` and `-` become `-`."""
    if not isinstance(text, str):
        return text
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:_LONGEST] or "unnamed"
