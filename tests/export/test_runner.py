"""The runner that stands beside an export: the tokens of the model, the text of the tokenizer, and no PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.export.runner import Runner, Text, choose, until
from pipeline.files import write_artefact
from pipeline.models.generate import generate
from pipeline.models.store import load_model

pytestmark = pytest.mark.integration

NEEDED = ("numpy", "onnxruntime", "sentencepiece")


@pytest.fixture(scope="module")
def runner(export_folder):
    return Runner(export_folder)


def _run(folder, *arguments, python=sys.executable, cwd=None):
    return _ran([python, str(folder / "runner.py"), *arguments], cwd)


def _ran(command, cwd):
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_greedy_tokens_are_those_of_the_model_also_past_its_longest_text(runner, model_folder):
    model, _ = load_model(model_folder)

    found = list(runner.tokens([1, 5, 9], max_new_tokens=60))

    expected = list(generate(model, [1, 5, 9], max_new_tokens=60, stop_ids=[2]))
    assert found == expected


def test_a_prompt_longer_than_the_longest_text_is_cut_like_the_models(runner, model_folder):
    model, _ = load_model(model_folder)
    prompt = [1, *(4 + i % 50 for i in range(40))]

    found = list(runner.tokens(prompt, max_new_tokens=5))

    assert found == list(generate(model, prompt, max_new_tokens=5, stop_ids=[2]))


def test_8_bits_generate_with_the_same_code(export_folder):
    found = list(Runner(export_folder, graph="model.int8.onnx").tokens([1, 5, 9], max_new_tokens=10))

    assert 0 < len(found) <= 10


def test_pieces_stream_and_join_to_the_text_of_the_tokens(runner, model_folder):
    tokenizer = Tokenizer.load(model_folder / "tokenizer.model")

    pieces = list(runner.generate("the quick", max_new_tokens=20))

    ids = list(runner.tokens([1, *tokenizer.encode("the quick")], max_new_tokens=20))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert len(pieces) > 5


def test_the_same_seed_writes_the_same_text_and_another_one_another(runner):
    def text(seed):
        return "".join(runner.generate("the", max_new_tokens=20, temperature=1.5, seed=seed))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_stop_text_ends_the_output_before_it_though_it_spans_pieces():
    assert "".join(until(["to ", "be, o", "r not"], ["or"])) == "to be, "
    assert "".join(until(["to ", "be"], [])) == "to be"


LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        ({"temperature": 0.0}, {0}),
        ({"temperature": 1.0}, {0, 1, 2, 3}),
        ({"temperature": 1.0, "top_k": 2}, {0, 1}),
        ({"temperature": 1.0, "top_p": 0.8}, {0, 1}),
        ({"temperature": 1.0, "top_p": 0.81}, {0, 1, 2}),
        ({"temperature": 0.01}, {0}),
    ],
)
def test_sampling_takes_what_temperature_top_k_and_top_p_leave(sampling, possible):
    chance = np.random.default_rng(0)
    arguments = {"top_k": None, "top_p": None, **sampling}

    found = {choose(LOGITS, chance=chance, **arguments) for _ in range(400)}

    assert found == possible


def test_sampled_tokens_are_as_frequent_as_the_model_says():
    chance = np.random.default_rng(0)

    drawn = [choose(LOGITS, temperature=1.0, top_k=None, top_p=None, chance=chance) for _ in range(4000)]

    np.testing.assert_allclose(np.bincount(drawn) / 4000, np.exp(LOGITS), atol=0.03)


@pytest.fixture(scope="module", params=["unigram", "bpe", "char", "word"])
def both(request, tmp_path_factory, model_folder):
    """The tokenizer of the toolkit and the runner's, of every type, with bytes and special tokens."""
    folder = tmp_path_factory.mktemp("text")
    text = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n" * 20
    size = {"unigram": 295, "bpe": 310, "char": 292, "word": 275}[request.param]
    model = train_tokenizer([text], tokenizer_type=request.param, vocab_size=size, special_tokens=["<tool>", "<too"])
    (folder / "tokenizer.model").write_bytes(model)
    ours = Tokenizer(model)
    shutil.copyfile(model_folder / "tokenizer.json", folder / "tokenizer.json")
    about = _about(ours)
    write_artefact(folder / "tokenizer.json", "tokenizer", about)
    return ours, Text(folder)


def _about(tokenizer):
    from described import tokenizer_description

    about = tokenizer_description(tokenizer.vocab_size)
    special = {token: tokenizer.encode(token)[0] for token in ("<tool>", "<too")}
    return {**about, "special_tokens": {**about["special_tokens"], **special}}


AWKWARD = st.text(
    alphabet=st.one_of(st.sampled_from("the quick\n <tol>▁é漢😀\t\0"), st.characters(exclude_categories=["Cs"]))
)


@settings(max_examples=150, deadline=None)
@given(text=AWKWARD)
def test_any_text_has_the_ids_that_training_gave_it_and_comes_back(both, text):
    ours, theirs = both

    ids = theirs.encode(text)

    assert ids == ours.encode(text)
    assert "".join(theirs.decode(ids)) == ours.decode(ids)


def test_the_script_prints_the_prompt_and_goes_on(export_folder, tmp_path):
    done = _run(export_folder, "the quick", "--max-new-tokens", "5", "--temperature", "0", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the quick")
    assert len(done.stdout) > len("the quick\n")


def test_the_runner_is_a_module_of_the_folder_that_takes_every_setting_of_sampling(export_folder):
    settings = ["--max-new-tokens", "20", "--temperature", "1.5", "--top-k", "20", "--top-p", "0.95", "--seed", "3"]
    command = [sys.executable, "-m", "runner", "the quick", *settings]

    done, same = _ran(command, export_folder), _run(export_folder, "the quick", *settings)
    other = _ran([*command[:-1], "4"], export_folder)
    stopped = _ran([*command, "--stop", done.stdout[11]], export_folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == same.stdout != other.stdout
    assert stopped.stdout == done.stdout[: done.stdout.index(done.stdout[11], len("the quick"))] + "\n"


def test_text_is_written_as_it_comes_and_not_at_the_end(export_folder):
    command = [sys.executable, str(export_folder / "runner.py"), "the", "--max-new-tokens", "4096", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        begun = process.stdout.read(len("the") + 5)
        running = process.poll() is None
        process.kill()

    assert begun.startswith("the")
    assert running


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-p", "0"], "not above 0"),
        (["--temperature", "nan"], "not 0 or more"),
        (["--max-new-tokens", "0"], "not 1 or more"),
        (["--graph", "model.onxx"], "there is no model.onxx in"),
    ],
)
def test_a_wrong_argument_of_the_script_is_said_in_one_line(arguments, said, export_folder):
    done = _run(export_folder, "the", *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_runner_of_an_export_is_the_one_of_the_toolkit(export_folder, checkout):
    assert (export_folder / "runner.py").read_bytes() == (checkout / "pipeline" / "export" / "runner.py").read_bytes()


@pytest.mark.slow
def test_the_runner_works_in_an_environment_that_has_three_packages(export_folder, model_folder, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *NEEDED], check=True)
    folder = shutil.copytree(export_folder, tmp_path / "copied")
    (folder / "model.onnx").unlink()

    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    done = _run(folder, "the", "--max-new-tokens", "8", "--temperature", "0", python=python, cwd=tmp_path)

    assert absent.returncode != 0
    model, _ = load_model(model_folder)
    tokenizer = Tokenizer.load(model_folder / "tokenizer.model")
    with torch.inference_mode():
        ids = list(generate(model, [1, *tokenizer.encode("the")], max_new_tokens=8, stop_ids=[2]))
    assert (done.returncode, done.stdout) == (0, f"the{tokenizer.decode(ids)}\n")
    as_module = _ran([python, "-m", "runner", "the", "--max-new-tokens", "8", "--temperature", "0"], folder)
    assert (as_module.returncode, as_module.stdout) == (0, done.stdout)
