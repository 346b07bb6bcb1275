"""Freezing: the Program is the fake-quant module, in integers."""

from dataclasses import replace

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.errors import FreezeError, RunError
from intraq_deploy.evaluation.parity import agreement
from intraq_deploy.graph.trace import trace
from intraq_deploy.program import arithmetic
from intraq_deploy.program.bounds import accumulator_bound
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import FloatWeights, Grid, IntegerWeights, Normalization, Program, Tolerance
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import settle
from intraq_deploy.program.storage import load_program, save_program

CASES = [
    ("resnet", "integer", 4, 4),
    ("mobilenet", "integer", 4, 4),
    ("resnet", "integer", 8, 8),
    ("mobilenet", "integer", 8, 8),
    ("resnet", "integer", 2, 3),
    ("mobilenet", "integer", 5, 7),
    ("resnet", "paper", 4, 4),
    ("mobilenet", "ends8", 4, 4),
]
IDS = [f"{network}-{scheme}-W{w}A{a}" for network, scheme, w, a in CASES]
PER_LAYER = 1e-5
"""The greatest share of codes that may be off by one, from identical input codes."""


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_fake_quant_and_program_agree_per_layer(frozen, case):
    network, program = frozen(*case)
    reference, codes = Reference(program), {}
    reference.run(random_images(64, seed=1), lambda name, tensor: codes.__setitem__(name, tensor))
    compared = differing = 0
    for node in program.graph.nodes[1:]:
        if node.name not in program.grids or any(name not in program.grids for name in node.inputs):
            continue
        inputs = [codes[name] for name in node.inputs]
        values = [arithmetic.dequantize(c, program.grids[n]) for c, n in zip(inputs, node.inputs, strict=True)]
        with torch.no_grad():
            found = arithmetic.quantize(network.evaluate(node, values), program.grids[node.name])
        difference = (found - reference.evaluate(node, inputs)).abs()
        assert float(difference.max()) <= 1, node.name
        compared += difference.numel()
        differing += int(torch.count_nonzero(difference))
    assert compared > 500_000 or case[1] == "paper"
    assert differing <= PER_LAYER * compared


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_fake_quant_and_program_agree_end_to_end(frozen, case):
    network, program = frozen(*case)
    images = random_images(400, seed=2)
    with torch.no_grad():
        assert agreement(network(images), Reference(program).run(images)) >= 99.5


def test_an_integer_program_holds_integers_only_and_is_exact(frozen):
    for network in ("resnet", "mobilenet"):
        _, program = frozen(network)
        assert program.tolerances == {}
        assert all(isinstance(weights, IntegerWeights) for weights in program.layers.values())
        assert all(weights.codes.dtype == torch.int8 for weights in program.layers.values())
        assert set(program.grids) == {node.name for node in program.graph.nodes} - {program.graph.output}


def test_what_is_computed_in_float_says_why(frozen):
    _, program = frozen(scheme="paper")
    assert isinstance(program.layers["conv1"], FloatWeights)
    assert program.tolerances["conv1"].reason == "computed in float32"
    assert "layer1.conv1" not in program.tolerances, "made on integers from the codes before it"
    assert program.tolerances["layer1.add"].reason == "behind layer1.conv2: computed in float32"
    assert program.tolerances["fc"].reason == "behind avgpool: summed in float32"


def test_bounds_hold_what_relus_say(frozen):
    _, program = frozen("mobilenet", activation_bits=8)
    grid = program.grids["stem.0"]
    assert grid.code_min == 0
    assert grid.code_max == min(127, round(arithmetic.f32(6 / grid.scale)))
    _, program = frozen("resnet")
    assert (program.grids["conv1"].code_min, program.grids["conv1"].code_max) == (0, 15)
    assert program.grids["avgpool"].code_min == 0, "a mean of what is never negative"
    assert program.grids["layer1.conv2"].unsigned_zero_point == 128


def test_codes_change_sign_where_gamma_is_negative(frozen):
    network, program = frozen()
    layer = network.layer("layer1.conv1")
    negative = layer.gain() < 0
    assert bool(negative.any())
    plain = layer.quantizer.codes(layer.weight)
    weights = program.layers["layer1.conv1"]
    assert torch.equal(weights.codes[negative].int(), -plain[negative])
    assert torch.equal(weights.codes[~negative].int(), plain[~negative])
    assert bool((weights.scale > 0).all())


def test_the_batch_norm_folds_into_scales_exactly(frozen):
    network, program = frozen()
    layer = network.layer("layer2.conv2")
    weights = program.layers["layer2.conv2"]
    folded = weights.codes.float() * weights.scale.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        expected = layer.quantizer(layer.weight)[0] * layer.gain().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(folded, expected, rtol=1e-6, atol=0)


def test_the_accumulator_bound_is_reached_by_the_worst_input():
    weights = IntegerWeights(
        torch.tensor([[3, -4], [0, 7]], dtype=torch.int8), torch.ones(2), torch.tensor([5, -6], dtype=torch.int32)
    )
    assert accumulator_bound(weights, Grid(1.0, 4, -2, 15, -2)).tolist() == [15 * 7 + 5, 15 * 7 + 6]


def test_a_bias_that_needs_more_than_int32_is_refused(frozen, student):
    module = student()
    settle(module)
    with torch.no_grad():
        module.layer("layer1.conv1").beta[0] = 1e9
    with pytest.raises(FreezeError, match=r"layer1.conv1: the bias of 1 channels leaves 24 bits"):
        freeze(module)


@pytest.mark.parametrize("case", CASES[:3] + CASES[6:], ids=IDS[:3] + IDS[6:])
def test_a_program_survives_storage(frozen, case, tmp_path):
    _, program = frozen(*case)
    save_program(program, tmp_path)
    again = load_program(tmp_path)
    assert again.sha256 == program.sha256
    images = random_images(4)
    assert torch.equal(Reference(again).run(images), Reference(program).run(images))


def test_a_changed_byte_in_a_stored_program_is_found(frozen, tmp_path):
    _, program = frozen()
    save_program(program, tmp_path)
    file = tmp_path / "program.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="is not the file that program.json describes"):
        load_program(tmp_path)
    (tmp_path / "program.json").write_text("{")
    with pytest.raises(RunError, match="no readable program"):
        load_program(tmp_path)


def test_uint8_programs_see_the_same_images(student):
    module = student()
    settle(module)
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    program, pixels = freeze(module), freeze(module, Normalization.of(mean, std))
    images = torch.randint(0, 256, (32, *SMALL_SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, std))
    normalised = (images.float() / 255 - shift) / scale
    assert agreement(Reference(pixels).run(images), Reference(program).run(normalised)) >= 99


def test_the_float_program_is_the_float_network():
    network = small_network("mobilenet")
    images = random_images(8)
    program = float_program(trace(network, SMALL_SHAPE))
    with torch.no_grad():
        torch.testing.assert_close(Reference(program).run(images), network(images), atol=1e-4, rtol=1e-4)


def test_a_program_is_hashed_once_and_a_changed_copy_anew(frozen, monkeypatch):
    _, program = frozen()
    calls = []
    serialize = Program.serialize
    monkeypatch.setattr(Program, "serialize", lambda self: calls.append(self) or serialize(self))
    assert program.sha256 == program.sha256
    assert len(calls) == 1
    assert replace(program, tolerances={"fc": Tolerance("measured", 0.5)}).sha256 != program.sha256
