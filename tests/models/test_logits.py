"""Which of a network's outputs are its logits."""

import pickle
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from intraq_deploy.errors import UnsupportedModelError, UsageError
from intraq_deploy.models.logits import return_logits

SHAPE = (3, 16, 16)


@dataclass
class Output:
    scores: Tensor
    features: Tensor


Named = namedtuple("Named", ["features", "logits"])


class Returning(nn.Module):
    """A network whose answer is made by a function of (logits [N, 7], features [N, 8])."""

    def __init__(self, network, answer) -> None:
        super().__init__()
        self.network = network
        self.answer = answer

    def forward(self, images):
        logits = self.network(images)
        return self.answer(logits, torch.cat([logits, logits[:, :1]], 1))


def logits_of(tiny, answer, **options):
    """Returns: whether the network then gives the tiny network's logits, and the class count."""
    module = Returning(tiny, answer).eval()
    classes = return_logits(module, SHAPE, **options)
    images = torch.randn(5, *SHAPE)
    return torch.equal(module(images), tiny(images)), classes


def test_a_tensor_is_taken_as_it_is(tiny):
    images = torch.randn(5, *SHAPE)
    expected = tiny(images)
    assert return_logits(tiny, SHAPE) == 7
    assert torch.equal(tiny(images), expected)
    assert not tiny._forward_hooks
    assert not tiny._forward_pre_hooks


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits, features: (features, logits),
        lambda logits, features: [logits, features],
        lambda logits, features: {"features": features, "out": logits, "loss": None},
        Output,
        lambda logits, features: Named(features, logits),
        lambda logits, features: SimpleNamespace(logits=logits, features=features),
        lambda logits, features: (logits, features.unsqueeze(2), "text"),
    ],
    ids=["tuple", "list", "dict", "dataclass", "named-tuple", "object", "mixed"],
)
def test_the_only_tensor_with_the_class_count(tiny, answer):
    assert logits_of(tiny, answer, classes=7) == (True, 7)


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits, features: {"aux_logits": -logits, "logits": logits},
        lambda logits, features: SimpleNamespace(aux=-logits, logits=logits),
        lambda logits, features: Named(-logits, logits),
    ],
    ids=["dict", "object", "named-tuple"],
)
def test_of_several_the_one_called_logits(tiny, answer):
    assert logits_of(tiny, answer, classes=7) == (True, 7)


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits, features: (logits.softmax(1), logits),
        lambda logits, features: {"z": logits, "p": logits.softmax(1), "log p": logits.log_softmax(1)},
    ],
    ids=["tuple", "dict"],
)
def test_probabilities_beside_the_logits_are_none(tiny, answer):
    assert logits_of(tiny, answer, classes=7) == (True, 7)


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (lambda logits, features: (-logits, logits), 1),
        (lambda logits, features: (-logits, logits), "1"),
        (lambda logits, features: {"aux": -logits, "main": logits}, "main"),
        (lambda logits, features: {"aux": -logits, "main": logits}, 1),
        (Output, "scores"),
        (Named, 0),
    ],
    ids=["index", "index-as-text", "key", "position", "field", "named-tuple"],
)
def test_the_choice(tiny, answer, output):
    assert logits_of(tiny, answer, output=output) == (True, 7)


def test_two_candidates_ask_for_the_choice(tiny):
    with pytest.raises(UsageError) as caught:
        logits_of(tiny, lambda logits, features: {"main": logits, "aux": logits})
    assert "2 tensors that could be its logits" in str(caught.value)
    assert "choose one with --output: main [2, 7], aux [2, 7]" in str(caught.value)


def test_a_wrong_choice_lists_what_there_is(tiny):
    with pytest.raises(UsageError, match=r"--output is head, but .* main \[2, 7\], 3 \[2, 8\]; choose one"):
        logits_of(tiny, lambda logits, features: {"main": logits, 3: features}, output="head")


def test_a_choice_where_there_is_none(tiny):
    with pytest.raises(UsageError, match="--output is 1, but the network returns a single tensor"):
        return_logits(tiny, SHAPE, output=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda logits, features: logits[..., None, None], r"shape \[2, 7, 1, 1\] for 2 images, not logits"),
        (lambda logits, features: logits.argmax(1), r"torch.int64 of shape \[2\]"),
        (lambda logits, features: logits[:, :1], "1 output per image, .* at least 2 classes"),
        (lambda logits, features: logits * float("nan"), "logits are NaN or infinite"),
        (
            lambda logits, features: (logits[..., None],),
            r"no tensor of shape \[N, classes\], only 0 \[2, 7, 1\]",
        ),
        (lambda logits, features: {}, "only nothing; wrap it"),
        (lambda logits, features: None, "only nothing; wrap it"),
        (lambda logits, features: {"loss": None, "out": {"logits": logits}}, r"only loss \(NoneType\), out \(dict\)"),
    ],
    ids=["maps", "labels", "sigmoid", "nan", "tuple-of-maps", "empty", "none", "deeper"],
)
def test_no_logits(tiny, answer, words):
    with pytest.raises(UnsupportedModelError, match=words):
        logits_of(tiny, answer)


def test_features_are_not_taken_for_logits(tiny):
    with pytest.raises(UnsupportedModelError, match=r"no tensor of shape \[N, 7\], only 0 \[2, 8\]"):
        logits_of(tiny, lambda logits, features: (features,), classes=7)


def test_a_network_that_does_not_run_at_this_size():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()
    assert return_logits(network, (3, 8, 8)) == 5
    with pytest.raises(UnsupportedModelError) as caught:
        return_logits(network, (3, 32, 16))
    message = str(caught.value)
    assert "does not run on images of 3 channels and 32x16 pixels (RuntimeError: " in message
    assert "give the --input-size that it was trained with" in message
    assert "\n" not in message


class Masked(Returning):
    def forward(self, images, mask):
        return super().forward(images * mask)


class ChannelsLast(Returning):
    def forward(self, images):
        return super().forward(images.permute(0, 3, 1, 2))


class Deep(Returning):
    def forward(self, images):
        return self.network(images, 1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Masked, "required positional argument: 'mask'.; wrap it in a network whose forward takes the images alone"),
        (ChannelsLast, "it takes .N, H, W, C.: wrap it in a network"),
        (Deep, "give the --input-size"),
    ],
)
def test_what_a_forward_takes_is_said(tiny, kind, words):
    with pytest.raises(UnsupportedModelError, match=words):
        return_logits(kind(tiny, lambda logits, features: logits).eval(), SHAPE)


def test_the_network_can_be_pickled(tiny):
    module = nn.Sequential(tiny, nn.Softmax(1)).eval()
    return_logits(module, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(pickle.loads(pickle.dumps(module))(images), module(images))


def test_the_traced_network_has_its_own_names(tiny):
    from intraq_deploy.graph.execute import run_float
    from intraq_deploy.graph.trace import trace

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = tiny

        def forward(self, images):
            return {"logits": self.network(images), "images": images}

    module, images = Both().eval(), torch.randn(2, *SHAPE)
    return_logits(module, SHAPE)
    graph = trace(module, SHAPE)
    assert torch.allclose(run_float(graph, images), tiny(images), atol=1e-4)
    assert {f"{name}.weight" for name in graph.weights} <= set(module.state_dict())


class InPlace(nn.Module):
    """A network that normalises the images that it is given where they are."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.sub_(0.5).div_(0.25))


def test_images_that_are_changed_in_place_stay_what_they_are(tiny):
    from intraq_deploy.graph.execute import run_float
    from intraq_deploy.graph.trace import trace

    module = InPlace(tiny).eval()
    classes = return_logits(module, SHAPE)
    images = torch.randn(5, *SHAPE)
    given = images.clone()
    expected = tiny((images - 0.5) / 0.25)
    assert classes == 7
    assert torch.allclose(module(given), expected, atol=1e-5)
    assert torch.equal(given, images)
    module(given.requires_grad_()).sum().backward()
    assert given.grad.isfinite().all()
    assert torch.allclose(run_float(trace(module, SHAPE), images), expected, atol=1e-4)


@pytest.mark.parametrize("make", [
    lambda network: nn.Sequential(network, nn.Softmax(dim=1)),
    lambda network: nn.Sequential(network, nn.Softmax(dim=-1)),
    lambda network: nn.Sequential(network, nn.LogSoftmax(dim=1)),
    lambda network: Returning(nn.Sequential(network, nn.Softmax(1)), lambda p, more: {"probabilities": p, "x": None}),
], ids=["softmax", "last-dimension", "log-softmax", "in-a-dictionary"])  # fmt: skip
def test_a_softmax_at_the_end_is_left_out(tiny, make, caplog):
    from intraq_deploy.graph.execute import run_float
    from intraq_deploy.graph.trace import trace

    module = make(tiny).eval()
    classes = return_logits(module, SHAPE)
    images = torch.randn(5, *SHAPE)
    assert classes == 7
    assert torch.allclose(module(images), tiny(images).log_softmax(1), atol=1e-5)
    assert ("ends in a softmax, which is left out" in caplog.text) == ("LogSoftmax" not in str(module))
    assert torch.allclose(run_float(trace(module, SHAPE), images), tiny(images), atol=1e-4)


def test_the_random_state_is_left_alone(tiny):
    state = torch.random.get_rng_state()
    return_logits(tiny, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)
