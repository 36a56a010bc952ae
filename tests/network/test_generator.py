from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.network.generator import DAFLGenerator, DeepGenerator, Generator, ImageGenerator

BUILDS: list[Callable[..., ImageGenerator]] = [
    partial(Generator, latent_dim=8, base_width=4),
    partial(DAFLGenerator, latent_dim=8),
    partial(DeepGenerator, latent_dim=8, base_width=4),
]
PIXEL_BUILDS = [BUILDS[0], BUILDS[2]]


@pytest.mark.parametrize(
    ("build", "num_parameters"),
    [
        (partial(Generator), 2_328_899),
        (partial(Generator, initial_multiplier=4), 4_581_955),
        (partial(Generator, latent_dim=512, initial_multiplier=4), 8_776_259),
        (partial(Generator, latent_dim=512), 4_426_051),
        (partial(Generator, latent_dim=100, initial_multiplier=4), 2_026_051),
        (partial(DAFLGenerator, latent_dim=1000), 8_423_939),
        (partial(DAFLGenerator, latent_dim=100, channels=1), 1_049_985),
        (partial(DeepGenerator), 1_398_403 - 805_952),
    ],
)
def test_published_sizes(build: Callable[..., ImageGenerator], num_parameters: int) -> None:
    with torch.device("meta"):
        generator = build(image_size=32)
    assert sum(p.numel() for p in generator.parameters()) == num_parameters


def test_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = {n for n, _ in Generator(image_size=32).named_parameters()}
    affine = {f"conv_blocks.{i}.{tensor}" for i in (0, 3, 7) for tensor in ("weight", "bias")}
    convs = {f"conv_blocks.{i}.weight" for i in (2, 6, 9)}
    assert names == {"l1.0.weight", "l1.0.bias", "conv_blocks.9.bias"} | affine | convs


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(("image_size", "channels"), [(32, 3), (64, 3), (32, 1), (224, 3)])
def test_output_shape(
    build: Callable[..., ImageGenerator], image_size: int, channels: int
) -> None:
    with torch.device("meta"):
        generator = build(image_size=image_size, channels=channels)
        images = generator(torch.empty(2, *generator.latent_shape))
    assert images.shape == (2, channels, image_size, image_size)


def test_deep_latents_are_spatial() -> None:
    with torch.device("meta"):
        assert DeepGenerator().latent_shape == (256, 14, 14)
        assert Generator(image_size=64).latent_shape == (256,)


@pytest.mark.parametrize("build", PIXEL_BUILDS)
def test_pixels_lie_between_zero_and_one(build: Callable[..., ImageGenerator]) -> None:
    generator = build(image_size=32)
    pixels = generator(10 * torch.randn(4, *generator.latent_shape))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std() > 0.01


@pytest.mark.parametrize("build", BUILDS)
def test_gradient_reaches_latents_and_every_parameter(
    build: Callable[..., ImageGenerator],
) -> None:
    generator = build(image_size=32)
    latents = torch.randn(4, *generator.latent_shape, requires_grad=True)
    generator(latents).square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.any()
    assert [name for name, p in generator.named_parameters() if p.grad is None] == []


def test_dafl_images_are_whitened_in_training() -> None:
    torch.manual_seed(0)
    images = DAFLGenerator(image_size=32)(torch.randn(16, 1000))
    variance, mean = torch.var_mean(images, dim=(0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-4
    torch.testing.assert_close(variance, torch.ones(3), atol=1e-2, rtol=0)
    assert images.min() < -1.1 or images.max() > 1.1  # not confined to the range of tanh


def test_dafl_eps_is_large_in_the_two_inner_layers_only() -> None:
    norms = [m for m in DAFLGenerator(image_size=32).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.eps for norm in norms] == [1e-5, 0.8, 0.8, 1e-5]
    assert [norm.momentum for norm in norms] == [0.1] * 4
    assert [norm.affine for norm in norms] == [True, True, True, False]


@pytest.mark.parametrize(
    ("build", "image_size", "factor"),
    [(BUILDS[0], 30, 4), (BUILDS[1], 2, 4), (BUILDS[2], 40, 16), (BUILDS[0], 0, 4)],
)
def test_impossible_image_size_is_refused(
    build: Callable[..., ImageGenerator], image_size: int, factor: int
) -> None:
    with pytest.raises(UserError, match=f"a multiple of {factor}, but got {image_size}"):
        build(image_size=image_size)


def test_parts_one_after_another_are_the_whole() -> None:
    generator = Generator(image_size=32, latent_dim=8, base_width=4).eval()
    latents = torch.randn(2, 8)
    made, shapes = latents, []
    for part in generator.parts():
        made = part(made)
        shapes.append(tuple(made.shape[1:]))
    assert shapes == [(8, 8, 8), (8, 16, 16), (4, 32, 32), (3, 32, 32)]
    assert torch.equal(made, generator(latents))
