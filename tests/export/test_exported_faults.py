"""Real faults in really exported files: each turns the certificate red, and the right check names it."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from pipeline.data.tokenizer import train_tokenizer
from pipeline.errors import ExportError
from pipeline.export import checks
from pipeline.export.formats import FORMATS, Source
from pipeline.export.health import ExportHealthChecker
from pipeline.export.making import export_model
from pipeline.files import write_manifest
from pipeline.models.store import load_model

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _without_timings(monkeypatch):
    """Latency is never judged, and takes most of the time."""
    kept = tuple(row for row in checks.FORMAT_CHECKS if row.name != "performance")
    monkeypatch.setattr(checks, "FORMAT_CHECKS", kept)


@pytest.fixture
def exported(export_folder, tmp_path, resign):
    """A sound export of one format, to be damaged: (format) → folder."""

    def copied(name):
        folder = shutil.copytree(export_folder, tmp_path / "export")
        resign(folder, formats=[name])
        return folder

    return copied


def failed(model_folder, folder, **given):
    """The names of the checks that fail, with what they say."""
    report = ExportHealthChecker(model_folder, **given).run_all_checks(folder)
    assert report.all_passed == (not report.get_failed_checks())
    return {check.check_name: check.message for check in report.get_failed_checks()}


def test_an_export_without_a_fault_is_green(exported, model_folder):
    assert failed(model_folder, exported("onnx")) == {}


def test_one_corrupted_weight_is_seen_in_the_logits_and_on_held_out_text(exported, model_folder, data_folder, resign):
    folder = exported("onnx")
    graph = onnx.load(folder / "model.onnx")
    weight = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [64, 32])
    values = copy.copy(numpy_helper.to_array(weight))
    values[7, 3] += 5.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(graph, folder / "model.onnx")
    resign(folder)

    found = failed(model_folder, folder, data=data_folder)

    assert "onnx_numerical_consistency" in found
    assert found.keys() <= {"onnx_numerical_consistency", "onnx_generation_consistency", "onnx_perplexity"}
    assert "at batch" in found["onnx_numerical_consistency"]


def test_a_frozen_axis_is_seen_in_the_structure_and_by_running_it(exported, model_folder, resign):
    folder = exported("onnx")
    graph = onnx.load(folder / "model.onnx")
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2  # the batch of the traced example
    onnx.save(graph, folder / "model.onnx")
    resign(folder)

    found = failed(model_folder, folder)

    assert found.keys() == {"onnx_validation", "onnx_numerical_consistency", "onnx_generation_consistency"}
    assert "other shapes than they should" in found["onnx_validation"]


def fix_past(graph):
    for value in graph.input:
        if value.name.startswith("past_key_values."):
            value.type.tensor_type.shape.dim[2].dim_value = 8


def derive_lengths(graph):
    """As files of earlier versions have it, whose graph found out by itself how long the past is."""
    for value in [value for value in graph.input if value.name in ("seqlens_k", "total_sequence_length")]:
        graph.input.remove(value)
        graph.initializer.append(numpy_helper.from_array(np.array([3], dtype=np.int32), value.name))


@pytest.mark.parametrize("change", [fix_past, derive_lengths])
def test_a_graph_that_the_runner_cannot_use_is_seen_in_the_structure(change, exported, model_folder, resign):
    folder = exported("onnx_cache")
    graph = onnx.load(folder / "model.cache.onnx")
    change(graph.graph)
    onnx.save(graph, folder / "model.cache.onnx")
    resign(folder)

    assert "other shapes than they should" in failed(model_folder, folder)["onnx_cache_validation"]


@pytest.mark.parametrize(
    ("change", "status"), [(1e-7, "passed"), (1e-4, "warning"), (1.0, "failed")], ids=["equal", "close", "apart"]
)
def test_what_pytorch_runs_must_compute_the_same_to_a_millionth(change, status, exported, model_folder, resign):
    folder = exported("pytorch")
    weights = load_file(folder / "pytorch/model.safetensors")
    weights["norm.weight"][0] += change
    save_file(weights, folder / "pytorch/model.safetensors")
    resign(folder / "pytorch")
    resign(folder)

    checks_ = ExportHealthChecker(model_folder).run_all_checks(folder).checks

    assert {one.check_name: one.status for one in checks_}["pytorch_numerical_consistency"] == status


def test_another_opset_than_the_spec_asks_for_is_seen_though_it_computes_the_same(exported, model_folder, resign):
    folder = exported("onnx")
    FORMATS["onnx"].write(Source(load_model(model_folder)[0], model_folder, 20), folder / "model.onnx")
    resign(folder)

    found = failed(model_folder, folder)

    assert found == {"onnx_validation": "model.onnx is of opset 20, the spec asks for 18"}


def test_a_swapped_tokenizer_is_seen_though_the_logits_are_right(exported, model_folder, resign):
    folder = exported("onnx")
    other = train_tokenizer(["a bird in the hand is worth two in the bush.\n" * 20], tokenizer_type="bpe",
                            vocab_size=64, byte_fallback=False)  # fmt: skip
    (folder / "tokenizer.model").write_bytes(other)
    resign(folder)

    found = failed(model_folder, folder)

    assert found == {"tokenizer_validation": "tokenizer.model: not what the model was trained with"}


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_a_truncated_file_is_seen_whether_or_not_the_manifest_was_written_after_it(
    name, exported, model_folder, resign
):
    folder = exported(name)
    path = folder / FORMATS[name].file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    before = failed(model_folder, folder)
    resign(folder)
    after = failed(model_folder, folder)

    assert {"export_integrity", f"{name}_validation", f"{name}_numerical_consistency"} <= before.keys()
    assert "not the bytes that were written" in before[f"{name}_validation"]
    assert {f"{name}_validation", f"{name}_numerical_consistency"} <= after.keys()
    assert "export_integrity" not in after


def test_a_stale_manifest_is_seen_though_the_newer_file_is_sound(exported, model_folder):
    folder = exported("onnx")
    graph = onnx.load(folder / "model.onnx")
    graph.producer_version = "a later one"
    onnx.save(graph, folder / "model.onnx")

    found = failed(model_folder, folder)

    assert found.keys() == {"export_integrity", "onnx_validation"}
    assert "model.onnx" in found["export_integrity"]


def test_an_export_of_an_earlier_model_is_seen(exported, tmp_path, make_model_folder):
    retrained = make_model_folder(tmp_path / "retrained", num_kv_heads=4)

    found = failed(retrained, exported("onnx"))

    assert {"export_integrity", "onnx_numerical_consistency"} <= found.keys()
    assert "another model" in found["export_integrity"]


@pytest.fixture
def sensitive(tmp_path, make_model_folder):
    """A model with feed-forward layers that 8 bits cannot hold: one weight of each row is far larger than the others.

    It computes what the model computes from which it is made: the norm before gives that feature as much less.
    """
    folder = make_model_folder(tmp_path / "sensitive")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("post_attention_layernorm.weight"):
            weights[name][0] /= 4096
        elif name.endswith(("up_proj.weight", "gate_proj.weight")):
            weights[name][:, 0] *= 4096  # the steps of a row grow with its largest weight
    save_file(weights, folder / "model.safetensors")
    write_manifest(folder, stage="train", sections={}, inputs={})
    return folder


def test_8_bits_for_an_over_sensitive_layer_are_seen_in_what_is_written(sensitive, data_folder, tmp_path):
    told = []

    with pytest.raises(ExportError, match="int8_"):
        export_model(
            sensitive, tmp_path / "export", data=data_folder, tell=told.append, formats=["int8"], quantization="dynamic"
        )

    found = {check.check_name for check in told[0].get_failed_checks()}
    assert found
    assert found <= {"int8_generation_consistency", "int8_perplexity"}
