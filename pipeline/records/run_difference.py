"""Where two trainings part, stage by stage, and what explains it: settings, data, code or environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.errors import ArtifactError
from pipeline.files import read_text
from pipeline.paths import STAGES
from pipeline.spec.difference import NOT_THERE, differences_of
from pipeline.spec.schema import EXPERIMENT

from .ledger import Ledger, read_ledger
from .ledger_difference import Parting, parting_of
from .trained import Trained

Verdict = Literal["equal", "differs", "not compared"]
_SHAPING = {  # stage → effects of the settings that can change what of it is compared
    "corpus": ("result",),
    "tokenizer": ("result",),
    "train": ("result",),
    "validate": ("result", "output"),
    "export": ("result", "output"),
}
_MADE_BY = {"corpus": "corpus", "tokenizer": "tokenizer", "model": "train"}  # an input → the stage that makes it
_DESCRIBING = (".json", ".md")  # of an export: times, identities and figures; what is compared is the formats


@dataclass(frozen=True)
class Cause:
    """Something that two trainings have otherwise, and that can explain why a stage came to something else.

    Attributes:
        kind: `stage` (an earlier one parted), `setting`, `input`, `code` or `environment`.
        name: of the stage, the setting, the file or the property.
        old: what it is in the first; None: it is not there.
        new: the same in the second.
    """

    kind: str
    name: str
    old: Any = None
    new: Any = None


@dataclass(frozen=True)
class StageDifference:
    """How two trainings compare in one stage.

    Attributes:
        stage: its name.
        verdict: whether it came to the same.
        where: what differs first, in words; of what is not compared, why.
        parting: of training, where the ledgers part.
        causes: what explains that it differs; empty: nothing that was recorded does.
    """

    stage: str
    verdict: Verdict
    where: str = ""
    parting: Parting | None = None
    causes: tuple[Cause, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_trainings(first: Trained, second: Trained) -> list[StageDifference]:
    """Every stage of two trainings, in order.

    Raises:
        ArtifactError: an output or a ledger is damaged.
    """
    found: list[StageDifference] = []
    for stage in STAGES:
        found.append(_compare(stage, first, second, found))
    return found


def _compare(stage: str, first: Trained, second: Trained, before: list[StageDifference]) -> StageDifference:
    sides = (first, second)
    absent = [side.name for side in sides if stage not in side.folders]
    if absent:
        if _led_to_the_same(stage, first, second):
            return StageDifference(stage, "equal")
        return StageDifference(stage, "not compared", f"not there for {' and '.join(absent)}")
    one, two = first.manifest(stage), second.manifest(stage)
    ledgers = _ledgers(first, second) if stage == "train" else None
    parting = parting_of(*ledgers) if ledgers else None
    files = _files_that_differ(stage, one, two)
    if not files and parting is None:
        return StageDifference(stage, "equal")
    where = str(parting) if parting else _where(stage, [side.folders[stage] for side in sides], files)
    causes = [*_causes(stage, one, two, before), *_code(stage, first, second, ledgers)]
    if ledgers:
        causes += _environment(*ledgers, step=parting.step if parting else 0, alone=not causes)
    return StageDifference(stage, "differs", where, parting, tuple(causes))


def _led_to_the_same(stage: str, first: Trained, second: Trained) -> bool:
    """Whether what was made from the output of a stage, perhaps by way of another stage, names the same output."""
    if "train" not in first.folders or "train" not in second.folders or stage not in ("corpus", "tokenizer"):
        return False
    one, two = (side.manifest("train")["inputs"].get("tokenizer") for side in (first, second))
    return one is not None and one == two


def _files_that_differ(stage: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Names of the result files of a stage that differ, or that only one has."""
    mine, other = ({name: file["sha256"] for name, file in made["files"].items()} for made in (one, two))
    names = [name for name in sorted(mine.keys() | other.keys()) if _is_result(stage, name)]
    if stage == "train":  # `checkpointing.keep_best_only` leaves one of the two out
        names = [name for name in names if name in mine and name in other]
    return [name for name in names if mine.get(name) != other.get(name)]


def _is_result(stage: str, name: str) -> bool:
    """Whether a file of a stage's output is a result: neither times nor identities are."""
    if stage == "train":
        return name.endswith(".safetensors")
    if stage == "validate":
        return name == "samples.json"
    return stage != "export" or not name.endswith(_DESCRIBING)


def _where(stage: str, folders: list[Path], files: list[str]) -> str:
    """The first thing that differs in the files of a stage."""
    others = f", and {len(files) - 1} more files" if len(files) > 1 else ""
    texts = [name for name in files if name.endswith(".jsonl") and all((each / name).is_file() for each in folders)]
    if stage == "corpus" and texts:
        return _document(texts[0], *(read_text(folder / texts[0]).split("\n")[:-1] for folder in folders)) + others
    return f"{files[0]}{others}"


def _document(name: str, one: list[str], two: list[str]) -> str:
    """The first document of a split that differs."""
    number = next((n for n, (mine, other) in enumerate(zip(one, two, strict=False)) if mine != other), None)
    if number is None:
        return f"{name}: {len(one)} documents in one, {len(two)} in the other"
    mine, other = json.loads(one[number]), json.loads(two[number])
    place = f"{name}, document {number + 1} of {len(one)} ({mine['id']})"
    if one[number] in two or two[number] in one:  # one came or went, or they stand in another order
        return f"{place}: {other['id']} in the other"
    if mine["text"] == other["text"]:
        return f"{place}: another label or target"
    texts = zip(mine["text"], other["text"], strict=False)
    at = next((n for n, (a, b) in enumerate(texts) if a != b), min(len(mine["text"]), len(other["text"])))
    return f"{place}, character {at + 1}: {mine['text'][at : at + 1]!r} → {other['text'][at : at + 1]!r}"


def _causes(
    stage: str, one: Mapping[str, Any], two: Mapping[str, Any], before: list[StageDifference]
) -> Iterator[Cause]:
    """What manifests say: earlier stages that parted, inputs, settings and versions."""
    same = {found.stage for found in before if found.verdict == "equal"}
    for name in sorted(one["inputs"].keys() | two["inputs"].keys()):
        old, new = one["inputs"].get(name), two["inputs"].get(name)
        maker = _MADE_BY.get(name)
        if old != new and maker not in same:
            yield Cause("stage", maker, old, new) if maker else Cause("input", name, old, new)
    for each in differences_of(one["sections"], two["sections"], kind=EXPERIMENT):
        if each.effect in _SHAPING[stage]:
            old, new = (None if value is NOT_THERE else value for value in (each.old, each.new))
            yield Cause("setting", each.path, old, new)
    if one["toolkit_version"] != two["toolkit_version"]:
        yield Cause("code", "toolkit_version", one["toolkit_version"], two["toolkit_version"])


def _code(stage: str, first: Trained, second: Trained, ledgers: tuple[Ledger, Ledger] | None) -> Iterator[Cause]:
    """The files of code that differ: by the ledgers, else by what DVC locked."""
    if ledgers:
        one, two = (ledger.begin["code"] for ledger in ledgers)
    else:
        one, two = _locked_code(stage, first), _locked_code(stage, second)
    if one and two:
        for name in sorted(one.keys() | two.keys()):
            if one.get(name) != two.get(name):
                yield Cause("code", name, one.get(name), two.get(name))


def _locked_code(stage: str, side: Trained) -> dict[str, str]:
    """File or folder → hash of the code of a stage in the dvc.lock of its project; empty where there is none.

    Raises:
        ArtifactError: the file is there and is none of DVC's.
    """
    path = side.project / "dvc.lock" if side.project is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        deps = yaml.safe_load(read_text(path))["stages"].get(stage, {}).get("deps", [])
        return {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith("pipeline/")}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        hint = "take it from git again: git checkout dvc.lock"
        raise ArtifactError("this is not what DVC writes", where=str(path), hint=hint) from error


def _ledgers(first: Trained, second: Trained) -> tuple[Ledger, Ledger] | None:
    if first.ledger is None or second.ledger is None:
        return None
    return read_ledger(first.ledger), read_ledger(second.ledger)


def _environment(first: Ledger, second: Ledger, *, step: int, alone: bool) -> Iterator[Cause]:
    """What the runs were executed on, up to the step at which they part.

    What the first batch came to follows from everything else, so it is a cause only where nothing else is.
    """
    one, two = _environment_at(first, step), _environment_at(second, step)
    found = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    for name in found:
        if name != "arithmetic" or (alone and found == ["arithmetic"]):
            yield Cause("environment", name, one.get(name), two.get(name))


def _environment_at(ledger: Ledger, step: int) -> dict[str, Any]:
    found: dict[str, Any] = ledger.begin["environment"]
    for row in ledger.environments:
        if row["after_step"] < step:
            found = row["environment"]
    return found
