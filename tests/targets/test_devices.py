"""Device files: complete, and true to the targets they name; one program's codes are the same in all of a device's."""

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.errors import UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.device.profile import device_names, load_device, read_device
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile, profile_names
from intraq_deploy.targets.tensorrt.versions import parsed

JETSONS = [name for name in device_names() if name.startswith("jetson-")]
DEVICE = """
name = "mine"
description = "my own"
machine = "aarch64"
targets = ["onnxruntime-arm64"]
source = "measured"
"""


def test_the_devices_that_ship():
    assert device_names() == [
        "arm64-cpu", "jetson-agx-orin", "jetson-agx-thor", "jetson-orin-nano", "jetson-orin-nx", "jetson-xavier",
        "nvidia-gpu", "x86-cpu", "x86-cpu-avx2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", device_names())
def test_a_device_is_complete(name):
    device = load_device(name)
    assert device.name == name
    assert device.description
    assert device.precisions
    assert set(device.targets) <= set(profile_names())
    assert len(set(device.targets)) == len(device.targets)
    assert all(device.source_of(figure) for figure in device.figures)
    assert all(release.source for release in device.releases)
    assert len({release.name for release in device.releases}) == len(device.releases)
    versions = [release.tensorrt for release in device.releases if release.tensorrt]
    assert versions == sorted(versions, key=parsed, reverse=True), "the newest first"


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_says_all_of_its_hardware(name):
    device = load_device(name)
    assert device.machine == "aarch64"
    assert set(device.figures) == {"compute_capability", "memory_gib", "dla", "precisions", "trtexec"}
    assert set(device.figures) - {"memory_gib"} <= set(device.sources)
    assert device.releases
    assert all(release.tensorrt and release.cuda and release.python for release in device.releases)


@pytest.mark.parametrize("name", JETSONS)
def test_every_release_has_a_target_and_every_target_a_release(name):
    device = load_device(name)
    profiles = [load_profile(target) for target in device.targets]
    ranges = {profile.name: profile.versions for profile in profiles if profile.runtime == "tensorrt"}
    served = set()
    for release in device.releases:
        fits = [
            t for t, (since, before) in ranges.items() if parsed(since) <= parsed(release.tensorrt) < parsed(before)
        ]
        assert len(fits) == 1, release.name
        served |= set(fits)
    assert served == set(ranges)


@pytest.mark.parametrize("name", ["onnxruntime-arm64", "onnxruntime-avx2"])
def test_cpus_train_the_same_program(name):
    """So that a machine without VNNI can check what it makes for arm64."""
    assert constraints_of((name,)) == constraints_of(("onnxruntime",))


@cache
def program_for(targets, bits):
    graph, images = trace(small_network("resnet"), SMALL_SHAPE), random_images(16)
    student = build_network(graph, make_scheme("integer", *bits, constraints_of(targets)), images, 0)
    settle(student)
    return freeze(student)


def constant(value):
    """What a value computes that hangs on initializers only."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    inputs = [constant(source) for source in node.inputs]
    if node.op_type == "Cast":
        return inputs[0].astype(np.int8)
    if node.op_type == "Sub":
        return inputs[0] - inputs[1]
    assert node.op_type == "QuantizeLinear", node.op_type
    scale, zero_point = (part.reshape(-1, *[1] * (inputs[0].ndim - 1)) for part in inputs[1:])
    return (np.rint(inputs[0] / scale) + zero_point).astype(zero_point.dtype)


def codes_by_layer(path):
    """Of each convolution and linear layer, by name: what is stored less its zero-point."""
    found = {}
    for node in ir.load(path).graph:
        weight = node.inputs[1].producer() if node.op_type in ("Conv", "Gemm") else None
        if weight is not None:
            codes = constant(weight.inputs[0]).astype(np.int32)
            if len(weight.inputs) > 2:
                codes -= constant(weight.inputs[2]).astype(np.int32).reshape(-1, *[1] * (codes.ndim - 1))
            found[node.name] = codes
    return found


@pytest.mark.parametrize("name", JETSONS)
@pytest.mark.parametrize("bits", [(4, 4), (8, 8)])
def test_one_program_has_the_same_codes_in_every_file(name, bits, tmp_path):
    device = load_device(name)
    program = program_for(device.targets, bits)
    expected = {layer: weights.codes.numpy() for layer, weights in program.layers.items()}
    for target in device.targets:
        (tmp_path / target).mkdir()
        artifact = export(program, load_profile(target), tmp_path / target, {})
        found = codes_by_layer(artifact.path)
        for layer, values in expected.items():
            # Images may have a fourth channel for speed, with weights of zero.
            codes, more = np.split(found[layer], [values.shape[1]], axis=1)
            np.testing.assert_array_equal(codes, values, err_msg=f"{target}: {layer}")
            assert not more.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"onnxruntime-arm64"', '"onnxruntime-arm"'), "no target onnxruntime-arm: did you mean onnxruntime-arm64"),
        (('["onnxruntime-arm64"]', "[]"), "has targets = []: tuple should have at least 1 item"),
        (("machine", "machnie"), "has no machine: add it"),
        (('source = "measured"', 'source = "measured"\ndla_cores = 2'), "has the unknown key dla_cores: "),
        (('source = "measured"', 'source = "x"\ncompute_capability = "sm87"'), 'as in "10.3"'),
        (("targets = [", "targets = "), "is not TOML"),
        (('source = "measured"', 'source = "x"\nsources.price = "a shop"'), "sources.price"),
    ],
    ids=["target", "no targets", "missing", "unknown", "version", "syntax", "source"],
)
def test_what_is_no_device(change, words):
    with pytest.raises(UsageError) as caught:
        read_device("mine.toml", DEVICE.replace(*change))
    message = str(caught.value)
    assert words in message
    assert "mine.toml" in message
    assert "\n" not in message


def test_a_device_by_another_name():
    with pytest.raises(UsageError, match="did you mean jetson-orin-nano"):
        load_device("jetson-orin-nan0")
    assert read_device("mine.toml", DEVICE).figures == {}
