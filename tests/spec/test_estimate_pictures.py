"""The arithmetic of `foundry plan` for pictures, held to the model itself."""

import json
import subprocess
import sys

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.models.cnn import Cnn
from pipeline.paths import SCHEMAS
from pipeline.spec import estimate_pictures as estimate
from pipeline.spec.edit import parse_assignment
from pipeline.spec.estimate_pictures import PictureShape
from pipeline.spec.presets import author
from pipeline.spec.schema import schema_of
from pipeline.spec.write import write_yaml

SHAPES = st.builds(
    PictureShape,
    image_size=st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
    num_classes=st.integers(2, 9),
    stage_channels=st.lists(st.sampled_from([4, 8, 12]), min_size=1, max_size=4).map(tuple),
    blocks_per_stage=st.integers(1, 3),
    norm_groups=st.sampled_from([1, 2]),
    dropout=st.sampled_from([0.0, 0.5]),
)


def built(shape):
    channels = shape.image_size[0]
    figures = {"channel_mean": [0.5] * channels, "channel_std": [0.5] * channels}
    return Cnn(
        image_size=shape.image_size,
        num_classes=shape.num_classes,
        stage_channels=shape.stage_channels,
        blocks_per_stage=shape.blocks_per_stage,
        norm_groups=shape.norm_groups,
        dropout=shape.dropout,
        **figures,
    )


@settings(deadline=None, max_examples=40)  # other load on the machine is no defect
@given(SHAPES)
def test_parameters_and_operations_of_any_shape_are_those_of_the_model(shape):
    model = built(shape)
    owners = {"convolutions": "convolution", "norms": "norm", "head": "head"}
    counted = dict.fromkeys(owners, 0)
    for name, parameter in model.named_parameters():
        counted[next(part for part, owner in owners.items() if owner in name)] += parameter.numel()

    assert estimate.parameters(shape) == counted
    assert estimate.count(shape) == sum(parameter.numel() for parameter in model.parameters())
    assert estimate.flops_per_picture(shape) == model.flops_per_row()
    assert shape.tensors == len(model.state_dict())


def kept_by_autograd(shape, *, batch_size):
    """Bytes of everything that a forward pass leaves for the backward pass, weights apart."""
    model = built(shape).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pictures = torch.zeros(batch_size, *shape.image_size, dtype=torch.uint8)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        functional.cross_entropy(model(pictures), labels, reduction="sum")
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@settings(deadline=None, max_examples=40)  # other load on the machine is no defect
@given(SHAPES, st.integers(1, 5))
def test_activations_are_what_autograd_keeps(shape, batch_size):
    assert estimate.activation_bytes(shape, batch_size=batch_size) == kept_by_autograd(shape, batch_size=batch_size)


@pytest.mark.slow  # the train stage, in a process of its own
def test_the_peak_of_memory_is_that_of_a_real_run(tmp_path):
    spec = author(
        "x",
        "vision_tiny",
        settings=[parse_assignment(f"training.{name}") for name in ("max_steps=3", "batch_size=1024")],
    )
    (tmp_path / "spec.yaml").write_text(write_yaml(spec.to_dict(), schema_of()))
    for stage in ("corpus", "tokenizer", "train"):
        # From a shell, as DVC does it: Linux counts what the starting process held into the peak of the one it starts.
        command = f'"{sys.executable}" -m pipeline.stages.{stage} --spec spec.yaml || exit 1'
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)

    planned = run_plan(tmp_path)

    measured = json.loads((tmp_path / "reports/training_metrics.json").read_text())["final_metrics"]
    assert planned["pictures"]["known"] == "counted"
    assert planned["model"]["parameters"]["total"] == measured["parameters"]
    assert planned["training"]["steps"] == measured["total_steps"]
    assert planned["memory_mb"]["peak_rss"] == pytest.approx(measured["peak_rss_mb"], rel=estimate.MEMORY_BOUND)


def run_plan(folder):
    command = [sys.executable, "-m", "pipeline", "plan", "spec.yaml", "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    planned = json.loads(done.stdout)
    schema = json.loads((SCHEMAS / "v1/artefact/picture_plan.json").read_text(encoding="utf-8"))
    jsonschema.validate(planned, schema)
    return planned


def test_a_folder_of_pictures_is_planned_by_its_files(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "pictures" / name / f"{number}.png").touch()
    (tmp_path / "spec.yaml").write_text(
        "schema_version: 1\nname: x\ntask: {task_type: vision_classification}\nmodel: {model_type: cnn}\n"
        "dataset: {source: {kind: image_folder, path: pictures, image_size: [3, 16, 16]}, test_split: 0.1}\n"
    )

    pictures = run_plan(tmp_path)["pictures"]

    assert pictures == {
        "known": "estimated",
        "source": "the files in pictures",
        "image_size": [3, 16, 16],
        "num_classes": 2,
        "train": 16,
        "validation": 2,
        "all": 20,
    }


def test_a_table_of_pictures_is_planned_by_its_rows(tmp_path):
    rows = [f"{number}.png,{'sky' if number % 2 else 'sea sun'}" for number in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,labels", *rows]))
    (tmp_path / "spec.yaml").write_text(
        "schema_version: 1\nname: x\ntask: {task_type: vision_multilabel}\nmodel: {model_type: cnn}\n"
        "dataset: {source: {kind: image_table, path: labels.csv, image_size: [3, 16, 16]}, test_split: 0.1}\n"
    )

    pictures = run_plan(tmp_path)["pictures"]

    assert (pictures["all"], pictures["train"], pictures["num_classes"]) == (20, 16, 3)
    assert pictures["source"] == "the rows of labels.csv"
