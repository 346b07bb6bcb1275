"""Correction of means and gains: what it leaves in every layer, and what it undoes."""

import pytest
import torch
from support import SMALL_SHAPE, model_of, random_images, small_network

from intraq_deploy import api
from intraq_deploy.graph import trace
from intraq_deploy.graph.execute import walk
from intraq_deploy.graph.ops import HAS_WEIGHT
from intraq_deploy.quantization import make_scheme
from intraq_deploy.quantization.build import build_network
from intraq_deploy.synthesis import SyntheticSet
from intraq_deploy.training import correct, correction
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.teacher import Teacher

CPU = torch.device("cpu")
IMAGES = SyntheticSet(random_images(32), torch.arange(32) % 10, torch.ones(32))
NETWORKS = ("resnet", "mobilenet")


def teacher(network="resnet"):
    return Teacher(trace(small_network(network), SMALL_SHAPE))


def outputs(network, graph):
    """Of every layer in front of its activation, float64 [values, channels], and how many values an image has."""
    found = {}

    def evaluate(node, inputs):
        if isinstance(node.op, HAS_WEIGHT):
            y = network.evaluate_layer(node, inputs[0]).double()
            found[node.name] = y.movedim(1, -1).reshape(-1, y.shape[1]), y[0, 0].numel()
        return network.evaluate(node, inputs)

    with torch.no_grad():
        walk(graph, IMAGES.images, evaluate)
    return found


def bias_step(student, name):
    """float32 [O]; 0 where the layer runs in float."""
    layer, node = student.layer(name), student.graph[name]
    source = student.quantizer(node.inputs[0]) if student.placement.layers[name].integer else None
    with torch.no_grad():
        return (0 if source is None else source.scale) * layer.quantizer(layer.weight)[1] * layer.gain().abs()


@pytest.mark.parametrize("scheme", ["integer", "paper"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_channel_has_the_float_networks_mean_and_no_gain_is_left(student, network, scheme):
    made, expected = student(network, scheme), teacher(network)
    before = outputs(made, made.graph)
    correct(made, expected, IMAGES, 0, CPU)
    after, floats = outputs(made, made.graph), outputs(expected, made.graph)
    moved = False
    for name, (t, positions) in floats.items():
        y, b = after[name][0], before[name][0]
        # What is left is the rounding of the bias to the accumulator's grid, of the new one and of that before.
        assert ((y.mean(0) - t.mean(0)).abs() < 1.01 * bias_step(made, name) + 1e-4).all(), name
        moved |= bool(((b.mean(0) - t.mean(0)).abs() > 0.1 * t.std(0)).any())
        if positions > 1:
            centred = y - y.mean(0)
            gain = (centred * t).mean(0) / centred.square().mean(0)
            assert ((gain - 1).abs() < 1e-3).all(), name
    assert moved, "there was nothing to correct"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_damaged_student_comes_back(student, network):
    made, expected = student(network, weight_bits=8, activation_bits=8), teacher(network)
    answers = expected(IMAGES.images)
    with torch.no_grad():
        whole = distillation(made(IMAGES.images), answers, 1.0)
        for node in made.graph.layers():
            layer = made.layer(node.name)
            layer.beta.add_(0.5)
            layer.gamma.mul_(1 if node.name == "fc" else 1.3)
        damaged = distillation(made(IMAGES.images), answers, 1.0)
        correct(made, expected, IMAGES, 0, CPU)
        corrected = distillation(made(IMAGES.images), answers, 1.0)
    assert damaged > 100 * whole
    assert corrected < 0.01 * damaged


def test_a_channel_with_one_value_per_image_keeps_its_gain(student):
    made = student()
    correct(made, teacher(), IMAGES, 0, CPU)
    layers = {node.name: made.layer(node.name).gamma for node in made.graph.layers()}
    assert torch.equal(layers.pop("fc"), torch.ones(10))
    assert not any(torch.equal(gamma, student().layer(name).gamma) for name, gamma in layers.items())


def test_dead_channels_and_lost_ones_stay_finite():
    module = small_network("resnet")
    with torch.no_grad():
        module.bn1.weight[0] = 0
        module.layer1.conv1.weight[1] = 0
    graph, images = trace(module, SMALL_SHAPE), IMAGES.images
    made, expected = build_network(graph, make_scheme("integer", 2, 2), images, 0), Teacher(graph)
    before = {node.name: made.layer(node.name).gamma.clone() for node in made.graph.layers()}
    correct(made, expected, IMAGES, 0, CPU)
    for name, gamma in before.items():
        now = made.layer(name).gamma
        ratio = torch.where(gamma == 0, 1, now / gamma)
        assert ((ratio > 0.499) & (ratio < 2.001)).all()
        assert torch.equal(now == 0, gamma == 0)
    assert all(parameter.isfinite().all() for parameter in made.parameters())
    assert made(images).isfinite().all()


def test_the_seed_draws_the_images(student, monkeypatch):
    monkeypatch.setattr(correction, "_IMAGES", 16)
    betas = []
    for seed in (0, 0, 1):
        made = student()
        correct(made, teacher(), IMAGES, seed, CPU)
        betas.append(made.layer("fc").beta.detach().clone())
    assert torch.equal(betas[0], betas[1])
    assert not torch.equal(betas[0], betas[2])


def test_it_tells_of_every_layer_with_weights(student):
    made, told = student(), []
    correct(made, teacher(), IMAGES, 0, CPU, lambda *at: told.append(at))
    count = sum(isinstance(node.op, HAS_WEIGHT) for node in made.graph.nodes)
    assert told == [(layer, count) for layer in range(1, count + 1)]


def test_a_recipe_switches_it_on(tmp_path):
    """Also where nothing is trained."""
    model = model_of(small_network("mobilenet"), SMALL_SHAPE, 10)
    answers = teacher("mobilenet")(IMAGES.images)
    found = {}
    for value in ("false", "true"):
        file = tmp_path / f"{value}.toml"
        file.write_text(f'extends = "quick"\n[quantization]\ncorrect = {value}\n[training]\nsteps = 0\n')
        with torch.no_grad():
            found[value] = distillation(api.quantize(model, IMAGES, recipe=file)(IMAGES.images), answers, 1.0)
    assert found["true"] < 0.5 * found["false"]


def test_layers_over_tokens_have_their_channels_last():
    """[N, T, C]: as many values per image as tokens."""
    pairs = correction._Pairs()
    t = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    slope, offset = torch.tensor([0.8, 1.0, 1.5]), torch.tensor([1.0, 0.0, -2.0])
    pairs.see((t - offset) / slope, t)
    gain, moved = pairs.line()
    torch.testing.assert_close(gain, slope)
    torch.testing.assert_close(moved, offset)
