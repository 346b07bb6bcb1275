"""Calibration caches: the format, both ways, and the float network whose tensors they name."""

import json
import struct
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import NETWORK, SMALL_SHAPE, TINY, random_images, small_network
from torch import nn
from typer.testing import CliRunner

from intraq_deploy.cli.main import app
from intraq_deploy.errors import RunError, TargetError
from intraq_deploy.evaluation.parity import agreement
from intraq_deploy.graph.trace import trace
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import FloatWeights, Normalization
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.artifact import read_manifest
from intraq_deploy.targets.device.runner.tensorrt import make_logger
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import load_profile, profile_names
from intraq_deploy.targets.tensorrt.calibration import read_cache, version_digits, write_cache
from intraq_deploy.targets.tensorrt.implicit import CACHE, FLOAT_MODEL, add_cache, float_network, is_expressible, scales

NETWORKS = ["resnet", "mobilenet"]
TARGETS = {"tensorrt8-int8": "8602", "tensorrt-int8": "100300"}
TOLERANCE = 0.05
"""Of logits, as a share of the largest: the float network beside the program, whose activations are rounded to 8 bits
(measured: 0.030 and 0.010)."""
SAME_IN_FLOAT = 1e-4
"""Of logits, as a share of the largest: what the order of summation changes."""


@pytest.fixture(scope="module")
def quantized(frozen):
    """A settled student and its program, 8 bits both, by network."""
    made = {}

    def make(network):
        if network not in made:
            made[network] = frozen(network, weight_bits=8, activation_bits=8)
        return made[network]

    return make


def written(program, folder, target="tensorrt8-int8"):
    profile = load_profile(target)
    return add_cache(export(program, profile, folder, {"architecture": "small"}), program, profile, {})


def tensors(path):
    """The names of a model's inputs and of what its nodes make."""
    graph = ir.load(path).graph
    return {value.name for value in (*graph.inputs, *(output for node in graph for output in node.outputs))}


def distance(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def positive_floats():
    bits = st.integers(1, 0x7F7FFFFF)
    return bits.map(lambda number: struct.unpack(">f", number.to_bytes(4, "big"))[0])


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), positive_floats()))
def test_what_is_written_is_read_bit_for_bit(values):
    found = read_cache(write_cache(values, "8.6.2"))
    assert found.version == "8602"
    assert list(found.scales.items()) == list(values.items())


def test_the_format_is_tensorrts():
    """The line of sampleINT8's README; a name with a colon is split at the last one."""
    value = struct.unpack(">f", bytes.fromhex("3c010a14"))[0]
    text = write_cache({"prob": value, "scope:0/x: y": 1.0}, "10.3.0")
    assert text == "TRT-100300-EntropyCalibration2\nprob: 3c010a14\nscope:0/x: y: 3f800000\n"
    assert read_cache(text).scales == {"prob": value, "scope:0/x: y": 1.0}


@pytest.mark.parametrize(("version", "digits"), [("8.6.2", "8602"), ("8.5.2", "8502"), ("10.3.0", "100300")])
def test_versions_are_written_as_tensorrt_numbers_them(version, digits):
    assert version_digits(version) == digits


@pytest.mark.parametrize("version", ["8.6", "10.3.0.26", "8.6.x", "", "8.6.200"])
def test_other_versions_are_refused(version):
    with pytest.raises(TargetError, match="give three numbers, as in 8.6.2"):
        write_cache({}, version)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"": 1.0}, "a tensor named ''"),
        ({"a\nb": 1.0}, r"a tensor named 'a\\nb'"),
        ({"a": 0.0}, "scale of a is 0.0, no positive float32"),
        ({"a": -1.0}, "is -1.0"),
        ({"a": float("nan")}, "is nan"),
        ({"a": float("inf")}, "is inf"),
        ({"a": 0.1}, "is 0.1, no positive float32"),
        ({"a": 1e300}, r"is 1e\+300, no positive float32"),
    ],
)
def test_what_has_no_line_is_not_written(values, words):
    with pytest.raises(TargetError, match=words):
        write_cache(values, "8.6.2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "starts with '' instead of TRT-VERSION-EntropyCalibration2"),
        ("a: 3f800000\n", "starts with 'a: 3f800000'"),
        ("TRT-8XXX-EntropyCalibration2\na: 3f800000\n", "starts with 'TRT-8XXX"),
        ("TRT-8602-MinMaxCalibration\na: 3f800000\n", "starts with 'TRT-8602-MinMaxCalibration'"),
        ("TRT-8602-EntropyCalibration2", "without a line break"),
        ("TRT-8602-EntropyCalibration2\na: 3f800000\nb: 3f80", "ends in 'b: 3f80', without a line break"),
        ("TRT-8602-EntropyCalibration2\na: 3f800000\nb: 3f80\n", "Line 3 of a calibration cache is 'b: 3f80'"),
        ("TRT-8602-EntropyCalibration2\na 3f800000\n", "Line 2 of a calibration cache is 'a 3f800000'"),
        ("TRT-8602-EntropyCalibration2\n: 3f800000\n", "Line 2 of a calibration cache is ': 3f800000'"),
        ("TRT-8602-EntropyCalibration2\na: 3f80000g\n", "instead of a tensor, a colon and 8 digits"),
        ("TRT-8602-EntropyCalibration2\r\na: 3f800000\r\n", "starts with 'TRT-8602-EntropyCalibration2\\\\r'"),
        ("TRT-8602-EntropyCalibration2\n\na: 3f800000\n", "Line 2 of a calibration cache is ''"),
        ("TRT-8602-EntropyCalibration2\na: 3f800000\na: 3f800000\n", "Line 3 of a calibration cache names a a second"),
        ("TRT-8602-EntropyCalibration2\na: 00000000\n", "Line 2 of a calibration cache has the scale 0"),
        ("TRT-8602-EntropyCalibration2\na: bf800000\n", "the scale -1, not a positive one"),
        ("TRT-8602-EntropyCalibration2\na: 7fc00000\n", "the scale nan"),
        ("TRT-8602-EntropyCalibration2\na: 7f800000\n", "the scale inf"),
    ],
)
def test_other_text_is_refused_in_one_sentence(text, words):
    with pytest.raises(TargetError, match=words) as raised:
        read_cache(text)
    assert str(raised.value).endswith(": export the run again.")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_name_is_a_tensor_of_the_float_network(quantized, tmp_path, network, target):
    _, program = quantized(network)
    artifact = written(program, tmp_path, target)
    assert set(artifact.companions) == {FLOAT_MODEL, CACHE}
    assert read_manifest(tmp_path) == artifact
    cache = read_cache((tmp_path / CACHE).read_text())
    assert cache.version == TARGETS[target]
    assert cache.scales == scales(program)
    named = tensors(tmp_path / FLOAT_MODEL)
    assert set(cache.scales) <= named
    assert named - set(cache.scales) == {"logits"}, "nothing else is without a range"
    model = ir.load(tmp_path / FLOAT_MODEL)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph}
    assert model.opset_imports[""] == load_profile(target).opset


@pytest.mark.parametrize("network", NETWORKS)
def test_a_scale_is_the_trained_range_over_127(quantized, tmp_path, network):
    """From the student's own quantizers: the greatest value that each can give, over the greatest INT8 code."""
    student, program = quantized(network)
    written(program, tmp_path)
    found = read_cache((tmp_path / CACHE).read_text()).scales
    seen = set()
    for node in student.graph.nodes:
        quantizer = student.quantizer(node.name)
        if quantizer is None:
            continue
        values = torch.linspace(-1e4, 1e4, 100) * quantizer.scale.detach()
        amax = np.float64(quantizer(values).max().item())
        for name in (node.name, f"{node.name}.activation") if node.activation else (node.name,):
            assert found[name] == pytest.approx(amax / 127, rel=2e-7), name
            seen.add(name)
    assert seen == set(found)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_float_network_is_the_program_but_for_rounding(quantized, tmp_path, network):
    _, program = quantized(network)
    written(program, tmp_path)
    images = random_images(64)
    expected = Reference(program).run(images)
    found = Session(tmp_path / FLOAT_MODEL, threads=1).run(images)
    assert distance(found, expected) < TOLERANCE
    assert agreement(found, expected) >= 95
    assert distance(found, Reference(float_network(program)).run(images)) < SAME_IN_FLOAT


def as_tensorrt_rounds(values):
    """By channel, the greatest magnitude over 127."""
    step = values.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
    codes = (values / step.reshape(-1, *[1] * (values.dim() - 1))).round()
    return codes.to(torch.int8), step


def observed(program, images):
    """Logits, and all codes in one vector."""
    codes = []
    logits = Reference(program).run(images, lambda _, values: codes.append(values.flatten().clone()))
    return logits, torch.cat(codes)


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_rounded_again_keep_their_codes(quantized, network):
    """In every channel that uses all 127 of them; so what implicit quantization computes is nearly the program."""
    _, program = quantized(network)
    layers = {}
    for name, values in float_network(program).layers.items():
        codes, step = as_tensorrt_rounds(values.weight())
        before = program.layers[name].codes
        whole = before.flatten(1).abs().amax(1) == 127
        assert whole.any()
        assert torch.equal(codes[whole], before[whole])
        layers[name] = FloatWeights(codes, step, values.bias)
    images = random_images(32)
    expected, expected_codes = observed(program, images)
    found, codes = observed(replace(program, layers=layers), images)
    assert int((codes != expected_codes).sum()) <= 1e-3 * codes.numel()
    assert distance(found, expected) < 1e-2


def test_images_of_bytes_are_ranged_behind_their_normalization(quantized, tmp_path):
    module, _ = quantized("resnet")
    program = freeze(module, Normalization.of((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)))
    written(program, tmp_path)
    found = read_cache((tmp_path / CACHE).read_text()).scales
    assert "image.normalized" in found
    assert "image" not in found
    assert set(found) <= tensors(tmp_path / FLOAT_MODEL)
    pixels = (random_images(16) * 64 + 102).clamp(0, 255).to(torch.uint8)
    logits = Session(tmp_path / FLOAT_MODEL, threads=1).run(pixels)
    assert distance(logits, Reference(float_network(program)).run(pixels)) < SAME_IN_FLOAT


class Branches(nn.Module):
    """Two of a concatenation's three parts have ranges that an activation narrows."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = torch.cat([nn.functional.relu6(self.a(x)), torch.relu(self.b(x)), self.c(x)], 1)
        return self.head(x.mean((2, 3)))


def test_what_is_concatenated_has_one_scale():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = trace(Branches().eval(), SMALL_SHAPE)
    module = build_network(graph, make_scheme("integer", 8, 8), random_images(8), 0)
    settle(module)
    program = freeze(module)
    (cat,) = [node for node in graph.nodes if len(node.inputs) == 3]
    assert len({scales(program)[name] for name in (*cat.inputs, cat.name)}) == 1


@pytest.mark.parametrize("bits", [(4, 4), (8, 7)])
def test_activations_of_fewer_bits_get_no_cache(frozen, tmp_path, bits):
    _, program = frozen("resnet", weight_bits=bits[0], activation_bits=bits[1])
    assert not is_expressible(program)
    assert not written(program, tmp_path).companions
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "manifest.json"}


@pytest.mark.parametrize("name", [FLOAT_MODEL, CACHE])
def test_a_changed_or_missing_companion_is_seen(quantized, tmp_path, name):
    artifact = written(quantized("resnet")[1], tmp_path)
    artifact.verify()
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(RunError, match=f"{name} is not the file that its manifest describes"):
        artifact.verify()
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        artifact.verify()


def test_profiles_say_who_takes_a_cache():
    """Those of TensorRT whose versions include some before 11, where INT8 alone is asked for."""
    assert {name for name in profile_names() if load_profile(name).calibration_cache} == set(TARGETS)


@pytest.mark.parametrize("network", NETWORKS)
def test_nvidias_parser_calls_its_tensors_as_the_cache_does(quantized, tmp_path, network):
    runtime = pytest.importorskip("tensorrt_rtx", reason="pip install 'intraq-deploy[rtx]'")
    written(quantized(network)[1], tmp_path)
    logger = make_logger(runtime)
    parsed = runtime.Builder(logger).create_network(0)
    parser = runtime.OnnxParser(parsed, logger)
    assert parser.parse((tmp_path / FLOAT_MODEL).read_bytes()), logger.errors
    layers = [parsed.get_layer(index) for index in range(parsed.num_layers)]
    made = {layer.get_output(index).name for layer in layers for index in range(layer.num_outputs)}
    named = made | {parsed.get_input(0).name}
    assert set(read_cache((tmp_path / CACHE).read_text()).scales) <= named


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run for two targets, up to its directory and method."""
    file = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save(small_network("resnet").state_dict(), file)
    targets = ("--target", "onnxruntime", "--target", "tensorrt8-int8")
    return ["quantize", str(file), *NETWORK, *TINY[:4], "--bits", "8", *targets]


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def companions(directory, target="tensorrt8-int8"):
    record = json.loads((directory / "run.json").read_text())["artifacts"][target]
    folder = directory / "targets" / target
    found = {file.name for file in folder.iterdir()} & {FLOAT_MODEL, CACHE}
    assert found == set(record["companions"])
    return found


def test_a_run_of_ranges_only_writes_both_and_keeps_them(command, tmp_path):
    directory = tmp_path / "run"
    first = invoke(*command, "--out", directory, "--method", "ptq")
    assert "; beside it float.onnx and calibration.cache" in first.stdout
    assert companions(directory) == {FLOAT_MODEL, CACHE}
    assert companions(directory, "onnxruntime") == set()
    folder = directory / "targets/tensorrt8-int8"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = invoke("export", directory, "--target", "tensorrt8-int8")
    assert "targets/tensorrt8-int8: kept from before" in again.stderr
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    invoke("validate", directory)
    assert companions(directory) == {FLOAT_MODEL, CACHE}
    (folder / CACHE).unlink()
    mended = invoke("export", directory, "--target", "tensorrt8-int8", "--target", "tensorrt-int8")
    assert "targets/tensorrt8-int8 is made again, because" in mended.stderr
    assert companions(directory) == companions(directory, "tensorrt-int8") == {FLOAT_MODEL, CACHE}
    assert read_cache((folder / CACHE).read_text()).scales


def test_a_trained_run_writes_neither(command, tmp_path):
    """Also in the directory of a run that did."""
    directory = tmp_path / "run"
    invoke(*command, "--out", directory, "--method", "ptq")
    assert companions(directory)
    invoke(*command, "--out", directory, "--steps", "2", "--overwrite")
    assert companions(directory) == set()
