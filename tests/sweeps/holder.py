"""A worker that takes a trial and then waits to be killed: `python holder.py DOCUMENT ADDRESS PLACE`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pipeline.sweeps.place import Place
from pipeline.sweeps.study import Sweep

held = Sweep(json.loads(sys.argv[1]), sys.argv[2], Place(Path(sys.argv[3]))).take()
assert held is not None
print(json.dumps({"number": held.number, "values": held.values}), flush=True)
time.sleep(600)
