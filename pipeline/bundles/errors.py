"""What is wrong with a bundle, or keeps one from being made."""

from __future__ import annotations

from pipeline.errors import FoundryError


class BundleError(FoundryError):
    """A bundle cannot be made, is not what was packed, or cannot be replayed here."""
