"""Images that people have in memory: tensors, loaders and whatever yields them."""

import itertools
from collections import UserDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import SMALL_SHAPE, model_of, random_images, small_network
from torch.utils.data import DataLoader, TensorDataset

from intraq_deploy.data.iterables import first_images, labelled_batches
from intraq_deploy.errors import DataError, UsageError

IMAGES, LABELS = random_images(20), torch.arange(20) % 10
PIXELS = torch.randint(0, 256, (4, *SMALL_SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def model():
    return model_of(small_network("resnet"), SMALL_SHAPE, 10)


def pairs(batch):
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=batch)


FORMS = {
    "a tensor": lambda: IMAGES,
    "doubles": lambda: IMAGES.double(),
    "an array": lambda: IMAGES.numpy(),
    "gradients": lambda: IMAGES.clone().requires_grad_(),
    "a loader": lambda: pairs(7),
    "a loader of images alone": lambda: DataLoader(TensorDataset(IMAGES), batch_size=7),
    "a loader that collates nothing": lambda: DataLoader(TensorDataset(IMAGES, LABELS), 7, collate_fn=list),
    "a loader of lists of images": lambda: DataLoader(list(IMAGES), 7, collate_fn=list),
    "a dataset": lambda: TensorDataset(IMAGES, LABELS),
    "a generator of images": lambda: iter(IMAGES),
    "arrays": lambda: (image.numpy() for image in IMAGES),
    "pairs of an image and a label": lambda: zip(IMAGES, LABELS.tolist(), strict=True),
    "dictionaries": lambda: ({"image": image, "label": 3} for image in IMAGES),
    "batches of dictionaries": lambda: ({"pixel_values": part, "labels": None} for part in IMAGES.split(6)),
    "a processor's dictionary": lambda: UserDict(images=IMAGES),
    "an endless generator": lambda: itertools.cycle(IMAGES.split(3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_first_images(model, form):
    taken = first_images(FORMS[form](), model, 10)
    assert taken.dtype == torch.float32
    assert not taken.requires_grad
    assert torch.equal(taken, IMAGES[:10])


def test_where_there_are_fewer_all_are_taken(model):
    assert torch.equal(first_images(pairs(7), model, 1000), IMAGES)


def test_nothing_is_read_beyond_what_is_needed(model):
    read = []
    first_images((read.append(index) or part for index, part in enumerate(IMAGES.split(5))), model, 10)
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (3, UsageError, "The images are of type int: give a path, a tensor, or an iterable of tensors"),
        (None, UsageError, "The images are of type NoneType: give a path"),
        ([], DataError, "The images are 0 in number, and at least 2 are needed"),
        (IMAGES[0], DataError, "The images are 1 in number, and at least 2 are needed"),
        (["a.jpg"], DataError, "The images hold a value of type str: give float tensors"),
        ([{"x": IMAGES}], DataError, "A batch is a dictionary with the keys x: name its images image, images or"),
        (IMAGES[:, :1], DataError, "The images have the shape [20, 1, 32, 32], and the network reads 3 channels of"),
        (IMAGES[..., 1:], DataError, "The images have the shape [20, 3, 32, 31], and the network reads 3 channels of"),
        (IMAGES.permute(0, 2, 3, 1), DataError, "The images have the shape [20, 32, 32, 3] (channels come first), and"),
        (IMAGES[0, 0], DataError, "The images have the shape [32, 32], and the network reads"),
        (IMAGES * torch.nan, DataError, "The images have values that are not finite: look for NaN in them."),
        (PIXELS, DataError, "The images are uint8: give them as the network takes them, (pixel / 255 - mean) / std"),
        (PIXELS.long(), DataError, "The images are int64: give them as the network takes them"),
        (PIXELS.float(), DataError, "The images have values from 0 to 255, as pixels have: give them as the network"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(model, source, error, words):
    with pytest.raises(error) as refusal:
        first_images(source, model, 10)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


def test_pixels_without_normalisation_are_a_warning(model):
    with pytest.warns(UserWarning, match="between 0 and 1, as before normalisation: give them .* with mean 0.5, 0.5,"):
        first_images(PIXELS / 255, model, 4)


@pytest.mark.parametrize(("mean", "std", "scale"), [(0, 1, 1), (0, 1 / 255, 255), (0.5, 0.25, 4), (0, 1, 3)])
def test_what_may_be_is_neither_refused_nor_warned_of(model, mean, std, scale, recwarn):
    """A network that takes 0..1, one that takes 0..255, images with strong contrast, noise."""
    own = replace(model, preprocessing=replace(model.preprocessing, mean=(mean,) * 3, std=(std,) * 3))
    images = IMAGES * scale if scale in (3, 4) else PIXELS / 255 * scale
    assert torch.equal(first_images(images, own, 4), images[:4])
    assert not recwarn.list


@pytest.mark.parametrize(
    "form", ["a loader", "a loader that collates nothing", "a dataset", "pairs of an image and a label"]
)
def test_labels_stay_beside_their_images(form):
    batches = list(labelled_batches(FORMS[form](), SMALL_SHAPE, 10, None))
    assert torch.equal(torch.cat([images for images, _ in batches]), IMAGES)
    labels = torch.cat([labels for _, labels in batches])
    assert labels.dtype == torch.int64
    assert torch.equal(labels, LABELS)


def test_dictionaries_have_labels():
    ((images, labels),) = labelled_batches({"images": IMAGES, "labels": LABELS.numpy()}, SMALL_SHAPE, 10, None)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (IMAGES, "The images come without labels: give an iterable of pairs (images, labels)."),
        ([(IMAGES, LABELS[1:])], "A batch has 20 images and 19 labels: give one label per image."),
        ([(IMAGES, LABELS + 1)], "The labels contain 10, and the network has 10 classes: give 0 to 9."),
        ([(IMAGES, LABELS - 1)], "The labels contain -1, and the network has 10 classes"),
        ([(IMAGES, LABELS.float())], "The labels are float32 [20]: give one class index per image, integers."),
        ([(IMAGES, torch.eye(10)[LABELS])], "The labels are float32 [20, 10]: give one class index per image"),
        ([(IMAGES[0], "cat")], "The labels are of type str: give class indices, integers."),
        ([(PIXELS, LABELS[:4])], "The images are uint8: give them as the network takes them, (pixel / 255 -"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_labels_that_cannot_be_are_one_sentence(source, words):
    with pytest.raises(DataError) as refusal:
        list(labelled_batches(source, SMALL_SHAPE, 10, None))
    assert str(refusal.value).startswith(words)


def test_numpy_integers_are_labels():
    ((_, labels),) = labelled_batches([(IMAGES[0], np.int32(3))], SMALL_SHAPE, 10, None)
    assert labels.tolist() == [3]
