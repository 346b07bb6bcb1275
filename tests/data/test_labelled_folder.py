"""Labelled images in folders: which folder is which class, and reading the files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intraq_deploy.data.folder import class_indices
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import DataError

COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "emu": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    """Three classes with two plain images each."""
    root = tmp_path / "images"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (20, 10), colour).save(root / name / f"{index}.png")
    return root


def refusal(path, model) -> str:
    with pytest.raises(DataError) as caught:
        load_labelled(path, model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sorted_order(folder, make_model):
    images = load_labelled(folder, make_model())
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    ((pixels, _),) = images.uint8_batches()
    assert pixels.shape == (6, 3, 8, 8)
    assert [tuple(p[:, 4, 4].tolist()) for p in pixels[::2]] == list(COLOURS.values())


def test_float_batches_are_normalised(folder, make_model):
    pixels, labels = next(load_labelled(folder, make_model()).batches(1))
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([2.0, -2.0, -2.0]))
    assert labels.tolist() == [0]


def test_class_names_decide(folder, make_model):
    images = load_labelled(folder, make_model(classes=5, names=("emu", "ant", "dog", "bee", "cat")))
    assert images.labels.tolist() == [4, 4, 2, 2, 0, 0]


def test_other_files_and_hidden_folders_are_left_alone(folder, make_model):
    (folder / ".cache").mkdir()
    (folder / "readme.txt").touch()
    (folder / "cat" / "Thumbs.db").touch()
    (folder / "cat" / "._0.png").touch()
    assert len(load_labelled(folder, make_model())) == 6


def test_nested_folders_and_suffixes_in_capitals(folder, make_model):
    (folder / "dog" / "more").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "dog" / "more" / "a.JPG", "JPEG")
    assert load_labelled(folder, make_model()).labels.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_images_are_turned_upright(folder, make_model):
    """Orientation 6: the camera was turned, so the stored left edge is the top."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "cat" / "0.png", exif=exif)
    ((read, _),) = load_labelled(folder, make_model()).first(1).uint8_batches()
    assert (read[0, :, 0] == 255).all()
    assert (read[0, :, 1:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_colour(folder, make_model, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(folder / "cat" / f"0.{suffix}")
    ((pixels, _),) = load_labelled(folder, make_model()).first(1).uint8_batches()
    assert (pixels == 255).all()


def test_colour_becomes_grey_for_one_channel(folder, make_model):
    ((pixels, _),) = load_labelled(folder, make_model(channels=1)).uint8_batches()
    assert pixels.shape == (6, 1, 8, 8)
    assert pixels[0, 0, 0, 0] == 76  # red by ITU-R 601


# --- which folder is which class -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "classes", "class_names", "expected"),
    [
        (["a", "b", "c"], 3, None, [0, 1, 2]),
        (["a", "b"], 3, ("b", "c", "a"), [2, 0]),
        (["0", "1", "10", "2"], 20, None, [0, 1, 10, 2]),
        (["007"], 10, None, [7]),
        (["1", "2"], 2, ("2", "1"), [1, 0]),
        (["n01440764", "n01443537"], 2, ("tench", "goldfish"), [0, 1]),
        (["0", "1"], 2, ("cat", "dog"), [0, 1]),
    ],
    ids=["sorted", "by-name", "by-number", "padded", "names-win", "other-names", "numbers-beside-names"],
)
def test_class_indices(names, classes, class_names, expected):
    assert class_indices(names, classes, class_names, place=Path("images")) == expected


@pytest.mark.parametrize(
    ("names", "classes", "class_names", "words"),
    [
        (
            ["a", "b"],
            3,
            None,
            r"has 2 folders \('a' to 'b'\), and the network has 3 classes; give .* --classes",
        ),
        (["a", "b", "c"], 2, None, "has 3 folders .* the network has 2 classes"),
        (["a", "x"], 2, ("a", "b"), r"others that are not \('x'\); name every folder like a class"),
        (
            ["0", "7"],
            5,
            None,
            "has a folder 7, and the network has 5 classes: .* must be 0 to 4; else give .* --classes",
        ),
        (["crane"], 3, ("crane", "tench", "crane"), "folder 'crane', and two classes have that name; number"),
    ],
    ids=["too-few", "too-many", "some-names", "number-beyond", "two-cranes"],
)
def test_folders_that_do_not_fit(names, classes, class_names, words):
    with pytest.raises(DataError, match=words):
        class_indices(names, classes, class_names, place=Path("images"))


def test_numbers_that_sort_otherwise_as_text(tmp_path, make_model):
    """ImageFolder sorts the names as text; --classes has the folders in that order."""
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        for image in range(1 + number % 2):
            Image.new("RGB", (8, 8)).save(tmp_path / str(number) / f"{image}.png")
    images = load_labelled(tmp_path, make_model(classes=12))
    assert images.labels.tolist() == [0, 1, 1, 10, 11, 11, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9]
    as_text = [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 11, 11]
    assert images.sorted_labels.tolist() == as_text
    assert images.first(4).sorted_labels.tolist() == as_text[:4]
    named = load_labelled(tmp_path, make_model(classes=12, names=tuple(sorted(map(str, range(12))))))
    assert named.labels.tolist() == as_text
    assert named.sorted_labels is None


def test_numbers_that_sort_alike_have_one_order(tmp_path, make_model):
    for name in ("00", "02", "10"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    assert load_labelled(tmp_path, make_model(classes=12)).sorted_labels is None


def test_folders_without_known_images_are_named(folder, make_model):
    for file in (folder / "dog").iterdir():
        file.rename(file.with_suffix(".heic"))
    assert load_labelled(folder, make_model()).empty == ("dog",)


def test_fewer_folders_than_classes(folder, make_model):
    assert f"{folder} has 3 folders ('cat' to 'emu'), and the network has 10 classes" in refusal(
        folder, make_model(classes=10)
    )


# --- nothing to read -----------------------------------------------------------------------------------


def test_no_folders(tmp_path, make_model):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    assert "contains no folders; give a folder with one folder of images per class" in refusal(tmp_path, make_model())


def test_no_images(tmp_path, make_model):
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    message = refusal(tmp_path, make_model())
    assert "contains no images in its 3 folders; known are .jpg" in message


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0"], ids=["empty", "text", "header"])
def test_an_unreadable_image_is_found_before_anything_runs(folder, make_model, content):
    path = folder / "dog" / "bad.jpg"
    path.write_bytes(content)
    message = refusal(folder, make_model())
    assert f"the image {path} cannot be read (" in message
    assert "remove or replace it" in message


def test_sixteen_bits_are_refused(folder, make_model):
    path = folder / "dog" / "deep.png"
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(path)
    assert f"the image {path} has more than 8 bits per channel" in refusal(folder, make_model())


def test_a_truncated_image_is_named(folder, make_model):
    path = folder / "emu" / "1.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    images = load_labelled(folder, make_model())
    with pytest.raises(DataError, match=f"the image {path} cannot be read"):
        list(images.batches())


def test_many_channels(folder, make_model):
    message = refusal(folder, make_model(channels=6))
    assert "the network reads 6 channels, and image files have 1 or 3; give an .npz" in message
