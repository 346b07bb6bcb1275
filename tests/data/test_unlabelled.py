"""A person's own images: which are read, in which order, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from intraq_deploy.data.unlabelled import load_unlabelled
from intraq_deploy.errors import DataError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve plain images of rising red, some of them nested."""
    root = tmp_path / "photos"
    for index in range(12):
        place = root / ("a" if index < 4 else "b/deeper" if index < 8 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (20 * index, 0, 0)).save(place / f"{index:02}.png")
    return root


def reds(images):
    """Which of the folder's images these are."""
    return ((images.images[:, 0, 4, 4] * 0.25 + 0.5) * 255 / 20).round().int().tolist()


def refusal(path, model, count=10) -> str:
    with pytest.raises(DataError) as caught:
        load_unlabelled(path, model, count, 0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_image_in_the_order_of_its_path(folder, make_model):
    images = load_unlabelled(folder, make_model(), 100, 0)
    assert images.name == str(folder)
    assert images.found == 12
    assert images.images.shape == (12, 3, 8, 8)
    assert images.images.dtype == torch.float32
    assert reds(images) == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert (images.images[:, 1:] == -2).all()


def test_a_draw_keeps_the_order_and_depends_on_the_seed_alone(folder, make_model):
    draws = [load_unlabelled(folder, make_model(), 5, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0].images, draws[1].images)
    order = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    for draw in draws:
        assert draw.found == 12
        assert len(set(reds(draw))) == 5
        assert reds(draw) == sorted(reds(draw), key=order.index)
    assert reds(draws[0]) != reds(draws[2])


def test_hidden_and_other_files_are_left_alone(folder, make_model):
    for hidden in (folder / ".trash", folder / "a" / ".thumbnails"):
        hidden.mkdir()
        Image.new("RGB", (8, 8)).save(hidden / "0.png")
    Image.new("RGB", (8, 8)).save(folder / "a" / "._00.png")
    (folder / "notes.txt").write_text("no image")
    assert load_unlabelled(folder, make_model(), 100, 0).found == 12


def test_colour_becomes_grey_for_one_channel(folder, make_model):
    assert load_unlabelled(folder, make_model(channels=1), 100, 0).images.shape == (12, 1, 8, 8)


def test_arrays_and_no_look_at_their_labels(tmp_path, make_model):
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=np.array(["cat"] * 5, dtype=object))
    images = load_unlabelled(tmp_path / "images.npz", make_model(), 100, 0)
    expected = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(images.images, expected)
    assert images.found == 5
    drawn = load_unlabelled(tmp_path / "images.npz", make_model(size=(4, 4)), 3, 0)
    assert drawn.images.shape == (3, 3, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES / 255}, "are float64; give uint8 pixels of 0..255"),
        ({"images": IMAGES[..., :2]}, "have 2 channels, and the network reads 3; give"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "8 channels (channels come last)"),
        ({"images": IMAGES[0, 0]}, "have the shape [8, 3]; give [N, height, width, channels]"),
        ({"images": IMAGES[:1]}, "has 1 images, and at least 2 are needed; give images"),
        ({"x": IMAGES}, "has no images (it has x); save it with numpy.savez(path, images=...)."),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_arrays_that_do_not_fit(tmp_path, make_model, arrays, words):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    message = refusal(path, make_model())
    assert words in message
    assert str(path) in message


def test_a_truncated_image_is_named(folder, make_model):
    noise = Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3), np.uint8))
    noise.save(folder / "a" / "whole.jpg")
    data = (folder / "a" / "whole.jpg").read_bytes()
    (folder / "a" / "half.jpg").write_bytes(data[: len(data) // 2])
    message = refusal(folder, make_model(), 100)
    assert f"the image {folder}/a/half.jpg cannot be read" in message
    assert "remove or replace it" in message


def test_a_file_that_is_no_image_is_named(folder, make_model):
    (folder / "a" / "text.png").write_text("no image")
    assert f"the image {folder}/a/text.png cannot be read" in refusal(folder, make_model(), 100)


def test_files_for_a_network_of_six_channels(folder, make_model):
    assert "reads 6 channels, and image files have 1 or 3; give an .npz" in refusal(folder, make_model(channels=6))


def test_paths_that_are_nothing_and_too_few_images(folder, tmp_path, make_model):
    message = refusal(tmp_path / "nowhere", make_model())
    assert f"{tmp_path}/nowhere does not exist; give a folder of images, or an .npz with images" in message
    assert "00.png is no folder and no .npz; give" in refusal(folder / "a" / "00.png", make_model())
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty", make_model())
    assert f"{tmp_path}/empty has 0 images (known are .jpg .jpeg" in message
    assert "at least 2 are needed" in message
    Image.new("RGB", (8, 8)).save(tmp_path / "empty" / "one.png")
    assert "has 1 images" in refusal(tmp_path / "empty", make_model())
    (tmp_path / "broken.npz").write_bytes(b"not a zip")
    assert "save it again with numpy.savez(path, images=...)" in refusal(tmp_path / "broken.npz", make_model())
