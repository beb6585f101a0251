"""dvc.yaml says what the schemas, the code and the shared paths say."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_layers import ROOMS

from pipeline.paths import OUTPUT_OF, STAGES
from pipeline.stages import CODE_OF

pytestmark = pytest.mark.unit

SPEC = "specs/experiment.yaml"
SHAPING = ROOMS - {"spec"} | {"stages"}  # where the code lives that shapes a stage's result
INPUTS_OF = {
    "corpus": [],
    "tokenizer": ["corpus"],
    "train": ["tokenizer"],
    "validate": ["train", "tokenizer"],
    "export": ["train", "tokenizer"],
}


@pytest.fixture(scope="module")
def pipeline_file(checkout) -> dict[str, Any]:
    return yaml.safe_load((checkout / "dvc.yaml").read_text(encoding="utf-8"))


def leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        if "properties" in child:
            yield from leaves(child, (*path, name))
        else:
            yield ".".join((*path, name)), child


def expected_params(schemas: Path, stage: str) -> list[str]:
    """The leaves that shape a stage's result; a section's name alone where that is all of its leaves."""
    params = []
    experiment = json.loads((schemas / "v1/experiment.json").read_text(encoding="utf-8"))["properties"]
    for path in (schemas / "v1" / child["$ref"] for child in experiment.values() if "$ref" in child):
        every = list(leaves(json.loads(path.read_text(encoding="utf-8"))))
        mine = [name for name, leaf in every if stage in leaf["x-stages"] and leaf["x-effect"] in {"result", "output"}]
        if mine and len(mine) == len(every):
            params.append(path.stem)
        else:
            params += [f"{path.stem}.{name}" for name in mine]
    return sorted(params)


def closure(checkout: Path, start: Path) -> set[Path]:
    """The modules of rooms and stages that a module imports, directly or not."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        for name in every_import(waiting.pop()):
            parts = name.split(".")
            if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in SHAPING and name != "pipeline.stages.door":
                module = checkout.joinpath(*parts).with_suffix(".py")
                if module.is_file() and module not in found:
                    found.add(module)
                    waiting.append(module)
    return found


def every_import(path: Path) -> Iterator[str]:
    """Everything that an import statement of a module may mean: `from a.b import c` is a.b and a.b.c."""
    package = ".".join(path.parts[path.parts.index("pipeline") : -1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_the_stages_are_those_of_the_toolkit_in_order(pipeline_file):
    assert tuple(pipeline_file["stages"]) == STAGES == tuple(CODE_OF)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_leaves_that_shape_its_result(pipeline_file, checkout, stage):
    (params,) = pipeline_file["stages"][stage]["params"]

    assert params == {SPEC: expected_params(checkout / "schemas", stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_its_inputs_and_its_code(pipeline_file, stage):
    inputs = [OUTPUT_OF[name].as_posix() for name in INPUTS_OF[stage]]

    assert pipeline_file["stages"][stage]["deps"] == sorted([*inputs, *CODE_OF[stage]])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_module_and_makes_its_folder(pipeline_file, stage):
    declared = pipeline_file["stages"][stage]

    assert declared["cmd"] == f"exec python -m pipeline.stages.{stage} --spec {SPEC}"
    # Alone: another output without a cache would switch the run cache off for the stage.
    assert declared["outs"] == [OUTPUT_OF[stage].as_posix()]


@pytest.mark.parametrize("stage", STAGES)
def test_reports_are_kept_in_git_and_not_in_the_cache(pipeline_file, stage):
    declared = pipeline_file["stages"][stage]
    reports = [*declared["metrics"], *declared.get("plots", [])]

    for report in reports:
        ((path, properties),) = report.items()
        assert path.startswith("reports/")
        assert properties["cache"] is False


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_what_it_imports(checkout, stage):
    script = checkout / "pipeline" / "stages" / f"{stage}.py"
    needed = {script, *closure(checkout, script)}
    listed = [checkout / name for name in CODE_OF[stage]]

    unlisted = [path for path in needed if not any(known in {path, *path.parents} for known in listed)]
    unneeded = [known for known in listed if not any(known in {path, *path.parents} for path in needed)]

    assert unlisted == []
    assert unneeded == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_exists(checkout, stage):
    assert [name for name in CODE_OF[stage] if not (checkout / name).exists()] == []


def test_every_key_that_dvc_reads_stands_in_the_spec(pipeline_file, checkout):
    spec = yaml.safe_load((checkout / SPEC).read_text(encoding="utf-8"))

    for declared in pipeline_file["stages"].values():
        for name in declared["params"][0][SPEC]:
            value = spec
            for key in name.split("."):
                assert key in value, name
                value = value[key]


def test_every_curve_is_a_column_of_the_history(pipeline_file):
    columns = {"step", "epoch", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "val_loss"}

    drawn: set[str] = set()
    for plot in pipeline_file["plots"]:
        (properties,) = plot.values()
        named = properties["y"]["reports/history.csv"]
        drawn |= {named} if isinstance(named, str) else set(named)

    assert drawn == columns - {"step", "epoch"}


def test_the_vendored_scripts_are_the_published_ones(checkout):
    folder = checkout / ".dvc" / "plots-offline"
    table = (folder / "README.md").read_text(encoding="utf-8")
    recorded = dict(re.findall(r"^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$", table, re.MULTILINE))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}

    assert found == recorded
    assert len(found) == 3
    assert all((folder / f"LICENSE.{name.removesuffix('.min.js')}").is_file() for name in found)
