"""Naming a checkpoint's architecture from its tensors alone."""

import re
import time
from importlib.metadata import version

import pytest
import torch
from torch import nn

from intraq_deploy.errors import ArchitectureError
from intraq_deploy.models import timm_zoo, torchvision_zoo
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.models.builtin import NETWORKS, ResNet20
from intraq_deploy.models.fingerprint import DATA_FILE, find_candidates, load_index, nearest_architectures
from intraq_deploy.models.loading import load_model
from intraq_deploy.models.make_fingerprints import Tables
from intraq_deploy.models.shapes import FreeDimension, find_signature, probe_any_channels, shapes_of

SHAPES = {
    "torchvision": ("mobilenet_v2", "squeezenet1_1", "googlenet", "vit_b_16", "shufflenet_v2_x1_0"),
    "timm": ("mobilenetv3_small_100", "levit_128", "tresnet_m", "repvgg_a0", "csatv2", "dpn68"),
}
ZOOS = {"torchvision": torchvision_zoo, "timm": timm_zoo}
NAMES = [(library, name) for library, names in SHAPES.items() for name in names]


def candidates_of(module: nn.Module) -> list[str]:
    return [candidate.spec for candidate in find_candidates(shapes_of(module.state_dict()))]


def build(library: str, name: str, classes: int = 12, channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return ZOOS[library].build(name, classes, channels)


# --- the data file -------------------------------------------------------------------------------------


def test_the_file_covers_both_libraries():
    index = load_index()
    libraries = [spec.partition(":")[0] for spec in index.specs]
    assert libraries.count("builtin") == len(NETWORKS)
    assert libraries.count("torchvision") == 80
    assert libraries.count("timm") > 1300
    assert DATA_FILE.stat().st_size < 1_500_000


def test_what_has_no_fingerprint_says_why():
    failed = load_index().failed
    assert len(failed) < 20
    assert all(reason for reason in failed.values())
    assert not failed.keys() & set(load_index().specs)


def test_every_architecture_is_there_once():
    index = load_index()
    assert len(set(index.specs)) == len(index.specs) == len(index.sketches) == len(index.traits)
    positions = sorted(position for group in index.by_fingerprint.values() for position in group)
    assert positions == list(range(len(index.specs)))


def test_finding_takes_less_than_two_seconds():
    network = build("timm", "efficientnet_b0")
    shapes = shapes_of(network.state_dict())
    load_index.cache_clear()
    start = time.perf_counter()
    find_candidates(shapes)
    nearest_architectures(shapes)
    assert time.perf_counter() - start < 2


@pytest.mark.filterwarnings("ignore:CSATv2")
@pytest.mark.parametrize(("library", "name"), NAMES, ids=[f"{library}:{name}" for library, name in NAMES])
def test_the_file_is_what_the_generator_makes(library, name):
    index = load_index()
    if version(library) != index.versions[library]:
        pytest.skip(f"made with {library} {index.versions[library]}, installed is {version(library)}")
    tables = Tables()
    probed = probe_any_channels(lambda classes, channels: build(library, name, classes, channels))
    tables.add(f"{library}:{name}", probed, ZOOS[library].preprocessing(name))

    ((spec, _, value, _),) = tables.architectures
    (signature,) = tables.signatures
    group = index.by_fingerprint[index.signatures.index(signature), int(value, 16)]
    assert spec in [index.specs[position] for position in group]


# --- matches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 1000, 1009])
def test_class_count_comes_from_the_last_layer(classes):
    (found,) = find_candidates(shapes_of(build("torchvision", "mobilenet_v2", classes).state_dict()))
    assert (found.spec, found.classes, found.channels) == ("torchvision:mobilenet_v2", classes, 3)


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "mobilenet_v2"), ("timm", "tresnet_m"), ("timm", "repvgg_a0")]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_channels_come_from_the_first_convolution(library, name, channels):
    (found,) = find_candidates(shapes_of(build(library, name, 12, channels).state_dict()))
    assert (found.spec, found.channels) == (f"{library}:{name}", channels)


def test_no_counters_of_batches_are_needed():
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in ResNet20().state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert [found.spec for found in find_candidates(shapes)] == ["builtin:resnet20-cifar10"]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_make_no_difference(name):
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(name, weights=None, num_classes=12, aux_logits=True, init_weights=False)
    assert any(key.lower().startswith("aux") for key in network.state_dict())
    assert f"torchvision:{name}" in candidates_of(network)


@pytest.mark.parametrize("network", ["timm:tf_efficientnet_b0", "timm:resnet50", "torchvision:resnet18"])
def test_twins_are_all_listed(network):
    library, _, name = network.partition(":")
    found = candidates_of(build(library, name))
    assert network in found
    assert len(found) > 1
    assert found == sorted(found)


@pytest.mark.parametrize(
    "change",
    [
        lambda network: setattr(network.layer1[0], "conv1", nn.Conv2d(16, 16, 5, bias=False)),
        lambda network: delattr(network.layer3[2], "bn2"),
        lambda network: setattr(network, "extra", nn.Linear(2, 2)),
    ],
    ids=["shape", "missing", "unexpected"],
)
def test_one_other_tensor_is_no_match(change):
    network = ResNet20()
    change(network)
    assert candidates_of(network) == []
    ((nearest, share), *_) = nearest_architectures(shapes_of(network.state_dict()))
    assert nearest == "builtin:resnet20-cifar10"
    assert share > 0.85


def test_nothing_near_a_network_of_its_own():
    assert nearest_architectures(shapes_of(nn.Linear(3, 4).state_dict())) == []


# --- what a user sees ----------------------------------------------------------------------------------


def test_one_match_is_used_and_named(tmp_path):
    torch.save(ResNet20(classes=5).state_dict(), tmp_path / "mine.pth")
    model = load_model(tmp_path / "mine.pth")
    assert (model.architecture, model.classes) == ("builtin:resnet20-cifar10", 5)
    assert model.preprocessing.source == "builtin resnet20-cifar10"


def test_ambiguity_is_refused_with_the_candidates_and_their_differences(tmp_path):
    path = tmp_path / "efficientnet.pth"
    torch.save(timm_zoo.build("tf_efficientnet_b0", 5, 3).state_dict(), path)
    with pytest.raises(ArchitectureError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "exactly the tensors of 3 architectures; give --arch one of: " in message
    assert re.search(r"timm:efficientnet_b0 \(BatchNorm eps 1e-05, padding symmetric\)", message)
    assert re.search(r"timm:tf_efficientnet_b0 \(BatchNorm eps 0.001, padding SAME, as TensorFlow\)", message)
    assert load_model(path, arch="timm:tf_efficientnet_b0").architecture == "timm:tf_efficientnet_b0"


def test_no_match_lists_the_nearest(tmp_path):
    network = ResNet20()
    network.linear = network.fc
    del network.fc
    path = tmp_path / "other.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ArchitectureError) as caught:
        load_model(path)
    message = str(caught.value)
    assert f"{path} has the tensors of no known architecture" in message
    assert "the first conv1.weight [16, 3, 3, 3]" in message
    assert re.search(r"the nearest: builtin:resnet20-cifar10 \(about 9\d% of the tensors alike\)", message)
    assert "give --arch, for your own code path/to/file.py:callable" in message


# --- free dimensions -----------------------------------------------------------------------------------


def test_signature_tells_classes_from_channels():
    first = {"stem": (16, 3, 3, 3), "head": (1009, 16), "fold": (8, 48, 1, 1), "two": (2018,)}
    second = {"stem": (16, 4, 3, 3), "head": (1013, 16), "fold": (8, 64, 1, 1), "two": (2026,)}
    signature = find_signature(first, second)
    assert signature.classes == (FreeDimension("head", 0), FreeDimension("two", 0, 2))
    assert signature.channels == (FreeDimension("fold", 1, 16), FreeDimension("stem", 1))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"head": (1013, 16), "extra": (1,)}, "extra comes and goes"),
        ({"head": (1013, 16, 1)}, "the rank of head changes"),
        ({"head": (1010, 16)}, r"head changes from \[1009, 16\] to \[1010, 16\]"),
    ],
    ids=["names", "rank", "size"],
)
def test_other_changes_are_refused(second, words):
    with pytest.raises(ValueError, match=words):
        find_signature({"head": (1009, 16)}, second)


RECOGNISED = [
    "torchvision:googlenet", "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0", "torchvision:mnasnet1_0", "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf", "timm:mobilenetv1_100", "timm:repvgg_a0", "timm:ghostnet_100", "timm:resnet18d",
]  # fmt: skip
TWINS = {
    "torchvision:resnet50": {"timm:resnet50", "timm:resnetaa50", "timm:resnetblur50", "torchvision:resnet50"},
    "torchvision:densenet121": {"timm:densenet121", "torchvision:densenet121"},
    "timm:efficientnet_lite0": {"timm:efficientnet_lite0", "timm:tf_efficientnet_lite0"},
    "timm:tf_mobilenetv3_small_100": {"timm:mobilenetv3_small_100", "timm:tf_mobilenetv3_small_100"},
}


@pytest.mark.parametrize("spec", [*RECOGNISED, *TWINS])
def test_networks_are_recognised_with_another_class_count(spec):
    """Alone, or among those with the same tensors."""
    candidates = find_candidates(shapes_of(find_architecture(spec).make(37, 3).state_dict()))
    assert {candidate.spec for candidate in candidates} == TWINS.get(spec, {spec})
    assert {candidate.classes for candidate in candidates} == {37}
