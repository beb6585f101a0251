"""Bundles: a run in one file that proves elsewhere that it can be repeated. Reading one runs nothing of it."""
