"""Any number of labels for a picture: loss and metrics mean what they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.encoded import EncodedSplit
from pipeline.models.cnn import Cnn
from pipeline.tasks.vision_multilabel import (
    VisionMultilabel,
    average_precision,
    multilabel_metrics,
    precision_recall_f1,
)

pytestmark = pytest.mark.unit

LABELS = ["cat", "dog", "fox"]
TASK = VisionMultilabel(classes=LABELS, image_size=[1, 4, 5], fit="crop", label_threshold=0.4)


def model():
    torch.manual_seed(0)
    figures = {"channel_mean": [0.5], "channel_std": [0.3]}
    net = Cnn(image_size=[1, 4, 5], num_classes=3, stage_channels=[8], norm_groups=2, **figures).eval()
    net.head.weight.data *= 20  # so that answers differ
    return net


def split(count=11, rare=()):
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, count * 20, np.uint8)
    labels = chance.integers(0, 2, (count, 3), np.uint8)
    labels[:, list(rare)] = 0
    metadata = {
        "kind": "multilabel_pictures",
        "image_size": [1, 4, 5],
        "classes": LABELS,
        "splits": {"train": {"documents": count}},
    }
    return EncodedSplit("train", metadata, {"pictures": pixels, "labels": labels.flatten()})


def scores(count=200, labels=6):
    chance = np.random.default_rng(3)
    shares = chance.random((count, labels)).astype(np.float32)
    return shares.round(1), chance.random((count, labels)) < 0.3  # rounded, so that many are equal


def test_a_batch_holds_a_yes_or_no_of_each_label_and_nothing_of_blank_rows():
    source = TASK.batches(split(), batch_size=4, seed=3)
    shown = [source.batch(0, index) for index in range(source.per_epoch)]

    labels = torch.cat([labels for _, labels in shown])

    assert labels.shape == (12, 3)
    assert sorted(map(tuple, labels[:11].tolist())) == sorted(map(tuple, split().labels.tolist()))
    assert (labels[11] == IGNORED).all()
    assert source.targets_per_epoch == sum(source.targets_in(0, index) for index in range(3)) == 33


def test_the_loss_is_that_of_torch_over_the_labels_that_count():
    net, (pictures, labels) = model(), TASK.batches(split(), batch_size=4, seed=3).batch(0, 2)
    there = labels[:, 0] != IGNORED

    found = TASK.loss(net, pictures, labels)

    expected = functional.binary_cross_entropy_with_logits(net(pictures[there]), labels[there].float(), reduction="sum")
    assert not there.all()
    assert torch.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_the_loss_is_a_sum_however_a_batch_is_cut(rows):
    net, (pictures, labels) = model(), TASK.batches(split(), batch_size=4, seed=3).batch(0, 2)

    whole = TASK.loss(net, pictures, labels)
    pieces = sum(TASK.loss(net, *piece) for piece in zip(pictures.split(rows), labels.split(rows), strict=True))

    assert torch.allclose(whole, pieces, rtol=1e-6)


def test_a_score_counts_every_label_of_every_picture_once():
    net, held_out = model(), split(300)  # more than are scored at once

    found = TASK.evaluate(net, held_out)

    logits = net(torch.from_numpy(held_out.pictures))
    expected = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(held_out.labels).float())
    given = logits.sigmoid().detach().numpy() >= 0.4
    assert found.targets == 900
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.metrics["exact_match"] == (given == held_out.labels).all(axis=1).mean()


def test_metrics_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    shares, right = scores()
    given = shares >= 0.6

    found = multilabel_metrics(shares, right, threshold=0.6)

    assert found == pytest.approx(
        {
            "precision": metrics.precision_score(right, given, average="micro"),
            "recall": metrics.recall_score(right, given, average="micro"),
            "micro_f1": metrics.f1_score(right, given, average="micro"),
            "macro_f1": metrics.f1_score(right, given, average="macro"),
            "exact_match": metrics.accuracy_score(right, given),
            "mean_average_precision": metrics.average_precision_score(right, shares, average="macro"),
        }
    )


def test_average_precision_of_equal_scores_does_not_depend_on_their_order():
    right = np.array([True, False, False, True])

    assert average_precision(np.ones(4), right) == average_precision(np.ones(4), right[::-1]) == 0.5


def test_a_probability_at_the_threshold_gives_the_label():
    shares, right = np.array([[0.5, 0.25]], np.float32), np.array([[True, False]])

    assert multilabel_metrics(shares, right, threshold=0.5)["exact_match"] == 1.0
    assert multilabel_metrics(shares, right, threshold=0.51)["exact_match"] == 0.0


def test_a_label_that_no_picture_has_and_none_is_given_does_not_weigh():
    shares, right = np.array([[0.9, 0.1], [0.1, 0.2]], np.float32), np.array([[True, False], [False, False]])

    found = multilabel_metrics(shares, right, threshold=0.5)

    assert (found["macro_f1"], found["mean_average_precision"]) == (1.0, 1.0)


def test_figures_of_pictures_without_labels_are_numbers():
    nothing = np.zeros((2, 3), bool)

    found = multilabel_metrics(np.zeros((2, 3), np.float32), nothing, threshold=0.5)

    assert found == {**dict.fromkeys(found, 0.0), "exact_match": 1.0}
    assert precision_recall_f1(nothing, nothing) == (0.0, 0.0, 0.0)


def test_the_report_lists_every_label_and_judges_none_that_no_picture_has():
    net, held_out = model(), split(60, rare=[1])

    listed = TASK.details(net, held_out)["labels"]

    shares = net(torch.from_numpy(held_out.pictures)).sigmoid().detach().numpy()
    assert [row["label"] for row in listed] == LABELS
    assert [row["pictures"] for row in listed] == held_out.labels.sum(axis=0).tolist()
    expected = average_precision(shares[:, 0], held_out.labels[:, 0] == 1)
    assert listed[0]["average_precision"] == pytest.approx(expected, abs=1e-6)
    assert listed[1]["average_precision"] is None


def test_a_sample_names_every_label_that_reaches_the_threshold():
    shares = {"cat": 0.4, "dog": 0.39, "fox": 0.9}

    assert TASK.said("x.png", shares).text == "fox (90%), cat (40%)"
    assert TASK.said("x.png", {"cat": 0.1}).text == "no label"


def test_samples_of_a_split_say_what_is_right():
    held_out = split(3, rare=[0, 1, 2])

    assert [sample.prompt for sample in TASK.samples_of(model(), held_out)] == [
        f"train picture {index}: no label" for index in range(3)
    ]
    assert TASK.samples_of(model(), split(3))[1].prompt.endswith(
        ", ".join(np.array(LABELS)[split(3).labels[1] == 1]) or "no label"
    )


def test_probabilities_of_a_file_are_of_each_label_by_itself(tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.png")
    net = model()

    found = TASK.probabilities(net, str(tmp_path / "white.png"))

    logits = net(torch.full((1, 1, 4, 5), 255, dtype=torch.uint8))[0]
    assert list(found) == LABELS
    assert list(found.values()) == pytest.approx(logits.sigmoid().tolist())


def test_the_first_pictures_of_a_split_keep_their_labels():
    whole = split(11)

    few = whole.first(4)

    assert np.array_equal(few.labels, whole.labels[:4])
    assert np.array_equal(few.pictures, whole.pictures[:4])


def test_nothing_here_draws_from_the_global_random_state():
    net, state = model(), torch.random.get_rng_state()

    TASK.batches(split(), batch_size=4, seed=3).batch(0, 0)
    TASK.evaluate(net, split())

    assert torch.equal(torch.random.get_rng_state(), state)
