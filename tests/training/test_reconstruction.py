"""Block-wise reconstruction: blocks, learned rounding, and what it leaves."""

from dataclasses import replace

import pytest
import torch
from support import SMALL_SHAPE, random_images, realistic, small_network
from torch import nn

from intraq_deploy.errors import DivergedError, UsageError
from intraq_deploy.graph.execute import run_float
from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import reconstruction
from intraq_deploy.training.blocks import block_outputs, blocks
from intraq_deploy.training.checkpoint import load_student, save_student
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.losses import features
from intraq_deploy.training.recipe import ReconstructionRecipe, TrainingRecipe
from intraq_deploy.training.reconstruction import reconstruct
from intraq_deploy.training.rounding import commit, soften, undecided
from intraq_deploy.training.teacher import Teacher

CPU = torch.device("cpu")
RECIPE = ReconstructionRecipe(enabled=True, steps=8, batch=16)
IMAGES = SyntheticSet(random_images(32), torch.arange(32) % 10, torch.ones(32))


def teacher(network="resnet"):
    return Teacher(trace(small_network(network), SMALL_SHAPE))


def reconstructed(student, recipe=RECIPE, seed=0, network="resnet"):
    reconstruct(student, teacher(network), IMAGES, recipe, seed, CPU)
    return student


def layers_of(student):
    return {node.name: student.layer(node.name) for node in student.graph.layers()}


def codes_of(student):
    return {name: layer.quantizer.codes(layer.weight) for name, layer in layers_of(student).items()}


class Crossing(nn.Module):
    """Without batch norm, without a name for any block: the second sum reads what was made before the first."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(i, 4, 3, 1, 1) for i in (3, 4, 4))
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.one(x) + x)
        y = torch.relu(self.two(y) + x)
        return self.fc(y.mean((2, 3)))


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


NETWORKS = {
    "resnet": lambda: small_network("resnet"),
    "mobilenet": lambda: small_network("mobilenet"),
    "crossing": lambda: realistic(Crossing(), SMALL_SHAPE),
    "plain": lambda: realistic(plain(), SMALL_SHAPE),
}


# --- blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_run_one_after_the_other_are_the_network(name):
    graph = trace(NETWORKS[name](), SMALL_SHAPE)
    network, parts, images = Teacher(graph), blocks(graph), random_images(4)
    assert [node for block in parts for node in block.nodes] == list(graph.nodes)
    assert [block.name for block in parts][: len(block_outputs(graph))] == block_outputs(graph)
    tensors = {graph.input.name: images}
    for block in parts:
        tensors |= block.run(tensors, network.evaluate)
    assert torch.equal(tensors[graph.output], network(images))
    torch.testing.assert_close(tensors[graph.output], run_float(graph, images), atol=1e-4, rtol=1e-4)


def test_a_block_gives_whatever_is_read_behind_it():
    first, second, last = blocks(trace(NETWORKS["crossing"](), SMALL_SHAPE))
    assert first.inputs == ("image",)
    assert first.outputs == ("stem", first.name)
    assert second.inputs == (first.name, "stem")
    assert (second.outputs, last.inputs) == ((second.name,), (second.name,))
    assert last.outputs == ("fc",)


# --- learned rounding ----------------------------------------------------------------------------------


def test_rounding_starts_where_the_weights_are_and_ends_on_their_grid(student):
    layer = student(weight_bits=3).layer("layer2.conv1")
    grid, weight = layer.quantizer, layer.weight.detach().clone()
    scale = grid.scale.detach().reshape(-1, 1, 1, 1)
    soft = soften(layer)
    torch.testing.assert_close(layer.quantizer(layer.weight)[0], weight.clamp(-3 * scale, 3 * scale))
    assert torch.equal(soft.codes(weight), ((weight / scale).floor() + (weight / scale % 1 >= 0.5)).clamp(-3, 3).int())
    with torch.no_grad():
        soft.v.neg_()  # all to the farther neighbour
    expected = soft.codes(weight)
    commit(layer)
    assert type(layer.quantizer) is LearnedWeightQuantizer
    assert layer.quantizer.scale is grid.scale
    assert torch.equal(layer.quantizer.codes(layer.weight), expected)
    assert torch.equal(layer.quantizer(layer.weight)[0], expected * scale)
    torch.testing.assert_close(layer.weight.detach(), expected * scale, rtol=1e-3, atol=0)


def test_what_is_undecided_counts(student):
    soft = soften(student().layer("fc"))
    with torch.no_grad():
        soft.v.fill_(0.0)
        assert float(undecided([soft], 2.0)) == float(undecided([soft], 20.0)) == 1
        soft.v.fill_(9.0)
        assert float(undecided([soft, soft], 2.0)) == 0
        soft.v.fill_(1.0)
        assert 0 < float(undecided([soft], 2.0)) < float(undecided([soft], 20.0)) < 1


# --- reconstruction ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "scheme"), [("resnet", "integer"), ("mobilenet", "integer"), ("resnet", "ends8")])
def test_every_block_comes_nearer_to_the_teachers(student, network, scheme):
    made = student(network=network, scheme=scheme, weight_bits=3, activation_bits=4)
    expected = teacher(network)
    ends = block_outputs(made.graph)

    def errors():
        with torch.no_grad():
            logits, found = made.features(IMAGES.images, ends)
            wanted_logits, wanted = expected.features(IMAGES.images, ends)
        pairs = [(found[name], wanted[name]) for name in ends] + [(logits, wanted_logits)]
        return [float(features({"": a}, {"": b})) for a, b in pairs]

    before, seen = errors(), []
    recipe = replace(RECIPE, steps=60)
    reconstruct(made, expected, IMAGES, recipe, 0, CPU, lambda *progress: seen.append(progress))
    after = errors()
    assert all(new < old for new, old in zip(after, before, strict=True)), (before, after)
    assert after[-1] < 0.7 * before[-1]
    assert {block for block, _, _ in seen} == set(range(len(blocks(made.graph))))
    assert [step for block, step, _ in seen if block == 0] == [1, 11, 21, 31, 41, 51, 60]


def test_what_is_changed_and_what_is_not(student):
    made = student(weight_bits=3)
    nearest, before = codes_of(made), {name: tensor.clone() for name, tensor in made.state_dict().items()}
    names = [name for name, _ in made.named_parameters()]
    reconstructed(made, replace(RECIPE, steps=30))
    for name, codes in codes_of(made).items():
        assert 0 < int((codes - nearest[name]).abs().max()) <= 1, name
        assert codes.abs().max() <= 3
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    activations = {f"_quantizers./{name.replace('.', '/')}.scale" for name in made.placement.quantized()}
    assert changed == activations | {f"_layers./{name.replace('.', '/')}.weight" for name in layers_of(made)}
    assert [name for name, _ in made.named_parameters()] == names, "optimisers number parameters in this order"
    assert all(parameter.grad is None for name, parameter in made.named_parameters() if name not in activations)


def test_weights_are_on_their_grids_and_fine_tuning_can_move_all_of_them(student):
    made = reconstructed(student(weight_bits=2))
    for name, layer in layers_of(made).items():
        weight, _ = layer.quantizer(layer.weight)
        torch.testing.assert_close(layer.weight, weight, rtol=1e-3, atol=0)
        (gradient,) = torch.autograd.grad(weight.sum(), layer.weight)
        assert torch.equal(gradient, torch.ones_like(gradient)), name
    before = codes_of(made)["layer3.conv1"]
    recipe = TrainingRecipe(steps=8, batch=16, learning_rate=0.3, rate_unit="step")
    Trainer(made, teacher(), IMAGES, recipe, 0, CPU).run(8)
    moved = before != codes_of(made)["layer3.conv1"]
    assert moved[before.abs() == 1].any()
    assert moved[before == 0].any()


def test_the_same_seed_gives_the_same_student(student, tmp_path):
    one, two, other = (reconstructed(student(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert any(not torch.equal(codes, codes_of(other)[name]) for name, codes in codes_of(one).items())
    save_student(tmp_path / "student.safetensors", one)
    load_student(tmp_path / "student.safetensors", other)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_a_block_reads_what_both_networks_make(student, drop):
    """What the first block makes matters to the second, unless every value is dropped."""
    recipe = replace(RECIPE, scale_rate=0.0, drop=drop)
    one, two = student(), student()
    with torch.no_grad():
        two.layer("conv1").weight.mul_(0.5)
    reconstructed(one, recipe)
    reconstructed(two, recipe)
    same = torch.equal(codes_of(one)["layer2.conv1"], codes_of(two)["layer2.conv1"])
    assert same == (drop == 1)


def test_ranges_that_follow_the_weights_are_refused(student):
    with pytest.raises(UsageError, match=r'needs learned ranges, and these are min-max: .*ranges = "learned"'):
        reconstructed(student(scheme="paper"))


def test_an_error_that_is_not_finite_stops(student):
    made = student()
    with torch.no_grad():
        made.layer("layer2.conv2").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"the block that ends with layer2.add is nan at step 1, .*learning_rate"):
        reconstructed(made)


def test_a_block_that_comes_to_zeros_stops(student):
    with pytest.raises(DivergedError, match=r"layer1.add is 1 at step 8, where it began at 0.0\d+; .*scale_rate"):
        reconstructed(student(weight_bits=8, activation_bits=8), replace(RECIPE, scale_rate=1e3))


def test_a_healthy_error_is_not_blamed(student, monkeypatch):
    original = reconstruction._optimizer

    def breaking(*arguments):
        optimizer = original(*arguments)
        optimizer.register_step_post_hook(lambda made, *_: made.param_groups[0]["params"][0].data.fill_(torch.inf))
        return optimizer

    monkeypatch.setattr(reconstruction, "_optimizer", breaking)
    with pytest.raises(DivergedError, match=r"is 0\.\d+, and roundings or scales are not finite after step 1;"):
        reconstructed(student())


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_no_divergence(student, bits):
    reconstructed(student(weight_bits=bits, activation_bits=bits), replace(RECIPE, steps=40))
