"""A process that promotes one model of the registry in the current folder again and again."""

from __future__ import annotations

import sys

from pipeline.records.registry import ModelRegistry

with ModelRegistry() as registry:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        registry.promote_model(sys.argv[1], "production")
