"""Labelled images in an .npz, and the built-in sample."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from intraq_deploy.data.cifar10 import SHEET, read_cifar10_sample
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import DataError
from intraq_deploy.models.builtin.networks import CIFAR10_CLASSES

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 8, 8, 3), np.uint8)
LABELS = np.array([0, 2, 1, 2, 0])

SAMPLE_SHA256 = "da362006b99671213d1a5d856cab2bedf64d40bad4501630ee60f4ceb2d3ec7f"


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        return path

    return write


def refusal(path, model) -> str:
    with pytest.raises(DataError) as caught:
        load_labelled(path, model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_batches(save, make_model):
    images = load_labelled(save(images=IMAGES, labels=LABELS.astype(np.uint8)), make_model())
    assert len(images) == 5
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == LABELS.tolist()

    batches = list(images.batches(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    pixels = torch.cat([batch for batch, _ in batches])
    assert pixels.dtype == torch.float32
    expected = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    assert torch.allclose(pixels, expected, atol=1e-6)
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS.tolist()


def test_uint8_batches(save, make_model):
    ((pixels, labels),) = load_labelled(save(images=IMAGES, labels=LABELS), make_model()).uint8_batches()
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), IMAGES)
    assert labels.tolist() == LABELS.tolist()


def test_first(save, make_model):
    images = load_labelled(save(images=IMAGES, labels=LABELS), make_model())
    assert len(images.first(3)) == 3
    assert len(images.first(30)) == 5
    assert sum(len(labels) for _, labels in images.first(3).batches(2)) == 3


def test_arrays_of_the_networks_size_are_taken_as_they_are(save, make_model):
    """Whoever saves arrays at the network's size has cropped them already."""
    images = load_labelled(save(images=IMAGES, labels=LABELS), make_model(resize=12))
    ((pixels, _),) = images.uint8_batches()
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), IMAGES)


def test_arrays_of_another_size_are_resized(save, make_model):
    images = load_labelled(save(images=IMAGES, labels=LABELS), make_model(size=(4, 4)))
    ((pixels, _),) = images.uint8_batches()
    expected = Image.fromarray(IMAGES[3]).resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels[3].permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1)], ids=["without-channel", "with-channel"])
@pytest.mark.parametrize("size", [(8, 8), (6, 6)], ids=["same-size", "resized"])
def test_one_channel(save, make_model, shape, size):
    grey = IMAGES[..., 0].reshape(shape)
    images = load_labelled(save(images=grey, labels=LABELS), make_model(channels=1, size=size))
    ((pixels, _),) = images.uint8_batches()
    assert pixels.shape == (5, 1, *size)


def test_many_channels(save, make_model):
    images = RANDOM.integers(0, 256, (5, 8, 8, 6), np.uint8)
    ((pixels, _),) = load_labelled(save(images=images, labels=LABELS), make_model(channels=6)).uint8_batches()
    assert pixels.shape == (5, 6, 8, 8)
    message = refusal(save(images=images, labels=LABELS), make_model(channels=6, size=(4, 4)))
    assert "are 8x8, and images of 6 channels cannot be resized; give them at 4x4" in message


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES / 255, "labels": LABELS}, "are float64; give uint8 pixels of 0..255"),
        ({"images": IMAGES[..., :2], "labels": LABELS}, "have 2 channels, and the network reads 3; give"),
        ({"images": IMAGES[..., 0], "labels": LABELS}, "have 1 channels, and the network reads 3"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "8 channels (channels come last)"),
        (
            {"images": IMAGES[0, 0], "labels": LABELS},
            "have the shape [8, 3]; give [N, height, width, channels]",
        ),
        ({"images": IMAGES, "labels": LABELS[:4]}, "has 5 images and 4 labels; give one label per image"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "has no images (images is [0, 8, 8, 3])"),
        (
            {"images": IMAGES, "labels": LABELS + 1},
            "contain 3, and the network has 3 classes; labels must be 0 to 2",
        ),
        ({"images": IMAGES, "labels": LABELS - 1}, "contain -1, and the network has 3 classes"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "are float64; give integers, 0 to 2"),
        (
            {"images": IMAGES, "labels": LABELS[:, None]},
            "have the shape [5, 1]; give one class index per image",
        ),
        ({"images": IMAGES}, "has no labels (it has images); save it with numpy.savez"),
        ({"x": IMAGES, "y": LABELS}, "has no images and no labels (it has x, y)"),
        (
            {"images": IMAGES, "labels": np.array(["cat"] * 5, dtype=object)},
            "cannot be read (ValueError: Object",
        ),
    ],
    ids=lambda value: value.split(",")[0][:24] if isinstance(value, str) else "",
)
def test_arrays_that_do_not_fit(save, make_model, arrays, words):
    path = save(**arrays)
    message = refusal(path, make_model())
    assert words in message
    assert str(path) in message


def test_colour_for_a_greyscale_network(save, make_model):
    message = refusal(save(images=IMAGES, labels=LABELS), make_model(channels=1))
    assert "have 3 channels, and the network reads 1" in message


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(40)], ids=["empty", "text", "cut-off"])
def test_a_broken_npz(tmp_path, make_model, content):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    message = refusal(path, make_model())
    assert f"{path} cannot be read" in message
    assert "save it again with numpy.savez(path, images=..., labels=...)" in message


def test_one_array_named_npz(tmp_path, make_model):
    path = tmp_path / "images.npz"
    with path.open("wb") as file:
        np.save(file, IMAGES)
    message = refusal(path, make_model())
    assert message == (
        f"{path} is one array, as in an .npy, and no .npz; save it with numpy.savez(path, images=..., labels=...)."
    )


def test_paths_that_are_nothing(tmp_path, make_model):
    assert f"{tmp_path}/nowhere does not exist; give a folder" in refusal(tmp_path / "nowhere", make_model())
    (tmp_path / "images.zip").touch()
    message = refusal(tmp_path / "images.zip", make_model())
    assert "images.zip is no folder and no .npz; give a folder" in message
    assert "builtin:cifar10-sample" in message
    assert "no built-in images 'builtin:mnist'" in refusal("builtin:mnist", make_model())


# --- the built-in sample -------------------------------------------------------------------------------


def test_the_sample(make_model):
    images = load_labelled("builtin:cifar10-sample", make_model(classes=10, size=(32, 32)))
    assert len(images) == 1000
    assert images.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert images.labels.bincount().tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    pixels, _ = next(images.uint8_batches(10))
    assert pixels.shape == (10, 3, 32, 32)


def test_the_sample_is_the_published_one():
    """The pixels' hash, computed from the official test set."""
    images, labels = read_cifar10_sample()
    assert hashlib.sha256(images.tobytes()).hexdigest() == SAMPLE_SHA256
    assert labels.dtype == np.int64
    assert SHEET.stat().st_size < 2_000_000


def test_the_sample_equals_the_test_set(shared_data):
    sheet = np.asarray(Image.open(shared_data / "cifar" / "cifar10_test.webp").convert("RGB"))
    images, labels = read_cifar10_sample()
    tiles = sheet.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    official = np.loadtxt(shared_data / "cifar" / "cifar10_test_labels.txt", dtype=np.int64)
    assert np.array_equal(images, tiles[:1000])
    assert np.array_equal(labels, official[:1000])


def test_the_sample_follows_the_models_class_order(make_model):
    names = tuple(reversed(CIFAR10_CLASSES))
    images = load_labelled("builtin:cifar10-sample", make_model(classes=10, size=(32, 32), names=names))
    assert images.labels[:4].tolist() == [6, 1, 1, 9]


@pytest.mark.parametrize(("classes", "channels"), [(100, 3), (10, 1)])
def test_the_sample_is_for_ten_classes_in_colour(make_model, classes, channels):
    message = refusal("builtin:cifar10-sample", make_model(classes=classes, channels=channels))
    assert f"the network reads {channels} channels and has {classes} classes; give images of your own" in message
