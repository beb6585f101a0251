"""What it takes to get the weights of a run again, written beside its record: instructions, code, packages, hashes.

<work>/records/<run>/
REPRODUCE.md       what to do, in order
changes.patch      what was not committed, where there was something
requirements.txt   the packages
environment.json   everything it was executed with; `foundry env compare` reads it
spec.json          the spec, with all defaults
SHA256SUMS         the files to expect
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.console import duration
from pipeline.files import write_artefact, write_atomic, write_json
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF

from .environment import requirements, snapshot_of_record

INSTRUCTIONS = "REPRODUCE.md"
_MAKE_THE_WEIGHTS = ("corpus", "tokenizer", "train")  # stages

Record = Mapping[str, Any]


def can_be_reproduced(record: Record) -> bool:
    """Whether a run completed and left a model."""
    return record["status"] == "completed" and any(_hashes(record, "train"))


def write_instructions(folder: Path, record: Record) -> Path:
    """Write how to get the weights of a run again.

    Args:
        folder: of the run; made where there is none.
        record: of a run that can be reproduced, as `ExperimentDB.get_record` returns it.

    Returns:
        The file to read first.
    """
    environment = snapshot_of_record(record)
    sums = [f"{digest}  {path}\n" for stage in _MAKE_THE_WEIGHTS for path, digest in _hashes(record, stage)]
    if record["git_diff"]:
        write_atomic(folder / "changes.patch", record["git_diff"])
    write_atomic(folder / "requirements.txt", requirements(environment["packages"]))
    write_artefact(folder / "environment.json", "environment", environment)
    write_json(folder / "spec.json", record["config"])
    write_atomic(folder / "SHA256SUMS", "".join(sums))
    write_atomic(folder / INSTRUCTIONS, _instructions(record, environment))
    return folder / INSTRUCTIONS


def _hashes(record: Record, stage: str) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of each file that a stage left."""
    for artifact in record["artifacts"]:
        if artifact["artifact_type"] == OUTPUT_OF[stage].name:
            yield from ((f"{artifact['filepath']}/{name}", sha) for name, sha in artifact["metadata"]["files"].items())


def _inputs(record: Record, stage: str) -> dict[str, str]:
    """What a stage was made from besides the output of the one before: name → SHA-256."""
    found = (row["metadata"] for row in record["artifacts"] if row["artifact_type"] == OUTPUT_OF[stage].name)
    inputs: dict[str, str] = next((metadata["inputs"] for metadata in found), {})
    return {name: digest for name, digest in inputs.items() if name not in OUTPUT_OF}


def _instructions(record: Record, environment: Mapping[str, Any]) -> str:
    version = ".".join(environment["python"].split(".")[:2])
    facts = {**(environment["execution"] or {}), "platform": environment["platform"]}
    execution = "\n".join(f"| `{name}` | {value if value is not None else '-'} |" for name, value in facts.items())
    return f"""\
# The weights of run {record["run_id"][:8]} again

`{record["run_name"]}`, begun {record["created_at"][:16].replace("T", " ")} UTC, {duration(record["seconds"])};
Model Foundry {record["toolkit_version"]}. The files that are named here stand beside this one; `$RUN` is their folder.

## 1. The code

{_code(record)}

## 2. The packages

```sh
python{version} -m venv .venv && . .venv/bin/activate
pip install -r "$RUN/requirements.txt"
pip install --no-deps -e .   # in another repository than Model Foundry's: model-foundry=={record["toolkit_version"]}
```

The run had Python {environment["python"]}.

## 3. The spec and the data

```sh
cp "$RUN/spec.json" {DEFAULT_SPEC}   # JSON is YAML, too
```

{_data(record)}

## 4. The run

```sh
foundry env compare "$RUN/environment.json"   # what here may change the weights
foundry run
sha256sum -c "$RUN/SHA256SUMS"
```

A fresh clone has nothing in DVC's cache, so everything is made anew; elsewhere `foundry run --force` does that. The
weights are `{OUTPUT_OF["train"]}/model.safetensors`: the same bits where the following is the same. Elsewhere the last
bits may differ.

| execution | |
|---|---|
{execution}
"""


def _code(record: Record) -> str:
    if record["git_commit"] is None:
        return f"It was in no git repository: take Model Foundry {record['toolkit_version']}."
    lines = [f"git checkout {record['git_commit']}"]
    if record["git_diff"]:
        lines.append('git apply "$RUN/changes.patch"')
    text = "\n".join(["In a clone of the repository:", "", "```sh", *lines, "```"])
    if record["git_dirty"]:
        text += "\n\nTracked files had been changed. Files that git does not track are not in the patch."
    if "\nBinary files " in record["git_diff"]:
        text += " Nor is what changed in binary files."
    return text


def _data(record: Record) -> str:
    """The files that training was made from, as far as they are none of its own outputs."""
    named = {**_inputs(record, "corpus"), **_inputs(record, "train")}
    if not named:
        return "It reads no files but its own."
    rows = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in named.items())
    return f"It was made from:\n\n| what | SHA-256 |\n|---|---|\n{rows}"
