"""Classifying pictures: order, loss and metrics mean what they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.encoded import EncodedSplit
from pipeline.errors import CorpusError
from pipeline.models.cnn import Cnn
from pipeline.tasks.vision_classification import VisionClassification, classification_metrics, confusion_matrix
from pipeline.training.distributed import World
from pipeline.training.precision import LossScale
from pipeline.training.step import Stepper

pytestmark = pytest.mark.unit

TASK = VisionClassification(classes=["cat", "dog", "fox"], image_size=[1, 4, 5], fit="crop")


def model():
    torch.manual_seed(0)
    figures = {"channel_mean": [0.5], "channel_std": [0.3]}
    return Cnn(image_size=[1, 4, 5], num_classes=3, stage_channels=[8], norm_groups=2, **figures).eval()


def split(count=11):
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, count * 20, np.uint8)
    metadata = {"kind": "pictures", "image_size": [1, 4, 5], "classes": ["cat", "dog", "fox"]}
    return EncodedSplit("train", metadata, {"pictures": pixels, "labels": chance.integers(0, 3, count)})


def batches(size=4, seed=3, count=11):
    return TASK.batches(split(count), batch_size=size, seed=seed)


def test_every_picture_is_learned_from_once_an_epoch():
    source = batches()
    shown = [source.batch(0, index) for index in range(source.per_epoch)]

    labels = torch.cat([labels for _, labels in shown])
    pictures = torch.cat([pictures for pictures, _ in shown])[labels != IGNORED]

    assert sorted(picture.numpy().tobytes() for picture in pictures) == sorted(
        picture.tobytes() for picture in split().pictures
    )
    assert sum(source.targets_in(0, index) for index in range(source.per_epoch)) == source.targets_per_epoch == 11


def test_the_order_follows_from_seed_and_epoch_alone():
    one, other = batches(), batches()
    other.batch(5, 2)  # whatever was asked for before

    assert torch.equal(one.batch(1, 2)[0], other.batch(1, 2)[0])
    assert not torch.equal(one.batch(0, 0)[0], one.batch(1, 0)[0])
    assert not torch.equal(one.batch(0, 0)[0], batches(seed=4).batch(0, 0)[0])


def test_shapes_never_change():
    source = batches()

    assert {source.batch(0, index)[0].shape for index in range(source.per_epoch)} == {(4, 1, 4, 5)}


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_the_loss_is_a_sum_however_a_batch_is_cut(rows):
    net, (pictures, labels) = model(), batches().batch(0, 2)

    whole = TASK.loss(net, pictures, labels)
    pieces = sum(TASK.loss(net, *piece) for piece in zip(pictures.split(rows), labels.split(rows), strict=True))

    assert torch.allclose(whole, pieces, rtol=1e-6)


def gradients(rows, *, fits=100):
    """The gradients of one step over the 11 pictures of an epoch, in micro-batches of `rows`."""
    net, source = model().train(), batches(size=rows)

    def loss(*batch):
        if len(batch[0]) > fits:
            raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
        return TASK.loss(net, *batch)

    smaller = []
    stepper = Stepper(
        net,
        torch.optim.SGD(net.parameters()),
        source,
        loss,
        max_grad_norm=None,
        rows=None,
        on_smaller=smaller.append,
        scale=LossScale("cpu", enabled=False),
        world=World(),
    )
    found = stepper.gradients(0, range(source.per_epoch))
    return found, torch.cat([parameter.grad.flatten() for parameter in net.parameters()]), smaller


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 12])
def test_a_step_has_the_same_gradients_however_it_is_cut(rows):
    whole, expected, _ = gradients(11)

    found, pieces, _ = gradients(rows)

    assert (found.tokens, whole.tokens) == (11, 11)
    assert torch.allclose(pieces, expected, atol=1e-6)


def test_a_step_that_does_not_fit_into_memory_has_the_same_gradients():
    _, expected, _ = gradients(11)

    _, pieces, smaller = gradients(11, fits=3)

    assert smaller == [5, 2]
    assert torch.allclose(pieces, expected, atol=1e-6)


def test_a_score_counts_every_picture_once():
    net, held_out = model(), split(300)  # more than are scored at once

    found = TASK.evaluate(net, held_out)

    logits = net(torch.from_numpy(held_out.pictures))
    expected = functional.cross_entropy(logits, torch.from_numpy(held_out.labels), reduction="sum")
    assert found.targets == 300
    assert found.nats == pytest.approx(expected.item(), rel=1e-5)
    assert found.metrics["accuracy"] == (logits.argmax(1).numpy() == held_out.labels).mean()


def test_metrics_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    chance = np.random.default_rng(2)
    logits, labels = chance.normal(size=(200, 8)).astype(np.float32), chance.integers(0, 8, 200)
    answers = logits.argmax(axis=1)

    found = classification_metrics(logits, labels)

    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, answers, average="macro"))
    assert found["top5_accuracy"] == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5))
    assert np.array_equal(confusion_matrix(answers, labels, classes=8), metrics.confusion_matrix(labels, answers))


def test_a_class_that_never_occurs_does_not_weigh():
    logits = np.array([[3, 1, 0], [0, 2, 1]], np.float32)

    assert classification_metrics(logits, np.array([0, 1]))["macro_f1"] == 1.0


def test_equal_logits_are_answered_in_the_order_of_the_classes():
    assert classification_metrics(np.zeros((4, 2), np.float32), np.array([0, 0, 0, 1]))["accuracy"] == 0.75


def samples(net, *prompts):
    return TASK.samples(net, prompts, max_new_tokens=1, temperature=0.0, seed=0)


def test_a_sample_names_the_class_of_a_picture_file_of_any_size(tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.png")

    [sample] = samples(model(), str(tmp_path / "white.png"))

    assert sample.text.split()[0] in {"cat", "dog", "fox"}


def test_a_sample_of_a_file_that_is_not_there_is_refused():
    with pytest.raises(CorpusError, match=r"nowhere\.png: the file cannot be read: No such file"):
        samples(model(), "nowhere.png")


def test_nothing_here_draws_from_the_global_random_state():
    net, state = model(), torch.random.get_rng_state()

    batches().batch(0, 0)
    TASK.evaluate(net, split())

    assert torch.equal(torch.random.get_rng_state(), state)
