"""Formats of other programs: transformers loads the folder, gguf reads the file, and both hold the model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.encoded import read_encoded
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.errors import ExportError
from pipeline.export import formats, gguf_file
from pipeline.export.compare import comparison_shapes, random_inputs
from pipeline.export.formats import FORMATS, require_packages
from pipeline.export.hf_tokenizer import tokenizer_json
from pipeline.export.source import Source
from pipeline.files import write_artefact
from pipeline.models.store import load_model
from pipeline.spec.carried import Shape, refusal

pytestmark = pytest.mark.integration

TEXT = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n  Twice, aaaa aaa aa!\n" * 20
CLASSES = {
    "LlamaForCausalLM": {},
    "Qwen3ForCausalLM": {"qk_norm": True, "tie_embeddings": False, "separate_documents": True},
    "ArceeForCausalLM": {"activation": "relu2"},
    "GPT2LMHeadModel": {"model_type": "gpt", "num_kv_heads": None, "tie_embeddings": False},
}
LLAMA = Shape("lm", "llama", 4, None, "auto", qk_norm=False, short_conv=None, tokenizer_type="unigram")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("hf", {}, None),
        ("hf", {"qk_norm": True}, None),
        ("hf", {"activation": "relu2"}, None),
        ("hf", {"activation": "relu2", "qk_norm": True}, "no class with model.qk_norm and activation relu2"),
        ("hf", {"model_type": "gpt"}, None),
        ("hf", {"model_type": "gpt", "num_kv_heads": 2}, "GPT-2 has neither grouped"),
        ("hf", {"model_type": "gpt", "qk_norm": True}, "GPT-2 has neither grouped"),
        ("hf", {"model_type": "gpt", "activation": "swiglu"}, "nor a gate"),
        ("hf", {"short_conv": 4}, "no short convolutions"),
        ("hf", {"tokenizer_type": "word"}, "cannot cut words"),
        ("hf", {"task_type": "text_classification"}, "text_classification does not"),
        ("gguf", {}, None),
        ("gguf", {"qk_norm": True, "num_kv_heads": 2}, None),
        ("gguf", {"short_conv": 4}, "no short convolutions"),
        ("gguf", {"activation": "gelu"}, "which have a gate"),
        ("gguf", {"model_type": "gpt"}, "shapes of Llama and Qwen3"),
        ("gguf", {"tokenizer_type": "char"}, "no tokenizer char"),
        ("gguf", {"task_type": "vision_classification"}, "writes none"),
        ("onnx_cache", {"task_type": "masked_lm"}, "does not write text"),
        ("onnx_cache", {"activation": "relu2", "model_type": "gpt", "short_conv": 4}, None),
        ("pytorch", {"task_type": "masked_lm"}, None),
    ],
)
def test_a_format_carries_what_it_has_a_place_for_and_says_what_it_has_none_for(name, changes, reason):
    found = refusal(name, dataclasses.replace(LLAMA, **changes))

    assert (found is None) == (reason is None)
    if found is not None:
        assert reason in found[0]
        assert found[1]


def test_a_format_whose_package_is_missing_is_refused_with_the_extra_that_brings_it(monkeypatch):
    absent = dataclasses.replace(FORMATS["gguf"], needs=("no_such_package", "gguf"))
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, "gguf": absent})

    require_packages(["onnx", "pytorch"])
    with pytest.raises(ExportError, match="format gguf needs no_such_package") as caught:
        require_packages(["onnx", "gguf"])

    assert "model-foundry[gguf]" in caught.value.hint


def test_rows_of_a_head_change_places_and_come_back():
    matrix = np.arange(16, dtype=np.float32).reshape(8, 2)

    changed = gguf_file.neighbouring(matrix, 2)

    assert changed[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    np.testing.assert_array_equal(gguf_file.half_apart(changed, 2), matrix)


@pytest.fixture(scope="module", params=CLASSES)
def hf_folder(request, make_model_folder, tmp_path_factory):
    """(model folder, hf folder, class): of each kind that transformers has a class for."""
    folder = tmp_path_factory.mktemp("hf")
    model_folder = make_model_folder(folder / "model", **CLASSES[request.param])
    FORMATS["hf"].write(Source(load_model(model_folder)[0], model_folder, 18), folder / "hf")
    return model_folder, folder / "hf", request.param


@pytest.mark.slow
def test_transformers_has_the_logits_of_the_model(hf_folder):
    model_folder, folder, name = hf_folder
    model, _ = load_model(model_folder)
    run = FORMATS["hf"].open(folder, 1)

    assert FORMATS["hf"].inspect(folder)["architecture"] == name
    for batch, length in comparison_shapes(model.max_seq_len):
        ids = random_inputs(model, batch, length, one_document=True)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(run(ids), expected, rtol=0, atol=1e-4, err_msg=f"{batch} x {length}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_transformers_has_the_ids_of_the_tokenizer(kind, byte_fallback, tmp_path):
    from described import tokenizer_description
    from tokenizers import Tokenizer as Theirs

    size = {"unigram": 40, "bpe": 70, "char": 36}[kind] + 256 * byte_fallback
    model = train_tokenizer([TEXT], tokenizer_type=kind, vocab_size=size, byte_fallback=byte_fallback)
    (tmp_path / "tokenizer.model").write_bytes(model)
    ours = Tokenizer(model)
    about = {**tokenizer_description(ours.vocab_size), "tokenizer_type": kind}
    write_artefact(tmp_path / "tokenizer.json", "tokenizer", about)

    theirs = Theirs.from_str(json.dumps(tokenizer_json(tmp_path)))

    for text in [TEXT, "aaaaaaaa aaaaa\n\n  a", "é 漢字 😀", "", " ", "sleeps.the  QUICK"]:
        assert theirs.encode(text).ids == [1, *ours.encode(text)], text
    assert theirs.decode(theirs.encode(TEXT).ids) == TEXT


@pytest.mark.slow
def test_transformers_has_the_ids_of_the_whole_validation_split_of_the_default_experiment(checkout, tmp_path):
    from tokenizers import Tokenizer as Theirs

    for stage in ("corpus", "tokenizer"):
        command = [sys.executable, "-m", f"pipeline.stages.{stage}", "--spec", str(checkout / "specs/experiment.yaml")]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    encoded = read_encoded(tmp_path / "artifacts" / "tokenizer", "validation")
    corpus = (tmp_path / "artifacts" / "corpus" / "validation.jsonl").read_text(encoding="utf-8").splitlines()

    theirs = Theirs.from_str(json.dumps(tokenizer_json(tmp_path / "artifacts" / "tokenizer")))

    assert encoded.documents == len(corpus) > 0
    for index, line in enumerate(corpus):
        text = json.loads(line)["text"]
        ids = theirs.encode(text).ids
        assert ids == encoded.document(index)[:-1].tolist()
        assert theirs.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_gguf_reads_back_the_weights_and_the_tokenizer(kind, make_model_folder, tmp_path):
    from gguf import GGUFReader

    model_folder = make_model_folder(tmp_path / "model", **CLASSES[kind])
    model, _ = load_model(model_folder)
    path = tmp_path / "model.gguf"

    FORMATS["gguf"].write(Source(model, model_folder, 18), path)

    run = FORMATS["gguf"].open(path, 1)
    for batch, length in comparison_shapes(model.max_seq_len):
        ids = random_inputs(model, batch, length, one_document=True)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(run(ids), expected, rtol=0, atol=1e-6, err_msg=f"{batch} x {length}")
    fields = GGUFReader(path).fields
    tokenizer = Tokenizer.load(model_folder / "tokenizer.model")
    pieces = [tokenizer.piece(number) for number in range(tokenizer.vocab_size)]
    assert fields["tokenizer.ggml.tokens"].contents() == pieces
    assert fields["tokenizer.ggml.token_type"].contents()[:4] == [2, 3, 3, 3]
    assert fields["general.architecture"].contents() == ("qwen3" if "Qwen" in kind else "llama")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_damaged_gguf_file_is_refused(damage, make_model_folder, tmp_path):
    model_folder = make_model_folder(tmp_path / "model")
    path = tmp_path / "model.gguf"
    FORMATS["gguf"].write(Source(load_model(model_folder)[0], model_folder, 18), path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"To be, or not to be"}[damage])

    with pytest.raises(ExportError, match="not a GGUF file"):
        FORMATS["gguf"].inspect(path)


def test_a_hugging_face_folder_without_a_file_or_with_half_of_one_is_refused(model_folder, tmp_path):
    folder: Path = tmp_path / "hf"
    FORMATS["hf"].write(Source(load_model(model_folder)[0], model_folder, 18), folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="not a safetensors file"):
        FORMATS["hf"].inspect(folder)
    weights.write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"tokenizer\.json is missing"):
        FORMATS["hf"].inspect(folder)
