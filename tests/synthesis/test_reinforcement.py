"""Random crops: what they read and how often."""

import math

import torch
from support import random_images

from intraq_deploy.synthesis.reinforcement import _crop_transforms, random_crops


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_areas_aspects_and_flips_follow_their_distributions():
    theta = _crop_transforms(20_000, 0.5, generator())
    width, height = theta[:, 0, 0].abs(), theta[:, 1, 1]
    area, aspect = width * height, width / height
    inside = (width < 1) & (height < 1)
    assert float(area.min()) >= 0.5 * 0.99
    assert float(area.max()) <= 1 + 1e-6
    assert math.exp(-0.001) * 3 / 4 <= float(aspect[inside].min())
    assert float(aspect[inside].max()) <= 4 / 3 * math.exp(0.001)
    assert abs(float((theta[:, 0, 0] < 0).float().mean()) - 0.5) < 0.02
    assert abs(float(area.mean()) - 0.75) < 0.03


def test_crops_lie_inside_the_image():
    theta = _crop_transforms(5000, 0.1, generator())
    for axis in (0, 1):
        reach = theta[:, axis, 2].abs() + theta[:, axis, axis].abs()
        assert float(reach.max()) <= 1 + 1e-5


def test_a_crop_of_everything_is_the_image_or_its_mirror():
    images = random_images(8, (3, 10, 12))
    crops = random_crops(images, 1.0, generator(1))
    theta = _crop_transforms(8, 1.0, generator(1))
    whole = (theta[:, 0, 0].abs() > 0.999) & (theta[:, 1, 1] > 0.999)
    for image, crop, t, full in zip(images, crops, theta, whole, strict=True):
        if full:
            expected = image.flip(2) if float(t[0, 0]) < 0 else image
            torch.testing.assert_close(crop, expected, atol=1e-3, rtol=1e-3)
    constant = random_crops(torch.full((4, 3, 9, 9), 2.5), 0.5, generator())
    torch.testing.assert_close(constant, torch.full((4, 3, 9, 9), 2.5))


def test_gradients_reach_only_what_a_crop_covers():
    images = torch.zeros(1, 1, 64, 64, requires_grad=True)
    random_crops(images, 0.5, generator(3)).sum().backward()
    touched = images.grad[0, 0] != 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    covered = len(rows) * len(columns) / 64**2
    assert 0.45 < covered < 1
    assert bool(touched[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())


def test_the_same_generator_gives_the_same_crops():
    images = random_images(4)
    assert torch.equal(random_crops(images, 0.5, generator(7)), random_crops(images, 0.5, generator(7)))
