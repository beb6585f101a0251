"""Formats: what is written is the model, on every shape, for every kind of model."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from described import model_description

from pipeline.errors import ArtifactError, ExportError
from pipeline.export.compare import comparison_shapes, random_inputs
from pipeline.export.formats import FORMATS, write_formats
from pipeline.export.runner import Graph
from pipeline.export.source import Source, traced_length
from pipeline.models import transformer
from pipeline.models.store import load_model, save_model
from pipeline.models.table import build_model
from pipeline.paths import SCHEMAS
from pipeline.spec.carried import CARRIES

pytestmark = pytest.mark.integration

KINDS = {
    "llama, tied, grouped": {},
    "gpt, untied": {"model_type": "gpt", "tie_embeddings": False, "num_kv_heads": None, "num_layers": 1},
    "llama, untied": {"tie_embeddings": False, "num_kv_heads": None, "num_layers": 1},
    "gpt, tied, grouped": {"model_type": "gpt", "num_kv_heads": 1, "num_layers": 1},
    "shortest sequence": {"max_seq_len": 2, "num_layers": 1},
    "sequence of three": {"max_seq_len": 3, "num_layers": 1},
    "short convolutions": {"short_conv": 4},
}
# Of these, too, the graph that generates is written; its node for attention takes heads of 16 features or a multiple.
GENERATING = {
    **KINDS,
    "heads of 16": {"num_heads": 2, "num_kv_heads": 1},
    "heads of 6": {"d_model": 24, "num_heads": 4},
    "heads of 20": {"d_model": 40, "num_heads": 2, "num_kv_heads": 1, "qk_norm": True},
    "normalized heads": {"num_heads": 2, "num_kv_heads": 1, "qk_norm": True, "norm_epsilon": 1e-3},
    "normalized heads of 8": {"qk_norm": True, "norm_epsilon": 1e-3},
    "gpt, heads of 5": {"model_type": "gpt", "d_model": 20, "num_kv_heads": None, "qk_norm": True},
    "no gate": {"activation": "relu2", "rope_theta": 500.0},
    "gelu": {"activation": "gelu"},
    "gpt with a gate": {"model_type": "gpt", "activation": "swiglu"},
    "documents apart": {"separate_documents": True},
    "gpt, documents apart": {"model_type": "gpt", "separate_documents": True},
    "gpt, short convolutions": {"model_type": "gpt", "short_conv": 2},
}


def _assert_same(model, path, name):
    run = FORMATS[name].open(path, 1)
    for batch, length in comparison_shapes(model.max_seq_len):
        ids = random_inputs(model, batch, length, one_document=FORMATS[name].one_document)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(run(ids), expected, rtol=0, atol=1e-5, err_msg=f"{batch} x {length}")


def test_an_onnx_file_has_the_logits_of_its_llama_on_every_shape(export_folder, model_folder):
    _assert_same(load_model(model_folder)[0], export_folder / "model.onnx", "onnx")


def test_an_onnx_file_has_the_logits_of_its_gpt_on_every_shape(make_model, tmp_path):
    model = make_model(**KINDS["gpt, untied"])

    FORMATS["onnx"].write(Source(model, tmp_path, 18), tmp_path / "model.onnx")

    _assert_same(model, tmp_path / "model.onnx", "onnx")


@pytest.mark.parametrize("name", ["onnx_cache", "int8", "torch_export", "fp16", "bf16"])
def test_an_export_has_the_logits_of_its_model_on_every_shape(name, export_folder, model_folder):
    model, _ = load_model(model_folder)
    run = FORMATS[name].open(export_folder / FORMATS[name].file, 1)
    largest = {"int8": 1.0, "fp16": 2e-2, "bf16": 2e-1}.get(name, 1e-5)  # of logits around 10

    for batch, length in comparison_shapes(model.max_seq_len):
        ids = random_inputs(model, batch, length)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(run(ids), expected, rtol=0, atol=largest, err_msg=f"{batch} x {length}")


@pytest.mark.parametrize("changes", [{}, {"short_conv": 4}, {"model_type": "gpt", "short_conv": 7}])
def test_what_is_kept_of_a_step_serves_the_next_wherever_a_text_is_cut(changes, make_model, tmp_path):
    model = make_model(**changes)
    FORMATS["onnx_cache"].write(Source(model, tmp_path, 18), tmp_path / "model.onnx")
    graph = Graph(tmp_path / "model.onnx")
    for batch, length in [(1, 24), (2, 13), (7, 2)]:
        ids = random_inputs(model, batch, length)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        for cut in range(1, length):
            steps = [0, cut, length] if batch == 1 else [0, cut, *range(cut + 1, length + 1)]
            cache = graph.cache(batch)

            found = np.concatenate([graph.step(ids[:, start:end], cache) for start, end in pairwise(steps)], axis=1)

            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=f"{batch} x {length} cut at {cut}")


@pytest.mark.parametrize("kind", GENERATING)
def test_the_graph_that_generates_has_the_logits_of_every_kind_of_model(kind, make_model, tmp_path):
    model = make_model(**GENERATING[kind])

    FORMATS["onnx_cache"].write(Source(model, tmp_path, 18), tmp_path / "model.onnx")

    FORMATS["onnx_cache"].inspect(tmp_path / "model.onnx")
    _assert_same(model, tmp_path / "model.onnx", "onnx_cache")


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23])
def test_the_graph_that_generates_is_of_the_opset_that_the_spec_asks_for(opset, make_model, tmp_path):
    model = make_model(model_type="gpt", qk_norm=True)

    FORMATS["onnx_cache"].write(Source(model, tmp_path, opset), tmp_path / "model.onnx")

    assert FORMATS["onnx_cache"].inspect(tmp_path / "model.onnx")["opset"] == opset
    _assert_same(model, tmp_path / "model.onnx", "onnx_cache")


def test_a_step_beyond_the_longest_text_is_refused(export_folder):
    graph = Graph(export_folder / "model.cache.onnx")
    cache = graph.cache()
    graph.step(np.zeros((1, 24), dtype=np.int64), cache)

    with pytest.raises(ValueError, match="25 tokens are more than 24, which the model can see"):
        graph.step(np.zeros((1, 1), dtype=np.int64), cache)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind, changes in KINDS.items() if changes.get("max_seq_len", 24) > 3])
def test_every_kind_of_model_is_traced_whole(kind, make_model, tmp_path):
    model = make_model(**KINDS[kind])

    FORMATS["torch_export"].write(Source(model, tmp_path, 18), tmp_path / "model")

    FORMATS["torch_export"].inspect(tmp_path / "model")
    _assert_same(model, tmp_path / "model", "torch_export")


def test_a_weight_that_float16_cannot_hold_is_refused_with_what_can(make_model, model_folder, tmp_path):
    model = make_model()
    model.layers[0].mlp.up_proj.weight.data[0, 0] = 70_000.0

    with pytest.raises(ExportError, match="70,000 is too large for float16") as caught:
        FORMATS["fp16"].write(Source(model, model_folder, 18), tmp_path / "fp16")

    assert "bf16" in caught.value.hint
    assert not (tmp_path / "fp16").exists()


def test_weights_in_16_bits_take_half_the_room(export_folder):
    sizes = {name: (export_folder / name / "model.safetensors").stat().st_size for name in ("pytorch", "fp16", "bf16")}

    assert sizes["fp16"] < 0.6 * sizes["pytorch"]
    assert sizes["bf16"] < 0.6 * sizes["pytorch"]


@pytest.mark.parametrize("quantization", ["dynamic", "static"])
def test_8_bits_take_less_room_and_keep_the_likeliest_token_mostly(quantization, make_model, model_folder, tmp_path):
    model = make_model(vocab_size=1024, num_layers=1)
    path = tmp_path / "model.int8.onnx"

    FORMATS["int8"].write(Source(model, model_folder, 18, quantization), path)

    assert FORMATS["int8"].inspect(path)["quantized_weights"] == 6  # embedding, q k v, o, gate, up, down
    assert path.stat().st_size < 0.6 * sum(parameter.nbytes for parameter in model.parameters())
    ids = random_inputs(model, 7, 24)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).argmax(-1).numpy()
    assert (FORMATS["int8"].open(path, 1)(ids).argmax(-1) == expected).mean() > 0.8


SHAPE = {"vocab_size": 64, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "max_seq_len": 24}
CHOOSING = {
    "vision_classification": {
        "model_type": "cnn", "image_size": [1, 8, 8], "stage_channels": [8, 16], "channel_mean": [0.5],
        "channel_std": [0.25],
    },
    "text_classification": {"model_type": "llama", **SHAPE, "pad_id": 3},
}  # fmt: skip


@pytest.mark.parametrize("task", CHOOSING)
def test_8_bits_of_a_model_that_chooses_a_class_give_nearly_its_logits(task, tmp_path):
    torch.manual_seed(0)
    arguments = {**CHOOSING[task], "num_classes": 3}
    model, path = build_model(arguments).eval(), tmp_path / "model.int8.onnx"
    described = {**model_description(arguments), "task_type": task}
    save_model(tmp_path, model, described)

    FORMATS["int8"].write(Source(model, tmp_path, 18, "dynamic"), path)

    inputs = random_inputs(model, 7, 24)
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    assert FORMATS["int8"].inspect(path)["quantized_weights"] >= 3
    assert np.abs(FORMATS["int8"].open(path, 1)(inputs) - expected).max() < 0.1 * np.ptp(expected)


def test_8_bits_without_a_way_to_make_them_are_refused(make_model, model_folder, tmp_path):
    with pytest.raises(ExportError, match="how to quantize") as caught:
        FORMATS["int8"].write(Source(make_model(), model_folder, 18), tmp_path / "model.int8.onnx")

    assert "export.quantization" in caught.value.hint


def test_a_graph_in_32_bits_is_no_8_bit_format(export_folder):
    with pytest.raises(ExportError, match="no weight in it has 8 bits"):
        FORMATS["int8"].inspect(export_folder / "model.cache.onnx")


def test_every_format_of_the_spec_has_a_row_and_every_row_is_in_the_spec():
    schema = json.loads((SCHEMAS / "v1" / "section" / "export.json").read_text(encoding="utf-8"))

    assert schema["properties"]["formats"]["items"]["enum"] == list(FORMATS)
    assert {*CARRIES} <= {*FORMATS}


def test_a_format_that_cannot_carry_a_trained_model_is_refused_before_anything_is_written(make_model_folder, tmp_path):
    folder = make_model_folder(tmp_path / "model", activation="gelu")
    (tmp_path / "export").mkdir()

    with pytest.raises(ExportError, match=r"gguf cannot carry this model: .* which have a gate"):
        write_formats(folder, tmp_path / "export", formats=["pytorch", "gguf"], opset=18)

    assert not list((tmp_path / "export").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_every_opset_of_the_spec_has_the_logits_of_its_model(kind, opset, make_model, tmp_path):
    model = make_model(**KINDS[kind])

    FORMATS["onnx"].write(Source(model, tmp_path, opset), tmp_path / "model.onnx")

    assert FORMATS["onnx"].inspect(tmp_path / "model.onnx")["opset"] == opset
    _assert_same(model, tmp_path / "model.onnx", "onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_torchscript_file_has_the_logits_of_its_model_on_every_shape(kind, make_model, tmp_path):
    model = make_model(**KINDS[kind])

    FORMATS["torchscript"].write(Source(model, tmp_path, 18), tmp_path / "model.torchscript.pt")

    _assert_same(model, tmp_path / "model.torchscript.pt", "torchscript")


def test_a_torchscript_file_does_not_say_where_the_code_lies_that_it_was_traced_from(make_model, tmp_path):
    FORMATS["torchscript"].write(Source(make_model(), tmp_path, 18), tmp_path / "model.torchscript.pt")

    with zipfile.ZipFile(tmp_path / "model.torchscript.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    lies_in = str(Path(transformer.__file__).parents[2]).encode()
    assert [name for name, record in records.items() if lies_in in record or name.endswith(".debug_pkl")] == []
    assert any("/pipeline/models/transformer" in name for name in records)
    assert [path.name for path in tmp_path.iterdir()] == ["model.torchscript.pt"]


def test_a_pytorch_folder_opens_as_a_model_folder_with_equal_weights(export_folder, model_folder):
    ours, _ = load_model(model_folder)

    theirs, description = load_model(export_folder / "pytorch")

    assert description["model"]["d_model"] == ours.d_model
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_an_onnx_file_is_one_file_that_names_no_folder_of_this_machine(export_folder):
    data = (export_folder / "model.onnx").read_bytes()
    model = onnx.load_from_string(data)

    assert not list(export_folder.glob("model.onnx?*"))
    for path in export_folder.glob("model.*"):
        assert os.fsencode(Path(__file__).parents[2]) not in path.read_bytes(), path
    assert {entry.key: entry.value for entry in model.metadata_props} == {"max_seq_len": "24"}


def test_the_same_model_gives_the_same_onnx_bytes(export_folder, model_folder, tmp_path):
    write_formats(model_folder, tmp_path, formats=["onnx"], opset=18)

    assert (tmp_path / "model.onnx").read_bytes() == (export_folder / "model.onnx").read_bytes()


def test_torchscript_tells_the_user_once_that_it_is_deprecated(make_model, tmp_path, capsys):
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning that is not filtered at the call would stop the test

        FORMATS["torchscript"].write(Source(make_model(), tmp_path, 18), tmp_path / "model.torchscript.pt")

    assert capsys.readouterr().err.count("deprecated TorchScript") == 1
    assert logger.level == level


def test_a_model_of_pictures_is_traced_without_a_warning_of_torch(tmp_path):
    arguments = {"image_size": [1, 8, 8], "num_classes": 3, "channel_mean": [0.5], "channel_std": [0.25]}
    model = build_model({"model_type": "cnn", **arguments}).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        FORMATS["torchscript"].write(Source(model, tmp_path, 18), tmp_path / "model.torchscript.pt")

    assert (tmp_path / "model.torchscript.pt").is_file()


def test_the_filters_of_an_export_are_gone_after_it(make_model, tmp_path, capsys):
    before = list(warnings.filters)

    FORMATS["torchscript"].write(Source(make_model(), tmp_path, 18), tmp_path / "model.torchscript.pt")

    assert warnings.filters == before


@pytest.mark.parametrize("name", ["onnx", "onnx_cache", "int8", "torchscript", "torch_export"])
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_file_that_is_not_of_its_format_is_refused_with_its_path(name, damage, export_folder, tmp_path):
    whole = (export_folder / FORMATS[name].file).read_bytes()
    path = tmp_path / FORMATS[name].file
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"To be, or not to be"}[damage])

    with pytest.raises(ExportError) as caught:
        FORMATS[name].inspect(path)

    assert str(path) in str(caught.value)


def test_a_changed_weight_in_a_pytorch_folder_is_refused(export_folder, tmp_path):
    folder = tmp_path / "pytorch"
    folder.mkdir()
    for file in (export_folder / "pytorch").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        FORMATS["pytorch"].inspect(folder)


def test_an_onnx_model_of_fixed_length_is_refused(export_folder, tmp_path):
    model = onnx.load(export_folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(ExportError, match="shapes"):
        FORMATS["onnx"].inspect(tmp_path / "model.onnx")


def test_every_shape_of_the_comparison_is_allowed_and_the_awkward_ones_are_there():
    for longest in range(2, 300):
        lengths = {length for _, length in comparison_shapes(longest)}
        assert {1, 2, longest} <= lengths
        assert max(lengths) == longest
        assert traced_length(longest) in lengths
        assert longest == 2 or any(length % 2 for length in lengths if length > 1)
        assert longest == 2 or max(lengths) > traced_length(longest)


def test_the_table_of_formats_can_be_read_without_torch_and_onnxruntime():
    code = (
        "import sys, pipeline.export.opened; print([m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
