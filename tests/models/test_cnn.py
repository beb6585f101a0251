"""The convolutional network: its size is known beforehand, and no picture sees another."""

import pytest
import torch

from pipeline.models.cnn import Cnn
from pipeline.models.table import arguments_of, build_model

pytestmark = pytest.mark.unit

SHAPE = {
    "image_size": (3, 9, 7),
    "num_classes": 4,
    "channel_mean": (0.5, 0.4, 0.3),
    "channel_std": (0.2, 0.3, 0.4),
    "stage_channels": (8, 16, 24),
    "blocks_per_stage": 2,
    "norm_groups": 4,
}


def model(**changes):
    torch.manual_seed(0)
    return Cnn(**{**SHAPE, **changes}).eval()


def pictures(count=3, size=(3, 9, 7)):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *size), generator=generator, dtype=torch.uint8)


def test_pictures_become_logits():
    assert model()(pictures()).shape == (3, 4)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 8), (3, 5, 2), (1, 8, 8)])
def test_every_size_works(size):
    figures = {"channel_mean": (0.5,) * size[0], "channel_std": (0.5,) * size[0]}

    assert model(image_size=size, **figures)(pictures(size=size)).isfinite().all()


def test_a_picture_does_not_see_the_others_of_its_batch():
    net, batch = model(), pictures()

    together, alone = net(batch), torch.cat([net(one[None]) for one in batch])

    assert torch.allclose(together, alone, atol=1e-6)


def test_training_and_evaluation_compute_the_same_without_dropout():
    net, batch = model(), pictures()

    assert torch.equal(net(batch), net.train()(batch))


def test_pixels_are_normalized_by_the_figures_given():
    net, batch = model(), pictures()
    seen = []
    net.stages[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))

    net(batch)

    mean, std = (torch.tensor(SHAPE[name]).view(3, 1, 1) for name in ("channel_mean", "channel_std"))
    assert torch.allclose(seen[0], (batch / 255 - mean) / std, atol=1e-5)


def test_the_figures_are_arguments_and_not_weights():
    names = set(model().state_dict())

    assert not names & {"mean", "std"}
    assert not any("running" in name for name in names)  # no statistics of batches


def test_the_operations_are_those_of_the_convolutions():
    net = model()
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        places = output.shape[2] * output.shape[3] if output.dim() == 4 else 1
        counted += 6 * module.weight.numel() * places

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    net(pictures(1))

    assert net.flops_per_row() == counted


def test_a_model_takes_the_settings_of_its_own_class_and_no_others():
    section = {"model_type": "cnn", "model_name": "x", "d_model": 64, "stage_channels": [8], "blocks_per_stage": 1}
    figures = {name: SHAPE[name] for name in ("image_size", "num_classes", "channel_mean", "channel_std")}

    assert arguments_of(section, {}) == {"model_type": "cnn", "stage_channels": [8], "blocks_per_stage": 1}
    assert isinstance(build_model(arguments_of(section, figures)), Cnn)
