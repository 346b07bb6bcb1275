"""Fitting layer by layer: what correction leaves in every layer, what it undoes, and what rounding gains."""

import pytest
import torch
from support import SMALL_SHAPE, model_of, random_images, small_network

from intraq_deploy import api
from intraq_deploy.errors import UsageError
from intraq_deploy.graph.execute import walk
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import HAS_WEIGHT, Add, Input, Linear
from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import compensation, layerwise, moments
from intraq_deploy.training.layerwise import fit_layers
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.recipe import FittingRecipe
from intraq_deploy.training.teacher import Teacher

CPU = torch.device("cpu")
IMAGES = SyntheticSet(random_images(32), torch.arange(32) % 10, torch.ones(32))
MANY = SyntheticSet(random_images(128), torch.arange(128) % 10, torch.ones(128))
OTHERS = random_images(64, seed=5)
NETWORKS = ("resnet", "mobilenet")
CORRECTED = FittingRecipe(correct=True, crops=0)
COMPENSATED = FittingRecipe(compensate=True, correct=True, crops=0)


def fit(student, teacher, recipe=CORRECTED, seed=0, images=IMAGES):
    fit_layers(student, teacher, images, recipe, seed, CPU)


def teacher(network="resnet"):
    return Teacher(trace(small_network(network), SMALL_SHAPE))


def outputs(network, graph, images=IMAGES.images):
    """What every layer makes in front of its activation, and what every node makes: float32 [N, ...], by name."""
    made, found = {}, {}

    def evaluate(node, inputs):
        if isinstance(node.op, HAS_WEIGHT):
            made[node.name] = network.evaluate_layer(node, inputs[0])
        found[node.name] = network.evaluate(node, inputs)
        return found[node.name]

    with torch.no_grad():
        walk(graph, images, evaluate)
    return made, found


def targets(student, expected):
    """What every layer is to make in front of its activation, float32 [N, ...], by name: what it makes in the float
    network, and in front of a sum what the sum's first summand lacks."""
    graph, (_, found) = student.graph, outputs(student, student.graph)
    made, floats = outputs(expected, graph)
    order = list(floats)
    for total in graph.nodes:
        if isinstance(total.op, Add):
            first, last = sorted(total.inputs, key=order.index)
            if last in made and len(graph.consumers(last)) == 1:
                made[last] = made[last] + floats[first] - found[first]
    return made


def by_channel(tensor):
    """float32 [N, C, ...] as float64 [values, C]."""
    return tensor.double().movedim(1, -1).reshape(-1, tensor.shape[1])


def bias_step(student, name):
    """float32 [O]; 0 where the layer runs in float."""
    layer, node = student.layer(name), student.graph[name]
    source = student.quantizer(node.inputs[0]) if student.placement.layers[name].integer else None
    with torch.no_grad():
        return (0 if source is None else source.scale) * layer.quantizer(layer.weight)[1] * layer.gain().abs()


@pytest.mark.parametrize("scheme", ["integer", "paper"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_channel_has_the_mean_it_is_to_have_and_no_gain_is_left(student, network, scheme):
    made, expected = student(network, scheme), teacher(network)
    before, _ = outputs(made, made.graph)
    fit(made, expected)
    after, _ = outputs(made, made.graph)
    moved = False
    for name, target in targets(made, expected).items():
        t, y, b, positions = by_channel(target), by_channel(after[name]), by_channel(before[name]), target[0, 0].numel()
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
        fit(made, expected)
        corrected = distillation(made(IMAGES.images), answers, 1.0)
    assert damaged > 100 * whole
    assert corrected < 0.01 * damaged


def test_a_channel_with_one_value_per_image_keeps_its_gain(student):
    made = student()
    fit(made, teacher())
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
    fit(made, expected)
    for name, gamma in before.items():
        now = made.layer(name).gamma
        ratio = torch.where(gamma == 0, 1, now / gamma)
        assert ((ratio > 0.499) & (ratio < 2.001)).all()
        assert torch.equal(now == 0, gamma == 0)
    assert all(parameter.isfinite().all() for parameter in made.parameters())
    assert made(images).isfinite().all()


def test_the_seed_draws_the_images(student):
    betas = []
    for seed in (0, 0, 1):
        made = student()
        fit(made, teacher(), FittingRecipe(correct=True, images=16, crops=0), seed)
        betas.append(made.layer("fc").beta.detach().clone())
    assert torch.equal(betas[0], betas[1])
    assert not torch.equal(betas[0], betas[2])


def test_as_many_images_are_taken_as_fit_into_memory(student, monkeypatch):
    counts, sums = [], layerwise._Piece.sums

    def counted(piece, graph, node, *rest):
        seen[piece.number] = len(piece.student[node.inputs[0]])
        return sums(piece, graph, node, *rest)

    monkeypatch.setattr(layerwise._Piece, "sums", counted)
    for memory in (1 << 32, 1 << 20, 1):
        seen = {}
        monkeypatch.setattr(layerwise, "_MEMORY", memory)
        fit(student(), teacher())
        counts.append(sum(seen.values()))
    assert counts[0] == len(IMAGES)
    assert counts[2] == 1
    assert len(set(counts)) == 3


def test_it_tells_of_every_layer_with_weights(student):
    made, told = student(), []
    fit_layers(made, teacher(), IMAGES, CORRECTED, 0, CPU, report=lambda *at: told.append(at))
    count = sum(isinstance(node.op, HAS_WEIGHT) for node in made.graph.nodes)
    assert told == [(layer, count) for layer in range(1, count + 1)]


def test_a_recipe_switches_it_on(tmp_path):
    """Also where nothing is trained."""
    model = model_of(small_network("mobilenet"), SMALL_SHAPE, 10)
    answers = teacher("mobilenet")(IMAGES.images)
    found = {}
    for value in ("false", "true"):
        file = tmp_path / f"{value}.toml"
        file.write_text(f'extends = "quick"\n[fitting]\ncompensate = false\ncorrect = {value}\n[training]\nsteps = 0\n')
        with torch.no_grad():
            found[value] = distillation(api.quantize(model, IMAGES, recipe=file)(IMAGES.images), answers, 1.0)
    assert found["true"] < 0.5 * found["false"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bits", [2, 4])
def test_compensated_rounding_comes_nearer_to_the_float_network(student, network, bits):
    """On images that it has not seen."""
    expected = teacher(network)
    answers, losses = expected(OTHERS), {}
    for recipe in (CORRECTED, COMPENSATED):
        made = student(network, weight_bits=bits, activation_bits=8)
        fit(made, expected, recipe, images=MANY)
        with torch.no_grad():
            losses[recipe] = distillation(made(OTHERS), answers, 1.0)
    assert losses[COMPENSATED] < 0.95 * losses[CORRECTED]


@pytest.mark.parametrize(("damping", "images"), [(1e-3, IMAGES), (100.0, MANY)], ids=["little", "much"])
def test_a_ridge_by_layer_is_better_than_one_that_is_given(student, damping, images, monkeypatch):
    """On images that it has not seen: one lets the few images decide too much, the other nothing."""
    expected, losses = teacher(), []
    answers = expected(OTHERS)
    for dampings in (compensation._DAMPINGS, (damping,)):
        monkeypatch.setattr(compensation, "_DAMPINGS", dampings)
        made = student(weight_bits=2, activation_bits=8)
        fit(made, expected, COMPENSATED, images=images)
        with torch.no_grad():
            losses.append(distillation(made(OTHERS), answers, 1.0))
    assert losses[0] < 0.95 * losses[1]


@pytest.mark.parametrize("scheme", ["integer", "ends8"])
def test_weights_end_on_their_grids_where_gradients_can_move_them(student, scheme):
    made = student("mobilenet", scheme)
    fit(made, teacher("mobilenet"), COMPENSATED)
    for node in made.graph.layers():
        layer = made.layer(node.name)
        low, high = layer.quantizer.spec.symmetric_range()
        ratio = layer.weight.detach() / layer.quantizer.scale.detach().reshape(-1, *[1] * (layer.weight.dim() - 1))
        assert (ratio - ratio.round()).abs().max() < 1e-2
        assert low < ratio.min()
        assert ratio.max() < high


def test_ranges_that_follow_their_weights_keep_these(student):
    made = student(scheme="paper")
    before = {node.name: made.layer(node.name).weight.detach().clone() for node in made.graph.layers()}
    fit(made, teacher(), COMPENSATED)
    assert all(torch.equal(made.layer(name).weight, weight) for name, weight in before.items())
    assert not torch.equal(made.layer("fc").beta, student(scheme="paper").layer("fc").beta), "and are corrected"


def test_a_layer_that_is_cut_into_parts_is_rounded_too(student, monkeypatch):
    expected = teacher()
    answers, losses = expected(OTHERS), []
    for recipe, most in ((CORRECTED, 4608), (COMPENSATED, 4608), (COMPENSATED, 40)):
        monkeypatch.setattr(moments, "_MOST_VALUES", most)
        made = student(weight_bits=2, activation_bits=8)
        fit(made, expected, recipe, images=MANY)
        with torch.no_grad():
            losses.append(float(distillation(made(OTHERS), answers, 1.0)))
    corrected, whole, cut = losses
    assert whole < 0.95 * corrected
    assert cut < corrected


def test_a_layer_in_front_of_a_sum_makes_up_for_the_other_summand(student, monkeypatch):
    """The sums come nearer to the float network's than where every layer sees to its own output alone."""
    expected, errors = teacher("mobilenet"), {}
    for name, lacking in (("alone", lambda *_: None), ("together", layerwise._lacking)):
        monkeypatch.setattr(layerwise, "_lacking", lacking)
        made = student("mobilenet", weight_bits=2, activation_bits=8)
        fit(made, expected, COMPENSATED, images=MANY)
        (_, found), (_, floats) = outputs(made, made.graph, OTHERS), outputs(expected, made.graph, OTHERS)
        sums = [node.name for node in made.graph.nodes if isinstance(node.op, Add)]
        errors[name] = sum(float((found[x] - floats[x]).square().sum() / floats[x].square().sum()) for x in sums)
    assert errors["together"] < errors["alone"]


def test_what_the_other_summand_lacks_is_in_the_targets():
    """Weights W whose sum lacks D x are to give (W + D) x."""
    inputs, weight, more = torch.randn(64, 8), torch.randn(6, 8), torch.randn(6, 8)
    other = torch.randn(64, 6)
    columns = moments.Columns(Linear(), weight.shape)
    nodes = (
        Node("x", Input(), (), (8,)),
        Node("other", Linear(), ("x",), (6,)),
        Node("layer", Linear(), ("x",), (6,)),
        Node("sum", Add(), ("layer", "other"), (6,)),
    )
    graph = Graph(nodes, "sum")
    piece = layerwise._Piece(
        0, {"x": inputs, "other": other}, {"x": inputs, "other": other + inputs @ more.mT}, inputs @ weight.mT
    )
    half = piece.sums(graph, nodes[2], columns, columns.rows(weight), 40, torch.Generator()).moments()
    wanted = (weight + more).double() @ half.covariance[0]
    torch.testing.assert_close(half.cross[0], wanted, atol=1e-4, rtol=1e-4)


def test_a_channel_that_is_dead_makes_up_for_nothing(student):
    """Its gain is nearly zero, and weights that undo this would be without bounds."""
    module = small_network("mobilenet")
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[0], norm.weight[1] = 0, 1e-12
    graph = trace(module, SMALL_SHAPE)
    made = build_network(graph, make_scheme("integer", 4, 4), IMAGES.images, 0)
    largest = {node.name: float(made.layer(node.name).weight.detach().abs().max()) for node in graph.layers()}
    fit(made, Teacher(graph), COMPENSATED)
    assert all(float(made.layer(name).weight.detach().abs().max()) < 10 * most for name, most in largest.items())
    assert made(IMAGES.images).isfinite().all()


def test_compensation_without_correction_is_refused():
    with pytest.raises(UsageError, match="set correct = true"):
        FittingRecipe(compensate=True)


def test_crops_are_taken_beside_the_images():
    recipe = FittingRecipe(correct=True, images=10, crops=3)
    taken = layerwise._taken(IMAGES.images, recipe, 100, torch.Generator().manual_seed(0))
    assert len(taken) == 40
    for half in taken.split(20):
        drawn, first = half[:5], half[5:10]
        assert all(any(torch.equal(image, own) for own in IMAGES.images) for image in drawn)
        assert not any(torch.equal(image, own) for image, own in zip(first, drawn, strict=True))
