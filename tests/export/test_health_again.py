"""Checks run again: by `foundry health`, from Python, with checks of other packages, and on what has classes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from described import model_description
from safetensors.torch import load_file, save_file

import pipeline
from pipeline import ExportHealthChecker, create_export_bundle, export_model
from pipeline.errors import ExportError, Preempted
from pipeline.export import checks
from pipeline.export.checks import Check, custom_check
from pipeline.export.compare import heldout_rows
from pipeline.export.health import run_check
from pipeline.export.subject import BUNDLE, Outcome
from pipeline.files import output_folder, read_artefact, verify_manifest, write_artefact, write_manifest
from pipeline.models.store import load_model, save_model
from pipeline.models.table import build_model
from pipeline.paths import SPECS
from pipeline.spec import load_spec

pytestmark = pytest.mark.integration


@pytest.fixture
def quick(monkeypatch):
    """Without latencies, which are never judged and take most of the time."""
    kept = tuple(row for row in checks.FORMAT_CHECKS if row.name != "performance")
    monkeypatch.setattr(checks, "FORMAT_CHECKS", kept)


def health_of(folder, cwd, *options):
    command = [sys.executable, "-m", "pipeline", "health", str(folder), *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.e2e
def test_the_command_checks_an_export_that_was_carried_away_against_the_copy_inside(export_folder, tmp_path, resign):
    folder = shutil.copytree(export_folder, tmp_path / "carried")
    resign(folder, formats=["onnx", "pytorch"])

    done = health_of(folder, tmp_path, "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["all_passed"]
    assert "onnx_perplexity" not in {check["check_name"] for check in report["checks"]}  # there is no held-out text


@pytest.mark.e2e
def test_the_command_ends_with_6_and_says_which_check_failed_and_what_to_do(export_folder, tmp_path, resign):
    folder = shutil.copytree(export_folder, tmp_path / "carried")
    resign(folder, formats=["onnx"])
    (folder / "model.onnx").write_bytes(b"")

    done = health_of(folder, tmp_path)

    assert done.returncode == 6
    assert "failed   onnx_validation: not the bytes that were written: model.onnx" in done.stdout
    assert "not sound; health score" in done.stdout
    assert "build it again with: foundry run --from export --force" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_the_command_refuses_an_export_without_a_model_and_what_is_no_export(export_folder, tmp_path, resign):
    alone = shutil.copytree(export_folder, tmp_path / "alone")
    shutil.rmtree(alone / "pytorch")
    (tmp_path / "empty").mkdir()

    without, nothing = health_of(alone, tmp_path), health_of("empty", tmp_path)

    assert (without.returncode, nothing.returncode) == (6, 6)
    assert "pass its folder: --model DIR" in without.stderr
    assert "manifest.json: the file is missing" in nothing.stderr


def test_an_export_made_from_python_is_checked_kept_and_bundled(model_folder, data_folder, tmp_path, quick):
    told = []

    report = export_model(
        model_folder,
        tmp_path / "export",
        data=data_folder,
        tell=told.append,
        formats=["torchscript"],
        export_bundle=True,
    )

    assert told == [report]
    assert report.all_passed
    assert "torchscript_perplexity" in {check.check_name for check in report.checks}
    verify_manifest(tmp_path / "export", rebuild="")
    again = ExportHealthChecker(model_folder).run_all_checks(tmp_path / "export")
    assert next(check for check in again.checks if check.check_name == "bundle_validation").status == "passed"
    carried = read_artefact(tmp_path / "export" / BUNDLE / "health_report.json", "health_report")
    assert carried == report.to_dict()
    assert carried["checks"][-1]["check_name"] == "bundle_validation"


def test_an_unsound_export_is_told_of_and_not_kept(tmp_path, make_model_folder, data_folder, quick):
    model = make_model_folder(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], torch.nan)
    save_file(weights, model / "model.safetensors")
    write_manifest(model, stage="train", sections={}, inputs={})
    told = []

    with pytest.raises(ExportError, match=r"parameter_validation: NaN or Infinity in norm\.weight"):
        export_model(model, tmp_path / "export", data=data_folder, tell=told.append, formats=["pytorch"])

    assert not (tmp_path / "export").exists()
    assert {"pytorch_perplexity", "pytorch_numerical_consistency"} <= {
        check.check_name for check in told[0].get_failed_checks()
    }


def test_a_bundle_that_serves_something_else_than_what_was_exported_is_seen(
    export_folder, model_folder, health, tmp_path, resign, quick
):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, formats=["onnx"])
    create_export_bundle(folder, folder / BUNDLE, health=health, model_dir=model_folder)
    served = folder / BUNDLE / "artifacts" / "model.onnx"
    served.write_bytes(served.read_bytes() + b"\0")
    resign(folder / BUNDLE)
    resign(folder)

    failed = ExportHealthChecker(model_folder).run_all_checks(folder).get_failed_checks()

    assert [(check.check_name, check.message) for check in failed] == [
        ("bundle_validation", "not what was exported: model.onnx")
    ]


def test_the_config_says_how_exact_an_export_must_be(export_folder, model_folder, tmp_path, resign, quick):
    strict = pipeline.TrainingConfig(formats=["onnx"], max_abs_diff=1e-12)

    report = ExportHealthChecker(model_folder, strict).run_all_checks(export_folder)

    consistency = next(check for check in report.checks if check.check_name == "onnx_numerical_consistency")
    assert (consistency.status, report.all_passed) == ("warning", True)
    assert report.health_score < 100
    assert {check.check_name.split("_")[0] for check in report.checks}.isdisjoint({"torchscript", "pytorch"})


def test_a_task_the_model_was_not_trained_for_is_refused(model_folder):
    with pytest.raises(ExportError, match="trained for lm, the task document says vision_classification"):
        ExportHealthChecker(model_folder, None, load_spec(SPECS / "tasks" / "vision_tiny.yaml", "task"))
    ExportHealthChecker(model_folder, None, load_spec(SPECS / "tasks" / "lm_tiny.yaml", "task"))


def test_a_model_in_memory_is_checked_if_it_is_the_one_in_its_folder(export_folder, model_folder, quick):
    model, _ = load_model(model_folder)

    report = ExportHealthChecker(model, model_folder=model_folder).run_all_checks(export_folder, ["pytorch"])

    assert report.all_passed
    model.norm.weight.data[0] += 1
    with pytest.raises(ExportError, match="the model has other weights than its folder"):
        ExportHealthChecker(model, model_folder=model_folder)


def test_a_format_that_is_none_is_refused(export_folder, model_folder):
    with pytest.raises(ExportError, match="not a format: onix"):
        ExportHealthChecker(model_folder).run_all_checks(export_folder, ["onix"])


def test_data_of_another_tokenizer_fails_what_would_be_measured_on_it(
    export_folder, model_folder, data_folder, tmp_path, resign, quick
):
    data = shutil.copytree(data_folder, tmp_path / "data")
    (data / "tokenizer.model").write_bytes((data / "tokenizer.model").read_bytes() + b"\0")
    resign_stage(data)

    report = ExportHealthChecker(model_folder, data=data).run_all_checks(export_folder, ["onnx"])

    assert [check.check_name for check in report.get_failed_checks()] == ["onnx_perplexity"]
    assert "another tokenizer" in report.get_failed_checks()[0].message


def resign_stage(folder):
    write_manifest(folder, stage="tokenizer", sections={}, inputs={})


def test_held_out_rows_are_spread_over_the_split_and_a_short_split_is_one_row():
    class Split:
        tokens = np.arange(1_000_000, dtype=np.uint32)

    rows = heldout_rows(Split, 256)

    assert rows.shape == (64, 257)
    assert rows[0, 0] == 0
    assert rows[-1, -1] > 999_000
    assert (np.diff(rows[:, 0]) % 256 == 0).all()
    Split.tokens = np.arange(10)
    assert heldout_rows(Split, 256).tolist() == [list(range(10))]


def test_held_out_rows_of_one_document_each_begin_one_and_reach_into_no_other():
    class Split:
        tokens = np.array([1, 5, 5, 2, 1, 6, 2, 1, 7, 7, 7, 7, 2, 1, 8, 8, 2])  # 4, 3, 6 and 4 tokens

    assert heldout_rows(Split, 256, one_document=True).tolist() == [[1, 5, 5, 2], [1, 7, 7, 7], [1, 8, 8, 2]]
    assert heldout_rows(Split, 2, one_document=True).tolist() == [[1, 5, 5], [1, 6, 2], [1, 7, 7], [1, 8, 8]]


# Checks of other packages


def _entry(value):
    return EntryPoint("licence_validation", value, checks.CUSTOM)


def good(subject):
    return Outcome("passed", f"looked at {subject}")


def raising(subject):
    raise KeyError("gone")


def stopped(subject):
    raise Preempted("now")


def wrong(subject):
    return True


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "checks_of_mine", sys.modules[__name__])


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("good", "passed", "looked at it"),
        ("raising", "failed", "it raised KeyError: 'gone'"),
        ("wrong", "failed", "it returned True instead of an Outcome"),
    ],
)
def test_a_check_of_another_package_is_a_check_like_the_others(function, status, message, importable):
    result = run_check(Check("licence_validation", custom_check(_entry(f"checks_of_mine:{function}"))), "it")

    assert (result.check_name, result.status, result.message) == ("licence_validation", status, message)


def test_a_request_to_stop_is_not_a_failed_check_of_another_package(importable):
    with pytest.raises(Preempted):
        custom_check(_entry("checks_of_mine:stopped"))("it")


def test_a_check_that_cannot_be_loaded_is_an_error_that_names_it(importable):
    for value in ("no_such_module:check", "checks_of_mine:no_such_function"):
        with pytest.raises(ExportError, match="the check licence_validation cannot be loaded"):
            custom_check(_entry(value))


def test_registered_checks_are_run_with_the_others(export_folder, model_folder, importable, monkeypatch, quick):
    monkeypatch.setattr(checks, "entry_points", lambda **_: [_entry("checks_of_mine:raising")])

    report = ExportHealthChecker(model_folder).run_all_checks(export_folder, ["onnx"])

    assert [check.check_name for check in report.get_failed_checks()] == ["licence_validation"]


# Models that choose a class, and rounded weights


CLASSES = ["cat", "dog", "owl"]
CNN = {"image_size": [1, 8, 8], "num_classes": 3, "channel_mean": [0.5], "channel_std": [0.25], "stage_channels": [8]}


@pytest.fixture(params=["vision_classification", "vision_multilabel"])
def pictures(tmp_path, request):
    """The folders of a model of pictures and of the pictures it is held against: of one class, or of labels."""
    torch.manual_seed(0)
    arguments, several = {"model_type": "cnn", **CNN}, request.param == "vision_multilabel"
    described = {**model_description(arguments), "task_type": request.param}
    described |= {"label_threshold": 0.4} if several else {}
    with output_folder(tmp_path / "data", stage="tokenizer", sections={}, inputs={}) as folder:
        counts = {"train": 0, "validation": 40, "test": 0}
        about = {
            "format_version": 1, "kind": "multilabel_pictures" if several else "pictures", "dtype": "uint8",
            "fit": "crop", "classes": CLASSES,
            "image_size": CNN["image_size"], "channel_mean": [0.5], "channel_std": [0.25],
            "splits": {split: {"documents": count} for split, count in counts.items()},
        }  # fmt: skip
        write_artefact(folder / "tokenizer.json", "tokenizer", about)
        chance = np.random.default_rng(0)
        for split, count in counts.items():
            chance.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8).tofile(folder / f"{split}.pictures.bin")
            labels = np.zeros((count, 3), np.uint8) if several else np.zeros(count, np.int64)
            labels.tofile(folder / f"{split}.labels.bin")
    with output_folder(tmp_path / "model", stage="train", sections={}, inputs={}) as folder:
        model = build_model(arguments).eval()
        model.head.weight.data *= 30  # so that the classes differ
        save_model(folder, model, described)
        shutil.copyfile(tmp_path / "data" / "tokenizer.json", folder / "tokenizer.json")
        write_artefact(folder / "spec.json", "spec", load_spec(SPECS / "experiment.yaml").to_dict())
    return tmp_path / "model", tmp_path / "data"


def test_an_export_of_pictures_must_choose_the_classes_of_its_model(pictures, tmp_path, quick):
    model, data = pictures

    report = export_model(model, tmp_path / "export", data=data, formats=["pytorch"])

    found = {check.check_name: check for check in report.checks}
    assert report.all_passed
    assert found["pytorch_class_agreement"].details == {"inputs": 40, "equal": 40, "least": 0.9}
    assert not {"pytorch_perplexity", "pytorch_generation_consistency"} & found.keys()


def test_other_classes_than_those_of_the_model_fail(pictures, tmp_path, resign, quick):
    model, data = pictures
    export_model(model, tmp_path / "export", data=data, formats=["pytorch"])
    weights = load_file(tmp_path / "export/pytorch/model.safetensors")
    weights["head.weight"] = weights["head.weight"].flip(0)  # as a permuted list of classes would
    save_file(weights, tmp_path / "export/pytorch/model.safetensors")
    resign(tmp_path / "export/pytorch")
    resign(tmp_path / "export")

    failed = ExportHealthChecker(model, data=data).run_all_checks(tmp_path / "export").get_failed_checks()

    assert {check.check_name for check in failed} == {"pytorch_numerical_consistency", "pytorch_class_agreement"}


def test_rounded_weights_without_held_out_text_are_a_warning(export_folder, model_folder, quick):
    report = ExportHealthChecker(model_folder).run_all_checks(export_folder, ["bf16"])

    found = {check.check_name: check for check in report.checks if check.status != "passed"}
    assert report.all_passed
    assert found.keys() == {"bf16_perplexity"}
    assert "--data" in found["bf16_perplexity"].advice


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weight: (weight / 2).round() * 2, "bf16_generation_consistency"),  # a sensitive layer in few steps
        (lambda weight: weight * 3, "bf16_perplexity"),  # surer of itself than it should be
    ],
)
def test_weights_that_are_rounded_too_far_fail_by_what_they_write(
    change, expected, export_folder, model_folder, data_folder, tmp_path, resign, quick
):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    weights = load_file(folder / "bf16/model.safetensors")
    weights["embed_tokens.weight"] = change(weights["embed_tokens.weight"])
    save_file(weights, folder / "bf16/model.safetensors")
    resign(folder / "bf16")
    resign(folder)

    failed = ExportHealthChecker(model_folder, data=data_folder).run_all_checks(folder, ["bf16"]).get_failed_checks()

    assert expected in {check.check_name for check in failed}
    assert {check.check_name for check in failed} <= {"bf16_perplexity", "bf16_generation_consistency"}
    assert all("take this format out of export.formats" in check.advice for check in failed)
