"""TensorRT's versions, as modules that have exactly what each of them has: a flag too many or too few is an error.

The path through the builder is the one that test_tensorrt_rtx.py takes through the real TensorRT for RTX.
"""

import sys

import pytest
from support import SMALL_SHAPE, random_images, small_network
from tensorrt_modules import FREE, GPU, VERSIONS, Graph, install

from intraq_deploy.errors import RunError, TargetError
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import float_program
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.onnxruntime.half import in_float16
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.engine import build_here, open_engine, read_engine
from intraq_deploy.targets.tensorrt.host import find_host
from intraq_deploy.targets.tensorrt.versions import switches_of

TOLD = {
    "8.6.2": ({"EXPLICIT_BATCH"}, {"INT8"}, {"FP16"}),
    "10.3.0": (set(), {"INT8"}, {"FP16"}),
    "10.13.2.6": ({"STRONGLY_TYPED"}, set(), set()),
    "11.4.1": (set(), set(), set()),
}
"""Flags of the network, of the builder, and of the builder for a model in float16."""
TARGETS = {
    "8.6.2": "tensorrt8-int8",
    "10.3.0": "tensorrt-int8",
    "10.13.2.6": "tensorrt-int8",
    "11.4.1": "tensorrt-int8",
}


@pytest.fixture
def machine(monkeypatch):
    """A machine with a version of TensorRT and an Orin."""
    return lambda version, gpu=True: install(monkeypatch, version, gpu)


@pytest.fixture(scope="module")
def program(frozen):
    return frozen("resnet")[1]


@pytest.fixture(scope="module")
def float16():
    graph = trace(small_network("resnet"), SMALL_SHAPE)
    return in_float16(lower(float_program(graph, None), load_profile("tensorrt-int8"), {}).data)


@pytest.fixture
def built(program, float16, tmp_path):
    """Exports and builds for a version."""

    def make(version):
        profile = load_profile(TARGETS[version])
        artifact = export(program, profile, tmp_path, {})
        host = find_host(profile)
        return artifact, host, build_here(artifact, program, float16, host, tmp_path, tmp_path / "timing.cache")

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_told_what_it_knows(machine, built, tmp_path, version):
    seen = machine(version)
    _, _, engine = built(version)
    network, flags, half = TOLD[version]
    assert [build.network for build in seen.builds] == [network] * 3
    assert [build.builder for build in seen.builds] == [flags, flags, half]
    assert all(build.cleared == {"TF32"} for build in seen.builds)
    assert all(build.workspace == FREE // 2 for build in seen.builds)
    assert [build.cache for build in seen.builds] == [b"", b"measured", b"measured"]
    assert (engine.gpu, engine.compute_capability, engine.compiler) == (GPU, "8.7", f"TensorRT {version}")
    assert read_engine(tmp_path) == engine
    for name in ("engine.plan", "instrumented.plan", "float16.plan"):
        plan = tmp_path / name
        before = plan.read_bytes()
        plan.write_bytes(b"another")
        with pytest.raises(RunError, match="not the file that its manifest describes"):
            read_engine(tmp_path)
        plan.write_bytes(before)


@pytest.mark.parametrize("version", VERSIONS)
def test_its_integers_are_compared(machine, built, program, version):
    """ONNX Runtime sums floats in TensorRT's place: hardly anything differs, and rounding explains what does."""
    machine(version)
    artifact, host, engine = built(version)
    found = validate(artifact, program, random_images(20), open_engine(engine, host))
    assert found.passes
    assert found.ran_by == "its engine"
    assert found.parity.compared > 100_000
    assert found.parity.mismatched <= 3


@pytest.mark.parametrize("name", ["conv1.codes", "layer1.conv1.codes", "avgpool.codes"])
def test_one_wrong_integer_fails(machine, built, program, name):
    seen = machine("10.3.0")
    artifact, host, engine = built("10.3.0")

    def change(output, array):
        if output == name:
            array = array.copy()
            array.flat[17] += 1
        return array

    seen.change = change
    found = validate(artifact, program, random_images(8), open_engine(engine, host))
    assert not found.passes
    (failed,) = [tensor for tensor in found.parity.failures if tensor.name == name.removesuffix(".codes")]
    assert failed.beyond_rounding == 1


def test_an_engine_that_answers_otherwise_than_its_instrumented_twin_fails(machine, built, program):
    machine("10.3.0")
    artifact, host, engine = built("10.3.0")
    sessions = open_engine(engine, host)
    before = sessions.shipped.run(random_images(8))
    found = validate(artifact, program, random_images(8), sessions)
    assert found.instrumented_equal
    shipped = sessions.shipped.run

    def a_little_off(images):
        return shipped(images) + 1e-3 * before.abs().max()

    sessions.shipped.run = a_little_off
    found = validate(artifact, program, random_images(8), sessions)
    assert not found.instrumented_equal
    assert not found.passes
    assert found.parity.logits_pass, "the instrumented one is right"


def test_layers_that_do_not_multiply_int8_are_named(machine, built):
    seen = machine("10.3.0")
    seen.layer = lambda name: "FP16" if name == "conv1" else "Int8"
    _, _, engine = built("10.3.0")
    assert engine.layers["conv1"] == "Half"
    assert {kind for name, kind in engine.layers.items() if name != "conv1"} == {"INT8"}


def test_the_float_network_in_float16(machine, built):
    machine("11.4.1")
    _, host, engine = built("11.4.1")
    sessions = open_engine(engine, host)
    network = small_network("resnet").eval()
    images = random_images(8)
    expected, found = network(images), sessions.float16.run(images)
    assert found.dtype == expected.dtype
    assert 0 < float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_time_is_that_of_a_graph(machine, built):
    seen = machine("10.3.0")
    _, host, engine = built("10.3.0")
    session = open_engine(engine, host).shipped
    seen.executed.clear()
    assert session.milliseconds(random_images(1)) == 0.5
    assert seen.executed == ["stream"] * 50 + ["graph"]
    assert Graph.replays == 200


def test_an_engine_of_another_version_is_refused(machine, built, monkeypatch):
    machine("10.3.0")
    _, _, engine = built("10.3.0")
    machine("10.13.2.6")
    host = find_host(load_profile("tensorrt-int8"))
    with pytest.raises(TargetError, match=r"10\.13\.2\.6 cannot load the engine \(Version tag does not match\)"):
        open_engine(engine, host)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Could not find any implementation for node conv1", "memory did not suffice"),
        ("something new", "something new"),
    ],
)
def test_none_is_an_error_with_what_was_logged(machine, built, tmp_path, said, meaning):
    machine("10.3.0").refuse = said
    with pytest.raises(TargetError, match=f"TensorRT 10.3.0 refuses the model: .*{meaning}"):
        built("10.3.0")
    assert not (tmp_path / "engine.plan").exists()
    assert not (tmp_path / "timing.cache").exists()


@pytest.mark.parametrize(("version", "named"), [("8.6.2", ""), ("10.3.0", "conv1: ")])
def test_what_the_parser_refuses(machine, built, version, named):
    machine(version).refuse = "parser"
    with pytest.raises(TargetError, match=f"zero-point other than 0; .*It said: {named}shiftIsAllZeros"):
        built(version)


def test_another_gpus_timing_cache_is_made_anew(machine, built, tmp_path):
    machine("10.3.0")
    (tmp_path / "timing.cache").write_bytes(b"another GPU's")
    built("10.3.0")
    assert (tmp_path / "timing.cache").read_bytes() == b"measured"


@pytest.mark.parametrize(
    ("version", "target", "words"),
    [
        ("8.6.2", "tensorrt-int8", r"8\.6\.2 is installed, and tensorrt-int8 is for 10\.0 to before 12\.0"),
        ("10.3.0", "tensorrt8-int8", r"is for 8\.5 to before 10\.0"),
        ("10.3.0", "tensorrt-int4", r"is for 10\.13 to before 12\.0"),
    ],
)
def test_a_version_that_is_not_the_profiles(machine, version, target, words):
    machine(version)
    with pytest.raises(TargetError, match=words):
        find_host(load_profile(target))


def test_no_gpu_and_no_tensorrt(machine, monkeypatch):
    machine("10.3.0", gpu=False)
    with pytest.raises(TargetError, match="torch sees no GPU to build for: build on the device, or for tensorrt-rtx"):
        find_host(load_profile("tensorrt-int8"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match=r"TensorRT is not installed .*: pip install tensorrt,"):
        find_host(load_profile("tensorrt-int8"))


@pytest.mark.parametrize("version", ["8.4.1", "7.2.3", "12.0.0"])
def test_versions_that_nobody_has_read_about(version):
    with pytest.raises(TargetError, match=f"TensorRT {version} is not known here: install 8.5 to 11"):
        switches_of(version)


@pytest.mark.parametrize("version", ["", "ten", "10"])
def test_what_is_no_version(version):
    with pytest.raises(TargetError, match="which is none"):
        switches_of(version)
