"""Health: the report follows from the checks, and everything that can go wrong with an export turns it red."""

from __future__ import annotations

import copy
import json
import shutil

import jsonschema
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline import paths
from pipeline.errors import ArtifactError, ExportError, Interrupted, Preempted
from pipeline.export.checks import Check, Outcome, Subject, _figures, checks_for
from pipeline.export.compare import Latency
from pipeline.export.formats import FORMATS, write_formats
from pipeline.export.health import check_export, markdown, raise_for_failures, report, run_check
from pipeline.files import manifest_hash, output_folder
from pipeline.models.store import load_model

pytestmark = pytest.mark.integration

SCHEMA = json.loads((paths.SCHEMAS / "v1" / "artefact" / "health_report.json").read_text())


def _status(health, name):
    return next(check["status"] for check in health["checks"] if check["check_name"] == name)


def _results(*statuses):
    found = {"check_name": "check", "message": "m", "details": {}, "duration_seconds": 0, "advice": "do"}
    return [{**found, "status": status} for status in statuses]


def _subject(model, model_folder, **changes):
    settings = {"formats": ["onnx"], "max_abs_diff": 1e-4, "generated_tokens": 4, "folder": model_folder}
    description = {"model": {}, "bos_id": 1}
    return Subject(model=model, description=description, model_folder=model_folder, **{**settings, **changes})


@pytest.fixture
def copied(export_folder, tmp_path):
    return shutil.copytree(export_folder, tmp_path / "export")


@pytest.mark.slow
def test_every_format_is_healthy(export_folder, model_folder, resign, tmp_path):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, formats=list(FORMATS))

    health = check_export(folder, model_folder)

    assert health["health_score"] == 100, [check for check in health["checks"] if check["status"] != "passed"]


def test_an_untouched_export_passes_every_check_in_every_format(health):
    total = len(checks_for(list(health["formats"])))
    assert health["all_passed"]
    assert health["summary"] == {"total": total, "passed": total, "warnings": 0, "failed": 0}
    assert health["health_score"] == 100
    assert health["recommendations"] == []
    raise_for_failures(health, where=paths.REPORTS)


def test_a_model_with_every_option_passes_every_check_in_every_format(tmp_path, make_model_folder):
    model_folder, folder = tmp_path / "model", tmp_path / "export"
    make_model_folder(model_folder, qk_norm=True, activation="relu2", separate_documents=True, tie_embeddings=False)
    formats = ["onnx", "torchscript", "pytorch"]
    settings = {"formats": formats, "opset": 18, "max_abs_diff": 1e-4, "generated_tokens": 8}
    inputs = {"model": manifest_hash(model_folder)}
    with output_folder(folder, stage="export", sections={"export": settings}, inputs=inputs) as unfinished:
        write_formats(model_folder, unfinished, formats=formats, opset=18)

    health = check_export(folder, model_folder)

    assert health["all_passed"], [check for check in health["checks"] if check["status"] != "passed"]


def test_the_report_keeps_its_schema(health):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    jsonschema.Draft202012Validator(SCHEMA).validate(health)

    unknown = {**health, "extra": 1}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(unknown)


def test_the_report_holds_the_contracted_checks(health):
    names = [check["check_name"] for check in health["checks"]]

    assert names == [check.name for check in checks_for(list(health["formats"]))]
    assert names[1:6] == [
        "architecture_validation",
        "parameter_validation",
        "shape_validation",
        "memory_requirements",
        "forward_pass_validation",
    ]
    for name in health["formats"]:
        assert {f"{name}_validation", f"{name}_numerical_consistency", f"{name}_performance"} <= {*names}


def test_every_format_says_how_far_it_is_from_the_model_on_every_shape(health):
    for name in health["formats"]:
        details = next(c["details"] for c in health["checks"] if c["check_name"] == f"{name}_numerical_consistency")
        found = details["max_abs_diff_by_shape"]
        assert details["max_abs_diff"] == max(found.values())
        assert found.keys() == {f"{batch}x{length}" for batch in (1, 2, 7) for length in (1, 2, 12, 13, 24)}


def test_a_flipped_byte_in_an_export_turns_the_report_red_and_names_the_file(copied, model_folder, resign):
    resign(copied, formats=["onnx"])
    path = copied / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    found = check_export(copied, model_folder)

    assert not found["all_passed"]
    assert _status(found, "export_integrity") == "failed"
    with pytest.raises(ExportError, match=r"export_integrity: .*model\.onnx: the file is not the one"):
        raise_for_failures(found, where=paths.REPORTS)


def test_a_changed_weight_under_a_fitting_manifest_fails_with_format_shape_and_difference(copied, model_folder, resign):
    model = onnx.load(copied / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [64, 32])
    changed = numpy_helper.to_array(weight).copy()
    changed[7] += 0.01
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, copied / "model.onnx")
    resign(copied, formats=["onnx"])

    found = check_export(copied, model_folder)

    assert _status(found, "export_integrity") == "passed"
    assert _status(found, "onnx_numerical_consistency") == "failed"
    with pytest.raises(ExportError) as caught:
        raise_for_failures(found, where=paths.REPORTS)
    assert "onnx: the largest difference of a logit is 0." in caught.value.message
    assert "at batch" in caught.value.message
    assert caught.value.exit_code == 6


def test_a_limit_that_no_arithmetic_keeps_fails_though_the_tokens_are_equal(export_folder, model_folder):
    model, _ = load_model(model_folder)

    with _subject(model, model_folder, folder=export_folder, max_abs_diff=1e-12) as subject:
        found = {check.name: run_check(check, subject) for check in checks_for(["onnx"])[6:9]}

    assert found["onnx_numerical_consistency"]["status"] == "failed"
    assert "(limit 1e-12)" in found["onnx_numerical_consistency"]["message"]
    assert found["onnx_generation_consistency"]["status"] == "passed"


def test_a_missing_file_is_a_warning_of_its_own_and_fails_what_needs_it(model_folder, tmp_path):
    model, _ = load_model(model_folder)

    with _subject(model, model_folder, folder=tmp_path) as subject:
        found = {check.name: run_check(check, subject)["status"] for check in checks_for(["onnx"])[6:9]}

    assert list(found.values()) == ["warning", "failed", "failed"]


def test_tokens_that_part_in_a_tie_are_a_warning_and_elsewhere_a_failure(export_folder, model_folder, make_model):
    other = make_model(num_kv_heads=4)  # not the model that was exported, so that the tokens do part
    found = []

    for limit in (1e-4, 1e3):
        with _subject(other, model_folder, folder=export_folder, max_abs_diff=limit, generated_tokens=20) as subject:
            found.append(run_check(checks_for(["onnx"])[8], subject)["status"])

    assert found == ["failed", "warning"]


def test_an_export_of_another_model_is_refused(export_folder, tmp_path, make_model_folder):
    other = make_model_folder(tmp_path / "other", d_ff=32)
    model, _ = load_model(other)

    with _subject(model, other, folder=export_folder) as subject:
        result = run_check(checks_for([])[0], subject)

    assert result["status"] == "failed"
    assert "another model" in result["message"]


def test_a_folder_that_is_not_an_export_is_refused(model_folder, tmp_path):
    with pytest.raises(ExportError, match="not an export"):
        check_export(model_folder, model_folder)
    with pytest.raises(ArtifactError, match="missing"):
        check_export(tmp_path, model_folder)


def _model_check(name, model, model_folder):
    check = next(check for check in checks_for([]) if check.name == name)
    with _subject(model, model_folder) as subject:
        return run_check(check, subject)


def test_a_weight_that_is_not_a_number_fails_and_is_named(make_model, model_folder):
    model = make_model()
    model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan

    found = _model_check("parameter_validation", model, model_folder)

    assert found["status"] == "failed"
    assert "layers.1.mlp.up_proj.weight" in found["message"]
    assert _model_check("forward_pass_validation", model, model_folder)["status"] == "failed"


def test_a_matrix_of_zeros_is_a_warning(make_model, model_folder):
    model = make_model()
    model.layers[0].self_attn.q_proj.weight.data.zero_()

    found = _model_check("parameter_validation", model, model_folder)

    assert (found["status"], "q_proj" in found["message"]) == ("warning", True)


def test_a_model_whose_tokens_see_the_future_fails(make_model, model_folder):
    model = make_model()
    model.mask.zero_()

    found = _model_check("forward_pass_validation", model, model_folder)

    assert found["status"] == "failed"
    assert "sees the one after it" in found["message"]


def test_a_model_too_small_for_its_tokenizer_fails(make_model, model_folder):
    found = _model_check("architecture_validation", make_model(vocab_size=63), model_folder)

    assert found["status"] == "failed"
    assert "64 pieces" in found["message"]


def test_a_large_model_gets_a_memory_warning(make_model, model_folder):
    with torch.device("meta"):  # 4096 x 40,000 numbers of 4 bytes, none of them in memory
        model = make_model(vocab_size=40_000, d_model=4096, num_layers=1)

    assert _model_check("memory_requirements", model, model_folder)["status"] == "warning"


def test_summary_and_score_always_follow_from_the_checks():
    found = report(_results("passed", "passed", "warning", "failed"), model_name="m")

    assert found["summary"] == {"total": 4, "passed": 2, "warnings": 1, "failed": 1}
    assert found["health_score"] == 62.5
    assert not found["all_passed"]
    assert found["recommendations"] == ["do"]


def test_warnings_alone_pass_with_half_the_score():
    found = report(_results("warning", "warning"), model_name="m")

    assert (found["all_passed"], found["health_score"]) == (True, 50)


def test_no_checks_is_not_a_pass():
    found = report([], model_name="m")

    assert (found["all_passed"], found["health_score"]) == (False, 0)
    with pytest.raises(ExportError, match="no check was run"):
        raise_for_failures(found, where=paths.REPORTS)


def test_a_check_that_raises_for_the_user_is_a_failed_check(make_model, model_folder):
    def refuse(_subject):
        raise ArtifactError("gone", where="x.onnx", hint="make it again")

    with _subject(make_model(), model_folder) as subject:
        result = run_check(Check("refusal", refuse), subject)

    assert (result["status"], result["message"], result["advice"]) == ("failed", "x.onnx: gone", "make it again")


@pytest.mark.parametrize("stop", [Preempted, Interrupted, KeyboardInterrupt])
def test_a_request_to_stop_is_not_a_failed_check(stop, make_model, model_folder):
    def stopped(_subject):
        raise stop("now")

    with _subject(make_model(), model_folder) as subject, pytest.raises(stop):
        run_check(Check("stopped", stopped), subject)


def test_a_format_that_could_not_be_measured_is_shown_as_such():
    found = _results("failed", "failed", "failed", "failed")
    kinds = ("validation", "numerical_consistency", "generation_consistency", "performance")
    named = [{**one, "check_name": f"onnx_{kind}"} for one, kind in zip(found, kinds, strict=True)]

    health = report(named, model_name="m")

    assert set(health["formats"]["onnx"].values()) == {None}
    assert "| onnx | not measured |" in markdown(health)


def test_a_check_that_passes_says_what_it_found(make_model, model_folder):
    with _subject(make_model(), model_folder) as subject:
        result = run_check(Check("fine", lambda _: Outcome("passed", "all well", {"n": 1})), subject)

    assert (result["status"], result["message"], result["details"]) == ("passed", "all well", {"n": 1})
    assert result["duration_seconds"] >= 0


def test_speedup_is_the_ratio_of_the_medians():
    figures = _figures(Latency(64, ours=[0.02] * 50, theirs=[0.01] * 49 + [5.0]))

    assert figures["speedup"] == 2
    assert (figures["p50_ms"], figures["pytorch_p50_ms"], figures["runs"]) == (10, 20, 50)


def test_the_page_for_people_shows_verdict_formats_and_every_check(health):
    page = markdown(health)

    assert page.startswith("# Export of tiny: sound\n")
    for check in health["checks"]:
        assert f"| {check['check_name']} |" in page
    assert page.count("| onnx |") == 1


def test_the_page_of_a_red_report_says_what_to_do(health):
    red = copy.deepcopy(health)
    red["checks"] = [{**check, "status": "failed", "message": "a | b"} for check in red["checks"]]
    red |= {"formats": {}, "all_passed": False, "recommendations": ["build it again"]}

    page = markdown(red)

    assert "not sound" in page
    assert "* build it again" in page
    assert "a \\| b" in page
    assert "## Formats" not in page
