"""The memory of a process is its own, whoever started it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

_PROBE = """
import json, resource
from pipeline.memory import memory_bytes
now, peak = memory_bytes()
print(json.dumps({"now": now, "peak": peak, "getrusage": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""
# Holds 500 MB, and starts the probe: forked, as a shell or a launcher does it.
_FAT = """
import os, sys
held = b"x" * 500_000_000
child = os.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is what getrusage says")
def test_the_peak_of_a_process_does_not_include_what_its_starter_held() -> None:
    command = [sys.executable, "-c", _FAT, _PROBE]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    found = json.loads(done.stdout)
    assert found["now"] <= found["peak"] < 100_000_000
    assert found["getrusage"] > 500_000_000  # what it would have been
