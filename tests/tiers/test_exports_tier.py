"""Tier 4: every format is compared with the model, and what is wrong with one is said of it alone."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_subjects import EXPORTED

from pipeline import run_tier4_export_validation
from pipeline.errors import ArtifactError, ExportError
from pipeline.export.formats import FORMATS
from pipeline.files import manifest_hash, output_folder
from pipeline.models.store import load_model, save_model

pytestmark = pytest.mark.integration


@pytest.fixture
def project(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "project") / "artifacts"


def test_every_format_says_how_far_it_is_how_fast_and_where(finished):
    model, export = finished / "artifacts/model", finished / "artifacts/export"

    found = run_tier4_export_validation(model, export, timed_runs=3, warmup_runs=1)

    rows = found["tier4"]["formats"]
    assert [*rows] == EXPORTED
    assert found["export"] == {name: (export / FORMATS[name].file).as_posix() for name in EXPORTED}
    assert (rows["pytorch"]["status"], rows["pytorch"]["max_abs_diff"]) == ("ok", 0)
    assert 0 < rows["bf16"]["max_abs_diff"] <= 0.01
    assert rows["bf16"]["max_rel_error"] > 0
    assert all(row["latency_ms"] > 0 for row in rows.values())
    assert found["tier4"]["status"] == "ok"


def test_rounded_weights_above_their_limit_are_a_warning(finished):
    found = run_tier4_export_validation(
        finished / "artifacts/model",
        finished / "artifacts/export",
        formats=["bf16"],
        max_abs_diff_quantized=1e-9,
        timed_runs=1,
    )

    assert found["tier4"]["status"] == found["tier4"]["formats"]["bf16"]["status"] == "warn"


def test_another_weight_fails_the_format_that_has_it(project):
    wrong = project / "export/pytorch"
    model, description = load_model(wrong)
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with output_folder(wrong, stage="export", sections={}, inputs={}) as folder:
        description.pop("format_version")
        save_model(folder, model, description)
        for name in ("tokenizer.model", "tokenizer.json", "spec.json"):
            shutil.copyfile(project / "model" / name, folder / name)

    found = run_tier4_export_validation(project / "model", project / "export", timed_runs=1)["tier4"]

    assert {name: row["status"] for name, row in found["formats"].items()} == {"pytorch": "fail", "bf16": "ok"}
    assert found["formats"]["pytorch"]["max_abs_diff"] > 1e-4
    assert found["status"] == "fail"


def test_a_missing_and_a_damaged_format_fail_and_the_others_are_compared(project):
    (project / "export/pytorch/model.safetensors").write_bytes(b"")
    shutil.rmtree(project / "export/bf16")

    rows = run_tier4_export_validation(project / "model", project / "export")["tier4"]["formats"]

    assert (rows["bf16"]["status"], rows["bf16"]["message"]) == ("fail", "bf16 is missing")
    assert rows["pytorch"]["status"] == "fail"
    assert "does not run in a fresh process" in rows["pytorch"]["message"]
    assert rows["pytorch"]["max_abs_diff"] is rows["pytorch"]["latency_ms"] is None


def test_where_nothing_is_compared_it_is_a_warning(finished):
    found = run_tier4_export_validation(finished / "artifacts/model", finished / "artifacts/export", formats=[])

    assert found == {"export": {}, "tier4": {"status": "warn", "formats": {}}}


def test_an_export_of_another_model_and_a_folder_that_is_none_are_refused(project):
    with output_folder(project / "other", stage="train", sections={"a": 1}, inputs={}) as folder:
        for file in (project / "model").iterdir():
            shutil.copyfile(file, folder / file.name)
    assert manifest_hash(project / "other") != manifest_hash(project / "model")

    with pytest.raises(ExportError, match="made from another model than") as caught:
        run_tier4_export_validation(project / "other", project / "export")
    with pytest.raises(ArtifactError, match="missing"):
        run_tier4_export_validation(project / "model", project / "nothing")

    assert "foundry run --from export" in caught.value.hint
