"""The network that ships with the package."""

import hashlib

import pytest
import torch
from torch import fx

from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import ArchitectureError
from intraq_deploy.models.builtin import NETWORKS, ResNet20
from intraq_deploy.models.loading import load_model

NAME = "builtin:resnet20-cifar10"


@pytest.fixture(scope="module")
def model():
    return load_model(NAME)


def test_the_model(model):
    assert model.architecture == NAME
    assert (model.classes, model.channels, model.input_shape) == (10, 3, (3, 32, 32))
    assert model.class_names[:2] == ("airplane", "automobile")
    assert model.preprocessing.source == "builtin resnet20-cifar10"
    weights = NETWORKS["resnet20-cifar10"].weights
    assert model.source.kind == "builtin"
    assert model.source.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_its_layers(model):
    kinds = [type(module).__name__ for module in model.module.modules()]
    assert (
        kinds.count("Conv2d"),
        kinds.count("BatchNorm2d"),
        kinds.count("ReLU"),
        kinds.count("Linear"),
    ) == (
        21,
        21,
        19,
        1,
    )
    assert sum(p.numel() for p in model.module.parameters()) == 272_474


def test_it_can_be_traced(model):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fx.symbolic_trace(model.module)(images), model.module(images))


def test_accuracy_on_the_sample(model):
    images = load_labelled("builtin:cifar10-sample", model).first(200)
    with torch.no_grad():
        correct = sum(int((model.module(x).argmax(1) == y).sum()) for x, y in images.batches(100))
    assert correct == 185


@pytest.mark.slow
def test_accuracy_on_all_test_images(model, shared_data, tmp_path):
    """The figure that the documentation gives."""
    import numpy as np
    from PIL import Image

    sheet = np.asarray(Image.open(shared_data / "cifar" / "cifar10_test.webp").convert("RGB"))
    tiles = sheet.reshape(100, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    labels = np.loadtxt(shared_data / "cifar" / "cifar10_test_labels.txt", dtype=np.int64)
    np.savez(tmp_path / "test.npz", images=tiles, labels=labels)
    images = load_labelled(tmp_path / "test.npz", model)
    with torch.no_grad():
        correct = sum(int((model.module(x).argmax(1) == y).sum()) for x, y in images.batches(250))
    assert 100 * correct / len(images) == pytest.approx(91.50, abs=0.02)


def test_the_weights_are_the_published_ones(model, shared_data):
    published = torch.load(shared_data / "builtin" / "resnet20_cifar10_projection.pth", weights_only=True)
    own = model.module.state_dict()
    assert own.keys() == published.keys()
    assert all(torch.equal(own[key], published[key]) for key in own)


def test_it_is_an_architecture_too(tmp_path):
    torch.save(ResNet20(classes=3).state_dict(), tmp_path / "mine.pth")
    model = load_model(tmp_path / "mine.pth", arch=NAME, mean=[0.5], classes=["a", "b", "c"])
    assert (model.classes, model.class_names) == (3, ("a", "b", "c"))
    assert model.preprocessing.source == "builtin resnet20-cifar10, with --mean"
    assert load_model(tmp_path / "mine.pth").class_names is None


def test_an_unknown_name():
    with pytest.raises(ArchitectureError, match="no built-in network 'resnet20'; the nearest: resnet20-cifar10"):
        load_model("builtin:resnet20")
