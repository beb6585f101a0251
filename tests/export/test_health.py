"""Health: the report follows from the checks, and everything that can go wrong with an export turns it red."""

from __future__ import annotations

import copy
import json
import shutil

import jsonschema
import pytest
import torch

from pipeline import paths
from pipeline.errors import ArtifactError, ExportError, Interrupted, Preempted
from pipeline.export import checks
from pipeline.export.checks import Check, checks_for
from pipeline.export.compare import Latency
from pipeline.export.format_checks import _figures
from pipeline.export.formats import FORMATS, write_formats
from pipeline.export.health import ExportHealthChecker, export_settings, run_check
from pipeline.export.report import CheckResult, ExportHealthReport, markdown
from pipeline.export.subject import Outcome, Subject
from pipeline.files import manifest_hash, output_folder, read_artefact
from pipeline.models.store import load_model

pytestmark = pytest.mark.integration

SCHEMA = json.loads((paths.SCHEMAS / "v1" / "artefact" / "health_report.json").read_text())


def _status(health, name):
    return next(check["status"] for check in health["checks"] if check["check_name"] == name)


def _report(*statuses, names=()):
    found = ExportHealthReport("m")
    for number, status in enumerate(statuses):
        name = names[number] if names else "check"
        found.add_check(CheckResult(name, status, "m", {}, 0.0, "do"))
    return found


def _subject(model, model_folder, *, folder=None, **settings):
    folder = folder or model_folder
    manifest = json.loads((folder / "manifest.json").read_text()) if (folder / "manifest.json").exists() else {}
    return Subject(
        model=model,
        description={"model": {}, "bos_id": 1},
        model_folder=model_folder,
        folder=folder,
        manifest=manifest,
        settings=export_settings({"formats": ["onnx"], "generated_tokens": 4, **settings}),
    )


def _named(subject, *names):
    """What some checks of an export found."""
    return {check.name: run_check(check, subject) for check in checks_for(subject) if check.name in names}


ONNX = ("onnx_validation", "onnx_numerical_consistency", "onnx_generation_consistency")


@pytest.fixture
def copied(export_folder, tmp_path):
    return shutil.copytree(export_folder, tmp_path / "export")


@pytest.mark.slow
def test_every_format_is_healthy(export_folder, model_folder, data_folder, resign, tmp_path):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, formats=[name for name, row in FORMATS.items() if row.needs is None])

    report = ExportHealthChecker(model_folder, data=data_folder).run_all_checks(folder)

    assert report.health_score == 100, [check for check in report.checks if check.status != "passed"]


def test_an_untouched_export_passes_every_check_in_every_format(health):
    assert health["all_passed"]
    assert health["summary"]["passed"] == health["summary"]["total"] == 7 + 5 * len(health["formats"])
    assert health["health_score"] == 100
    assert health["recommendations"] == []


def test_a_model_with_every_option_passes_every_check_in_every_format(tmp_path, make_model_folder, data_folder):
    model_folder, folder = tmp_path / "model", tmp_path / "export"
    options = {"qk_norm": True, "activation": "relu2", "short_conv": 4, "separate_documents": True}
    make_model_folder(model_folder, **options, tie_embeddings=False)
    formats = ["onnx", "onnx_cache", "torchscript", "pytorch"]
    settings = {"formats": formats, "opset": 18, "max_abs_diff": 1e-4, "generated_tokens": 8}
    inputs = {"model": manifest_hash(model_folder)}
    with output_folder(folder, stage="export", sections={"export": settings}, inputs=inputs) as unfinished:
        write_formats(model_folder, unfinished, formats=formats, opset=18)

    report = ExportHealthChecker(model_folder, data=data_folder).run_all_checks(folder)

    assert report.health_score == 100, [check for check in report.checks if check.status != "passed"]


def test_the_report_keeps_its_schema(health):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    jsonschema.Draft202012Validator(SCHEMA).validate(health)

    unknown = {**health, "extra": 1}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(unknown)


def test_the_report_holds_the_contracted_checks(health):
    names = [check["check_name"] for check in health["checks"]]

    assert names[:7] == [
        "export_integrity",
        "tokenizer_validation",
        "architecture_validation",
        "parameter_validation",
        "shape_validation",
        "memory_requirements",
        "forward_pass_validation",
    ]
    for name in health["formats"]:
        kinds = ("validation", "numerical_consistency", "generation_consistency", "perplexity", "performance")
        assert {f"{name}_{kind}" for kind in kinds} <= {*names}
    assert {row.stage for row in (*checks.MODEL_CHECKS, *checks.FORMAT_CHECKS)} == {
        "pre-export",
        "format",
        "post-export",
    }


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

    report = ExportHealthChecker(model_folder).run_all_checks(copied)

    assert {check.check_name for check in report.get_failed_checks()} >= {"export_integrity", "onnx_validation"}
    with pytest.raises(ExportError, match=r"export_integrity: .*model\.onnx: the file is not the one"):
        report.raise_for_failures(where=paths.REPORTS)


def test_a_limit_that_no_arithmetic_keeps_is_a_warning_while_the_tokens_are_equal(export_folder, model_folder):
    model, _ = load_model(model_folder)

    with _subject(model, model_folder, folder=export_folder, max_abs_diff=1e-12) as subject:
        found = _named(subject, *ONNX)

    assert found["onnx_numerical_consistency"].status == "warning"
    assert "(limit 1e-12)" in found["onnx_numerical_consistency"].message
    assert found["onnx_generation_consistency"].status == "passed"


def test_a_missing_file_is_a_warning_of_its_own_and_fails_what_needs_it(model_folder, tmp_path):
    model, _ = load_model(model_folder)

    with _subject(model, model_folder, folder=tmp_path) as subject:
        found = _named(subject, *ONNX)

    assert [found[name].status for name in ONNX] == ["warning", "failed", "failed"]


def test_tokens_that_part_in_a_tie_are_a_warning_and_elsewhere_a_failure(export_folder, model_folder, make_model):
    other = make_model(num_kv_heads=4)  # not the model that was exported, so that the tokens do part
    found = []

    for limit in (1e-4, 1.0):
        with _subject(other, model_folder, folder=export_folder, max_abs_diff=limit, generated_tokens=20) as subject:
            found.append(_named(subject, ONNX[2])[ONNX[2]].status)

    assert found == ["failed", "warning"]


def test_an_export_of_another_model_is_refused(export_folder, tmp_path, make_model_folder):
    other = make_model_folder(tmp_path / "other", d_ff=32)
    model, _ = load_model(other)

    with _subject(model, other, folder=export_folder) as subject:
        result = _named(subject, "export_integrity")["export_integrity"]

    assert result.status == "failed"
    assert "another model" in result.message


def test_a_folder_that_is_not_an_export_is_refused(model_folder, tmp_path):
    with pytest.raises(ExportError, match="not an export"):
        ExportHealthChecker(model_folder).run_all_checks(model_folder)
    with pytest.raises(ArtifactError, match="missing"):
        ExportHealthChecker(model_folder).run_all_checks(tmp_path)


def _model_check(name, model, model_folder):
    with _subject(model, model_folder, formats=["pytorch"]) as subject:
        return _named(subject, name)[name].to_dict()


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


def test_logits_of_another_shape_than_the_model_says_fail(make_model, model_folder):
    model = make_model()
    model.lm_head = torch.nn.Linear(32, 63, bias=False)

    found = _model_check("shape_validation", model, model_folder)

    assert (found["status"], found["message"]) == ("failed", "batch 1 x length 1 gives (1, 1, 63)")


def test_a_model_too_small_for_its_tokenizer_fails(make_model, model_folder):
    found = _model_check("architecture_validation", make_model(vocab_size=63), model_folder)

    assert found["status"] == "failed"
    assert "64 pieces" in found["message"]


def test_a_large_model_gets_a_memory_warning(make_model, model_folder):
    with torch.device("meta"):  # 4096 x 40,000 numbers of 4 bytes, none of them in memory
        model = make_model(vocab_size=40_000, d_model=4096, num_layers=1)

    assert _model_check("memory_requirements", model, model_folder)["status"] == "warning"


def test_summary_and_score_always_follow_from_the_checks():
    report = _report("passed", "passed", "warning", "failed")

    assert report.summary == {"total": 4, "passed": 2, "warnings": 1, "failed": 1}
    assert report.health_score == 62.5
    assert not report.all_passed
    assert report.recommendations == ["do"]
    assert [check.status for check in report.get_failed_checks()] == ["failed"]

    report.add_check(CheckResult("late", "failed", "m"))

    assert report.summary == {"total": 5, "passed": 2, "warnings": 1, "failed": 2}
    assert report.health_score == 50


def test_warnings_alone_pass_with_half_the_score():
    report = _report("warning", "warning")

    assert (report.all_passed, report.health_score) == (True, 50)


def test_no_checks_is_not_a_pass():
    report = ExportHealthReport("m")

    assert (report.all_passed, report.health_score) == (False, 0)
    with pytest.raises(ExportError, match="no check was run"):
        report.raise_for_failures(where=paths.REPORTS)


def test_a_report_is_saved_as_its_schema_says_and_as_a_page(tmp_path):
    report = _report("passed", "failed")

    report.save_json(tmp_path / "health_report.json")
    report.save_markdown(tmp_path / "health_report.md")

    assert read_artefact(tmp_path / "health_report.json", "health_report") == report.to_dict()
    assert (tmp_path / "health_report.md").read_text() == markdown(report.to_dict())


def test_what_is_timed_waits_for_processes_that_were_started_ahead(make_model, model_folder):
    with _subject(make_model(), model_folder) as subject:
        subject.start_source()
        assert not subject._waiting[model_folder]._imported

        subject.settle()

        assert subject._waiting[model_folder]._imported


def test_a_process_started_ahead_that_dies_fails_the_checks_of_its_own_format_only(export_folder, model_folder):
    model, description = load_model(model_folder)
    with _subject(model, model_folder, folder=export_folder, formats=["onnx", "pytorch"]) as subject:
        subject.description = description
        found = {}
        for check in checks_for(subject):
            ahead = subject._waiting.get(subject.path("pytorch"))
            if ahead is not None:
                ahead._process.kill()
            found[check.name] = run_check(check, subject).status

    assert found["onnx_performance"] == found["onnx_numerical_consistency"] == "passed"
    assert found["pytorch_performance"] == found["pytorch_numerical_consistency"] == "failed"


def test_a_check_that_raises_for_the_user_is_a_failed_check(make_model, model_folder):
    def refuse(_subject):
        raise ArtifactError("gone", where="x.onnx", hint="make it again")

    with _subject(make_model(), model_folder) as subject:
        result = run_check(Check("refusal", refuse), subject)

    assert (result.status, result.message, result.advice) == ("failed", "x.onnx: gone", "make it again")


@pytest.mark.parametrize("stop", [Preempted, Interrupted, KeyboardInterrupt])
def test_a_request_to_stop_is_not_a_failed_check(stop, make_model, model_folder):
    def stopped(_subject):
        raise stop("now")

    with _subject(make_model(), model_folder) as subject, pytest.raises(stop):
        run_check(Check("stopped", stopped), subject)


def test_a_format_that_could_not_be_measured_is_shown_as_such():
    kinds = ("validation", "numerical_consistency", "generation_consistency", "performance")

    health = _report(*4 * ["failed"], names=[f"onnx_{kind}" for kind in kinds]).to_dict()

    assert set(health["formats"]["onnx"].values()) == {None}
    assert "| onnx | not measured |" in markdown(health)


def test_a_check_that_passes_says_what_it_found(make_model, model_folder):
    with _subject(make_model(), model_folder) as subject:
        result = run_check(Check("fine", lambda _: Outcome("passed", "all well", {"n": 1})), subject)

    assert (result.status, result.message, result.details) == ("passed", "all well", {"n": 1})
    assert result.duration_seconds >= 0


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
