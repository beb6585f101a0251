"""A worker that takes and completes trials until none is left: `python taker.py DOCUMENT ADDRESS PLACE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.sweeps.place import Place
from pipeline.sweeps.study import Sweep

sweep = Sweep(json.loads(sys.argv[1]), sys.argv[2], Place(Path(sys.argv[3])))
while held := sweep.take():
    with held:
        held.complete(held.values["training.learning_rate"])
