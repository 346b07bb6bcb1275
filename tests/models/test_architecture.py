"""What --arch takes: library names and the user's own code; strict loading of weights."""

import sys

import pytest
import torch
from torch import nn

from intraq_deploy.errors import ArchitectureError, CheckpointError, UnsupportedModelError, UsageError
from intraq_deploy.models import timm_zoo, torchvision_zoo
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.models.builtin import builtin_network
from intraq_deploy.models.checkpoint import read_checkpoint
from intraq_deploy.models.loading import load_model

GIVEN = {"input_size": 16, "mean": [0.5], "std": [0.25]}


@pytest.fixture
def weights(tmp_path, tiny):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_dict(), path)
    return path


def save_zeros(path, build) -> None:
    """A state_dict of the right names and shapes, without the time that random weights take."""
    with torch.device("meta"):
        shapes = build().state_dict()
    torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}, path)


def refusal(kind, *args, **options) -> str:
    with pytest.raises(kind) as caught:
        load_model(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the user's own code -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fixed", "flexible", "keywords", "stubborn", "reads_values", "TinyNet", "ready"])
def test_file_and_callable(weights, code, tiny, name):
    model = load_model(weights, arch=f"{code}:{name}", **GIVEN)
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(model.module(images), tiny(images), atol=1e-6)
    assert model.architecture == f"{code}:{name}"
    assert (model.classes, model.channels, model.input_shape) == (7, 3, (3, 16, 16))
    assert model.source.kind == "file"


@pytest.mark.parametrize("name", ["flexible", "keywords", "reads_values", "TinyNet"])
def test_num_classes_comes_from_the_checkpoint(tmp_path, code, tiny, name):
    tiny.fc = nn.Linear(8, 31)
    torch.save(tiny.state_dict(), tmp_path / "weights.pth")
    assert load_model(tmp_path / "weights.pth", arch=f"{code}:{name}", **GIVEN).classes == 31


def test_a_class_count_that_the_code_ignores(weights, code):
    assert load_model(weights, arch=f"{code}:ignores", **GIVEN).classes == 7


def test_a_class_count_that_cannot_be_read(weights, code):
    message = refusal(ArchitectureError, weights, arch=f"{code}:one_more", **GIVEN)
    assert "fc.weight changes from [1010, 8] to [1014, 8] with the counts" in message
    assert "name a callable that takes no arguments" in message


def test_module_and_callable(weights, code, monkeypatch):
    monkeypatch.chdir(code.parent)
    model = load_model(weights, arch="my_network:fixed", **GIVEN)
    assert model.architecture == "my_network:fixed"
    monkeypatch.delitem(sys.modules, "my_network")


def test_nothing_stays_on_the_import_path(weights, code):
    before = list(sys.path)
    load_model(weights, arch=f"{code}:fixed", **GIVEN)
    assert sys.path == before


def test_names_that_begin_like_a_wrapper(tmp_path, code, tiny):
    path = tmp_path / "inside.pth"
    torch.save({f"model.{key}": value for key, value in tiny.state_dict().items()}, path)
    assert load_model(path, arch=f"{code}:Inside", **GIVEN).classes == 7
    assert load_model(path, arch=f"{code}:fixed", **GIVEN).classes == 7


@pytest.mark.parametrize(
    ("name", "channels"),
    [("focus", 3), ("unshuffled", 3), ("head_first", 3), ("grey", 1), ("coordinates", 3), ("five_bands", 5)],
)
def test_channels_are_those_with_which_it_runs(tmp_path, code, name, channels):
    scope = {}
    sys.path.insert(0, str(tmp_path))
    try:
        exec(code.read_text(), scope)
    finally:
        sys.path.remove(str(tmp_path))
    torch.save(scope[name]().state_dict(), tmp_path / "weights.pth")
    assert load_model(tmp_path / "weights.pth", arch=f"{code}:{name}", **GIVEN).channels == channels


def test_one_channel(tmp_path, code):
    network = nn.Module()
    network.conv, network.bn, network.fc = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 7)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    model = load_model(tmp_path / "grey.pth", arch=f"{code}:greyscale", **GIVEN)
    assert (model.channels, model.preprocessing.mean) == (1, (0.5,))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs_width", "needs the arguments width; name a callable that takes none, or only num_classes"),
        ("returns_text", "returned a str; it must return a torch.nn.Module"),
        ("fails", "failed when it was called (KeyError: 'weights')"),
        ("NUMBER", "names a int; it must name a function or class"),
        ("fixd", "has no 'fixd'"),
    ],
)
def test_code_that_cannot_be_used(weights, code, name, words):
    message = refusal(ArchitectureError, weights, arch=f"{code}:{name}", **GIVEN)
    assert words in message
    assert f"{code}:{name}" in message


def test_lazy_layers_want_one_forward(weights, code):
    message = refusal(ArchitectureError, weights, arch=f"{code}:lazy", **GIVEN)
    assert "lazy layers, whose sizes show in the first forward (the first: fc.weight); run one in the" in message
    assert load_model(weights, arch=f"{code}:lazy_no_more", **GIVEN).classes == 7


def test_a_misspelt_callable_gets_a_suggestion(weights, code):
    assert "the nearest: fixed" in refusal(ArchitectureError, weights, arch=f"{code}:fixd", **GIVEN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nonexistent_package", "ModuleNotFoundError: No module named 'nonexistent_package'"),
        ("def net(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
    ids=["import", "syntax", "exit"],
)
def test_a_file_that_cannot_be_imported(weights, tmp_path, text, words):
    file = tmp_path / "broken.py"
    file.write_text(text)
    message = refusal(ArchitectureError, weights, arch=f"{file}:net", **GIVEN)
    assert f"{file} of --arch {file}:net cannot be imported ({words}" in message


def test_a_file_of_a_package_names_the_form_that_works(tmp_path, tiny, monkeypatch):
    package = tmp_path / "nets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("from torch import nn\nWIDTH = 8\n")
    (package / "small.py").write_text(
        "from .parts import WIDTH, nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 7))\n"
    )
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    message = refusal(ArchitectureError, tmp_path / "weights.pth", arch=f"{package / 'small.py'}:make", **GIVEN)
    assert "imports from its own package" in message
    assert "give --arch PACKAGE.small:make" in message
    monkeypatch.chdir(tmp_path)
    assert load_model(tmp_path / "weights.pth", arch="nets.small:make", **GIVEN).classes == 7


def test_a_missing_file_and_module(weights, tmp_path):
    assert "nowhere.py of --arch" in refusal(ArchitectureError, weights, arch=f"{tmp_path}/nowhere.py:net")
    assert "the module 'nowhere.at.all' of --arch" in refusal(ArchitectureError, weights, arch="nowhere.at.all:net")


def test_no_convolution(tmp_path):
    (tmp_path / "flat.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))\n"
    )
    torch.save({"1.weight": torch.zeros(5, 12), "1.bias": torch.zeros(5)}, tmp_path / "flat.pth")
    message = refusal(UnsupportedModelError, tmp_path / "flat.pth", arch=f"{tmp_path}/flat.py:net", **GIVEN)
    assert "has no 2-d convolution" in message


# --- names of libraries --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet18", "does not say whose; give --arch torchvision:resnet18 or --arch timm:resnet18"),
        ("resnet_of_mine", "is none of builtin:NAME, torchvision:NAME, timm:NAME, package.module:callable"),
        ("torchvision:", "is none of"),
        ("torchvision:resnet81", "torchvision has no classifier 'resnet81'; the nearest: resnet18"),
        ("torchvision:resnet18.V9", "torchvision:resnet18 has no weights 'V9'; it has IMAGENET1K_V1."),
        ("timm:qqq", "timm has no network 'qqq'; none of its 1,"),
        ("timm:resnet18x", "timm has no network 'resnet18x'; the nearest: resnet18"),
        ("timm:resnet18.a9_in1k", "timm:resnet18 has no weights 'a9_in1k'; the nearest: resnet18.a"),
        ("builtin:resnet20", "there is no built-in network 'resnet20'; the nearest: resnet20-cifar10"),
    ],
)
def test_unknown_names(weights, spec, words):
    assert words in refusal(ArchitectureError, weights, arch=spec)


@pytest.mark.parametrize(
    ("spec", "resize", "origin"),
    [
        ("torchvision:resnet50", 232, "torchvision ResNet50_Weights.IMAGENET1K_V2"),
        ("torchvision:resnet50.IMAGENET1K_V1", 256, "torchvision ResNet50_Weights.IMAGENET1K_V1"),
        ("timm:resnet50", 235, "timm resnet50.a1_in1k"),
        ("timm:resnet50.tv_in1k", 256, "timm resnet50.tv_in1k"),
    ],
)
def test_a_tag_chooses_the_preprocessing(spec, resize, origin):
    preprocessing = find_architecture(spec).preprocessing
    assert (preprocessing.resize, preprocessing.source) == (resize, origin)


def test_timm_missing(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refusal(ArchitectureError, weights, arch="timm:resnet18")
    assert "pip install timm" in message


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_failed_download(library, monkeypatch):
    def offline(name):
        raise OSError("Name or service\nnot known")

    monkeypatch.setitem(load_model.__globals__["PRETRAINED"], library, offline)
    message = refusal(ArchitectureError, f"{library}:resnet18")
    assert "could not be downloaded (OSError: Name or service not known)" in message
    assert f"give a checkpoint file and --arch {library}:resnet18" in message


def test_published_weights(monkeypatch):
    network = torchvision_zoo.build("squeezenet1_1", 1000, 3)
    monkeypatch.setitem(load_model.__globals__["PRETRAINED"], "torchvision", lambda name: network)
    model = load_model("torchvision:squeezenet1_1")
    assert (model.source.kind, model.source.location, model.source.sha256) == (
        "torchvision",
        "torchvision:squeezenet1_1",
        None,
    )
    assert model.class_names[0] == "tench"
    assert "1000" not in model.preprocessing.source


def test_the_transform_inside_torchvisions_inception_is_mean_and_std():
    """transform_input of a pretrained GoogLeNet is what mean and std 0.5 say, so it must be off."""
    from torchvision.models import googlenet

    inside = googlenet(weights=None, transform_input=True, aux_logits=False, init_weights=False)
    pixels = torch.rand(2, 3, 8, 8)
    imagenet = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)

    preprocessing = torchvision_zoo.preprocessing("googlenet")
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert torch.allclose(inside._transform_input(imagenet), (pixels - 0.5) / 0.5, atol=1e-5)
    assert not torchvision_zoo.build("googlenet", 10, 3).transform_input


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_one_channel_in_a_library_network(tmp_path, library):
    zoo = {"torchvision": torchvision_zoo, "timm": timm_zoo}[library]
    save_zeros(tmp_path / "grey.pth", lambda: zoo.build("resnet18", 4, 1))
    model = load_model(tmp_path / "grey.pth", arch=f"{library}:resnet18", input_size=64, mean=[0.1307], std=[0.3081])
    assert (model.classes, model.channels) == (4, 1)


# --- weights that do not fit ---------------------------------------------------------------------------


def test_wrong_architecture(tmp_path):
    save_zeros(tmp_path / "resnet18.pth", lambda: torchvision_zoo.build("resnet18", 10, 3))
    message = refusal(CheckpointError, tmp_path / "resnet18.pth", arch="torchvision:resnet34")
    assert "does not fit torchvision:resnet34" in message
    assert "are missing (the first: layer1.2.conv1.weight [64, 64, 3, 3])" in message
    assert "give the --arch that it was trained with" in message


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "network.", "student.", "_model.", "encoder.", "a.net."])
@pytest.mark.parametrize("given", [True, False], ids=["arch", "found"])
def test_a_network_behind_any_one_prefix(tmp_path, code, caplog, prefix, given):
    """What training kept beside it is left out, and said: a loss, metrics, a counter."""
    kept = {"criterion.weight": torch.ones(5), "train_acc.tp": torch.tensor(3), "epoch": torch.tensor(7)}
    network = builtin_network("resnet20-cifar10")
    state = read_checkpoint(network.weights).tensors
    torch.save(kept | {prefix + name: tensor for name, tensor in state.items()}, tmp_path / "lightning.ckpt")
    arch = "builtin:resnet20-cifar10" if given else None
    model = load_model(tmp_path / "lightning.ckpt", arch=arch)
    assert model.architecture == "builtin:resnet20-cifar10"
    assert model.classes == 10
    assert torch.equal(model.module.state_dict()["conv1.weight"], state["conv1.weight"])
    assert (
        f"the network is behind {prefix!r}; 3 other tensors are left out (the first: criterion.weight)" in caplog.text
    )


def test_a_backbone_without_its_head_is_told_by_what_it_lacks(tmp_path, code, tiny):
    body = {f"encoder.{name}": tensor for name, tensor in tiny.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": body}, tmp_path / "backbone.pth")
    message = refusal(CheckpointError, tmp_path / "backbone.pth", arch=f"{code}:TinyNet", **GIVEN)
    assert "2 are missing (the first: fc.weight" in message
    assert "not in the network" not in message


def test_two_networks_behind_prefixes_are_asked_for(tmp_path, code, tiny):
    state, other = tiny.state_dict(), {name: tensor + 1 for name, tensor in tiny.state_dict().items()}
    both = {f"student.{name}": t for name, t in state.items()} | {f"teacher.{name}": t for name, t in other.items()}
    torch.save(both, tmp_path / "both.pth")
    message = refusal(CheckpointError, tmp_path / "both.pth", arch=f"{code}:TinyNet", **GIVEN)
    assert "behind 'student.' and behind 'teacher.'; choose one with --weights student" in message
    model = load_model(tmp_path / "both.pth", arch=f"{code}:TinyNet", weights="teacher", **GIVEN)
    assert torch.equal(model.module.conv.weight, other["conv.weight"])


def test_an_averaged_model(tmp_path, code, tiny):
    torch.save(torch.optim.swa_utils.AveragedModel(tiny).state_dict(), tmp_path / "averaged.pth")
    model = load_model(tmp_path / "averaged.pth", arch=f"{code}:TinyNet", **GIVEN)
    assert torch.equal(model.module.conv.weight, tiny.conv.weight)


def test_weights_of_what_has_only_one_network():
    assert "leave it out" in refusal(UsageError, "builtin:resnet20-cifar10", weights="ema")


def test_wrong_shape(tmp_path, code, tiny):
    tiny.conv = nn.Conv2d(3, 8, 5, bias=False)
    torch.save(tiny.state_dict(), tmp_path / "weights.pth")
    message = refusal(CheckpointError, tmp_path / "weights.pth", arch=f"{code}:fixed", **GIVEN)
    assert "1 is different (the first: conv.weight [8, 3, 5, 5] in the file, [8, 3, 3, 3] in the" in message


def test_missing_and_unexpected(tmp_path, code, tiny):
    state = tiny.state_dict()
    state["head.bias"] = state.pop("fc.bias")
    torch.save(state, tmp_path / "weights.pth")
    message = refusal(CheckpointError, tmp_path / "weights.pth", arch=f"{code}:fixed", **GIVEN)
    assert "1 is missing (the first: fc.bias [7])" in message
    assert "1 is not in the network (the first: head.bias [7])" in message


def test_integers_are_no_weights(tmp_path, code, tiny):
    state = tiny.state_dict()
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    torch.save(state, tmp_path / "weights.pth")
    message = refusal(CheckpointError, tmp_path / "weights.pth", arch=f"{code}:fixed", **GIVEN)
    assert "fc.weight [7, 8] int8 in the file, [7, 8] in the network" in message


def test_auxiliary_heads_are_dropped(tmp_path):
    from torchvision.models import googlenet

    save_zeros(
        tmp_path / "googlenet.pth",
        lambda: googlenet(weights=None, num_classes=6, aux_logits=True, init_weights=False),
    )
    model = load_model(tmp_path / "googlenet.pth", input_size=64)
    assert (model.architecture, model.classes) == ("torchvision:googlenet", 6)
    assert not any(name.startswith("aux") for name, _ in model.module.named_modules())


def test_a_branch_is_not_absent_because_of_its_name(weights, code):
    """The file has no aux.*: right where the logits do not depend on it, and random weights where they do."""
    message = refusal(CheckpointError, weights, arch=f"{code}:with_aux_branch", **GIVEN)
    assert "weights.pth does not fit" in message
    assert "5 are missing (the first: aux.0.weight [8, 3, 1, 1])" in message
    model = load_model(weights, arch=f"{code}:with_aux_head", **GIVEN)
    assert all(bool(tensor.isfinite().all()) for tensor in model.module.state_dict().values())


def test_no_counters_of_batches(tmp_path, code, tiny):
    state = {key: value for key, value in tiny.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert load_model(tmp_path / "old.pth", arch=f"{code}:fixed", **GIVEN).classes == 7


# --- the model -----------------------------------------------------------------------------------------


def test_the_module_is_ready(weights, code):
    state = torch.random.get_rng_state()
    model = load_model(weights, arch=f"{code}:TinyNet", **GIVEN)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.module.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.module.parameters())


class Whole(nn.Sequential):
    """A network that is pickled whole."""


def test_a_trusted_module_is_its_own_architecture(tmp_path):
    network = Whole(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    torch.save({"model": network}, tmp_path / "whole.pth")
    model = load_model(tmp_path / "whole.pth", trust_pickle=True, **GIVEN)
    assert (model.classes, model.channels) == (5, 3)
    assert model.architecture.endswith(":Whole")
    assert model.source.sha256 is not None
