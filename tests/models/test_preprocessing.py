"""Preprocessing: the weights entry's values, and the user's in their place."""

import pytest

from intraq_deploy.errors import UsageError
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.models.preprocessing import resolve_preprocessing

ENTRY = Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, "bicubic", "timm net.tag")


def resolve(entry=ENTRY, channels=3, **options):
    return resolve_preprocessing(entry, channels, spec="timm:net", **options)


def test_the_entry_alone():
    assert resolve() == ENTRY


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({"mean": [0.5, 0.4, 0.3]}, "timm net.tag, with --mean"),
        ({"mean": [0.5], "std": [0.2]}, "timm net.tag, with --mean and --std"),
        (
            {"mean": [0.5], "std": [0.2], "input_size": 64},
            "timm net.tag, with --input-size, --mean and --std",
        ),
    ],
    ids=["one", "two", "three"],
)
def test_the_source_says_what_was_given(options, source):
    assert resolve(**options).source == source


def test_one_value_is_for_every_channel():
    preprocessing = resolve(mean=[0.5], std=[0.25])
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert preprocessing.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("size", "shape", "resize"),
    [(192, (192, 192), 219), (448, (448, 448), 512), (224, (224, 224), 256), ((112, 224), (112, 224), 128)],
)
def test_resizing_follows_the_input_size_in_proportion(size, shape, resize):
    preprocessing = resolve(input_size=size)
    assert (preprocessing.input_size, preprocessing.resize) == (shape, resize)
    assert preprocessing.interpolation == "bicubic"


def test_squashing_stays():
    entry = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3, 64, source="x", squash=True)
    assert resolve(entry, input_size=32).squash


def test_without_an_entry():
    preprocessing = resolve(None, 1, input_size=28, mean=[0.1307], std=[0.3081])
    assert preprocessing == Preprocessing(
        (28, 28), (0.1307,), (0.3081,), None, "bilinear", "--input-size, --mean and --std"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give --input-size, --mean and --std as it was trained with"),
        ({"input_size": 32}, "give --mean and --std as"),
        ({"input_size": 32, "mean": [0.5]}, "give --std as"),
    ],
    ids=["all", "two", "one"],
)
def test_nothing_is_assumed(options, words):
    with pytest.raises(UsageError, match=f"timm:net comes without preprocessing; {words}"):
        resolve(None, **options)


def test_an_entry_for_colour_is_none_for_grey():
    with pytest.raises(UsageError, match=r"reads images of 1 channel here.*0.485.*; give --mean and --std\."):
        resolve(channels=1)
    with pytest.raises(UsageError, match=r"give --std\."):
        resolve(channels=1, mean=[0.5])
    assert resolve(channels=1, mean=[0.5], std=[0.2]).mean == (0.5,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": [0.5, 0.5]}, "--mean has 2 values, and the network reads 3 channels; give one per channel"),
        ({"std": [0.5, 0.5, 0.5, 0.5]}, "--std has 4 values"),
        ({"mean": []}, "--mean has 0 values"),
        ({"std": [0.2, 0.0, 0.2]}, "--std is 0.2, 0, 0.2; it must be positive"),
        ({"std": [-0.5]}, "--std is -0.5, -0.5, -0.5"),
        ({"std": [float("nan")]}, "--std is nan"),
        ({"mean": [123.7, 116.3, 103.5]}, "--mean is 123.7, 116.3, 103.5; .* divide values of 0..255 by 255"),
        ({"mean": [float("inf")]}, "--mean is inf"),
        ({"input_size": 0}, "--input-size is 0; give one or two positive"),
        ({"input_size": (32, -1)}, r"--input-size is \(32, -1\)"),
        ({"input_size": (32, 32, 3)}, r"--input-size is \(32, 32, 3\)"),
    ],
)
def test_values_out_of_range(options, words):
    with pytest.raises(UsageError, match=words):
        resolve(**options)
