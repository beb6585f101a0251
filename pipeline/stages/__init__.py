"""The five stages that dvc.yaml runs: each a thin command over the rooms that do the work."""

# This file runs before a stage imports anything else, perhaps under a Python that is too old or lacks our packages:
# so no imports outside the standard library and no syntax newer than Python 3.6.
import importlib.util
import os
import sys

# Read once, when torch's libraries are loaded. A thread that waits by spinning takes the processor from the thread it
# waits for wherever more than this one program is running; one that sleeps at once is woken too late for the next of
# many short operations. So threads of GCC's library spin for about a tenth of a millisecond, and then sleep.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
if "OMP_WAIT_POLICY" not in os.environ:
    for _name, _value in WAITING.items():
        os.environ.setdefault(_name, _value)

# The code that shapes each stage's result. dvc.yaml depends on it and a checkpoint is bound to it, so it holds every
# module of rooms and stages that the stage imports, directly or not, and nothing else (the spec room, the floor and
# the door apart, which do not shape results). A folder stands for all that is in it.
CODE_OF = {
    "corpus": (
        "pipeline/data/cleaning.py",
        "pipeline/data/corpus.py",
        "pipeline/data/documents.py",
        "pipeline/data/download.py",
        "pipeline/data/hub.py",
        "pipeline/data/leakage.py",
        "pipeline/data/markdown.py",
        "pipeline/data/passages.py",
        "pipeline/data/picture_arrays.py",
        "pipeline/data/picture_corpus.py",
        "pipeline/data/picture_files.py",
        "pipeline/data/picture_table.py",
        "pipeline/data/pictures.py",
        "pipeline/data/sources.py",
        "pipeline/data/splits.py",
        "pipeline/stages/corpus.py",
    ),
    "tokenizer": (
        "pipeline/data/documents.py",
        "pipeline/data/encode.py",
        "pipeline/data/picture_arrays.py",
        "pipeline/data/splits.py",
        "pipeline/data/tokenizer.py",
        "pipeline/stages/tokenizer.py",
    ),
    "train": (
        "pipeline/data/batches.py",
        "pipeline/data/document_batches.py",
        "pipeline/data/encoded.py",
        "pipeline/data/masked_batches.py",
        "pipeline/data/picture_files.py",
        "pipeline/data/tokenizer.py",
        "pipeline/models",
        "pipeline/records/ledger.py",
        "pipeline/stages/launch.py",
        "pipeline/stages/trackers.py",
        "pipeline/stages/train.py",
        "pipeline/stages/train_ledger.py",
        "pipeline/stages/train_loop.py",
        "pipeline/stages/train_memory.py",
        "pipeline/stages/train_record.py",
        "pipeline/stages/train_result.py",
        "pipeline/stages/train_run.py",
        "pipeline/stages/train_setup.py",
        "pipeline/stages/train_signals.py",
        "pipeline/tasks",
        "pipeline/training",
    ),
    "validate": (
        "pipeline/data/batches.py",
        "pipeline/data/document_batches.py",
        "pipeline/data/encoded.py",
        "pipeline/data/masked_batches.py",
        "pipeline/data/picture_files.py",
        "pipeline/data/tokenizer.py",
        "pipeline/evaluation",
        "pipeline/export/generating_graph.py",
        "pipeline/export/measured.py",
        "pipeline/export/onnx_files.py",
        "pipeline/export/probe.py",
        "pipeline/export/runner.py",
        "pipeline/export/source.py",
        "pipeline/export/traced.py",
        "pipeline/models",
        "pipeline/stages/validate.py",
        "pipeline/tasks",
    ),
    "export": (
        "pipeline/data/encoded.py",
        "pipeline/data/picture_files.py",
        "pipeline/data/tokenizer.py",
        "pipeline/export",
        "pipeline/models",
        "pipeline/stages/export.py",
    ),
}

_NEEDED_FIRST = ("click", "jsonschema", "numpy", "sentencepiece", "torch", "yaml")  # what the stages import


def _refuse_wrong_python() -> None:
    """End the process when DVC started the stage with a Python that cannot run it.

    A stage's command runs in a shell, where `python` is whatever PATH says: not always the environment of DVC.
    """
    problem = ""
    expected = os.environ.get("FOUNDRY_PREFIX", "")  # set by `foundry run` to the environment it runs in
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the check that says so
        problem = f"is Python {sys.version_info[0]}.{sys.version_info[1]}, and Model Foundry needs 3.11 or newer"
    elif expected and os.path.realpath(expected) != os.path.realpath(sys.prefix):
        problem = f"belongs to the environment {sys.prefix}, not to {expected}"
    else:
        missing = [name for name in _NEEDED_FIRST if importlib.util.find_spec(name) is None]
        if missing:
            problem = "lacks " + ", ".join(missing)
    if problem:
        sys.stderr.write(
            f"error: this stage was started by {sys.executable}, which {problem}\n"
            "  hint: run `foundry run` or `make run`, or activate the environment first: . .venv/bin/activate\n"
        )
        sys.exit(1)


if sys.argv[:1] == ["-m"]:  # what Python puts there while it imports the parents of `python -m pipeline.stages.…`
    _refuse_wrong_python()
