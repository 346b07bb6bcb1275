"""TensorRT's versions, as modules that have exactly what each of them has: a flag too many or too few is an error.

The path through the builder is the one that test_tensorrt_rtx.py takes through the real TensorRT for RTX.
"""

import json
import sys
from enum import IntEnum
from types import ModuleType

import pytest
import torch
from intraq_deploy.targets.onnxruntime.target import export
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.engine import build_here, read_engine
from intraq_deploy.targets.tensorrt.host import find_host
from intraq_deploy.targets.tensorrt.versions import switches_of

from intraq_deploy.errors import RunError, TargetError

# name: (NetworkDefinitionCreationFlag, BuilderFlag)
VERSIONS = {
    "8.6.2": (("EXPLICIT_BATCH", "EXPLICIT_PRECISION"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "FP8")),
    "10.3.0": (("EXPLICIT_BATCH", "STRONGLY_TYPED"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "FP8", "INT4")),
    "10.13.2.6": (("EXPLICIT_BATCH", "STRONGLY_TYPED"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "INT4")),
    "11.4.1": (("PREFER_AOT_COMPILED",), ("DEBUG", "GPU_FALLBACK", "TF32")),
}
TOLD = {
    "8.6.2": ({"EXPLICIT_BATCH"}, {"INT8"}),
    "10.3.0": (set(), {"INT8"}),
    "10.13.2.6": ({"STRONGLY_TYPED"}, set()),
    "11.4.1": (set(), set()),
}
TARGETS = {
    "8.6.2": "tensorrt8-int8",
    "10.3.0": "tensorrt-int8",
    "10.13.2.6": "tensorrt-int8",
    "11.4.1": "tensorrt-int8",
}
GPU, FREE = "Orin", 8 << 30


class Memory(bytes):
    def serialize(self):
        return self


class Seen:
    """What a module was told, and whether it is to fail."""

    def __init__(self):
        self.network, self.builder, self.workspace, self.cache = None, set(), None, None
        self.cleared = set()
        self.fail = ()


def module_of(version, seen):
    """A module with the attributes of a version, and no others, whose engines are bytes."""
    networks, flags = VERSIONS[version]
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = IntEnum("Flag", networks, start=0)
    trt.BuilderFlag = IntEnum("BuilderFlag", flags, start=0)
    trt.MemoryPoolType = IntEnum("MemoryPoolType", ("WORKSPACE",), start=0)
    trt.ProfilingVerbosity = IntEnum("ProfilingVerbosity", ("DETAILED",), start=0)
    trt.LayerInformationFormat = IntEnum("LayerInformationFormat", ("JSON",), start=0)

    class Logger:
        INTERNAL_ERROR, ERROR, VERBOSE = range(3)

        def __init__(self):
            pass

    class Image:
        name, shape = "image", (-1, 3, 32, 32)

    class Network:
        def get_input(self, index):
            return Image()

    class Config:
        profiling_verbosity = None

        def set_flag(self, flag):
            seen.builder.add(flag.name)

        def clear_flag(self, flag):
            seen.cleared.add(flag.name)

        def set_memory_pool_limit(self, pool, size):
            seen.workspace = size

        def create_timing_cache(self, data):
            seen.cache = bytes(data)
            return Memory(b"measured")

        def set_timing_cache(self, cache, ignore_mismatch):
            self._cache = cache

        def get_timing_cache(self):
            return self._cache

        def add_optimization_profile(self, profile):
            pass

    class Profile:
        def set_shape(self, name, least, usual, most):
            assert (name, least, usual, most[0]) == ("image", (1, 3, 32, 32), (1, 3, 32, 32), 8)

    class Builder:
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, bits):
            seen.network = {flag.name for flag in trt.NetworkDefinitionCreationFlag if bits >> flag & 1}
            assert bits == sum(1 << flag for flag in trt.NetworkDefinitionCreationFlag if flag.name in seen.network)
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            if seen.fail:
                self._logger.log(Logger.ERROR, seen.fail[0])
                return None
            return Memory(b"plan of " + version.encode())

    class OnnxParser:
        num_errors = 0

        def __init__(self, network, logger):
            pass

        def parse(self, model):
            return True

    class Inspector:
        def get_engine_information(self, kind):
            return json.dumps({"Layers": [version]})

    class Engine:
        def create_engine_inspector(self):
            return Inspector()

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            return Engine()

    for kind in (Builder, OnnxParser, Runtime):
        setattr(trt, kind.__name__, kind)
    trt.ILogger = Logger
    return trt


@pytest.fixture
def machine(monkeypatch):
    """A machine with a version of TensorRT and an Orin."""

    def make(version, gpu=True):
        seen = Seen()
        monkeypatch.setitem(sys.modules, "tensorrt", module_of(version, seen))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: GPU)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (FREE, 2 * FREE))
        return seen

    return make


@pytest.fixture(scope="module")
def program(frozen):
    return frozen("resnet")[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_told_what_it_knows(machine, program, tmp_path, version):
    seen, profile = machine(version), load_profile(TARGETS[version])
    artifact = export(program, profile, tmp_path, {})
    engine = build_here(artifact, find_host(profile), tmp_path, tmp_path / "timing.cache")
    assert (seen.network, seen.builder) == TOLD[version]
    assert seen.cleared == {"TF32"}
    assert seen.workspace == FREE // 2
    assert seen.cache == b""
    assert engine.path.read_bytes() == b"plan of " + version.encode()
    assert (engine.gpu, engine.compute_capability, engine.compiler) == (GPU, "8.7", f"TensorRT {version}")
    assert json.loads((tmp_path / "layers.json").read_text()) == {"Layers": [version]}
    assert read_engine(tmp_path) == engine
    build_here(artifact, find_host(profile), tmp_path, tmp_path / "timing.cache")
    assert seen.cache == b"measured", "the second build reads what the first one measured"
    engine.path.write_bytes(b"another")
    with pytest.raises(RunError, match="not the file that its manifest describes"):
        read_engine(tmp_path)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Could not find any implementation for node conv1", "memory did not suffice"),
        ("something new", "something new"),
        ("", "it gave no reason"),
    ],
)
def test_none_is_an_error_with_what_was_logged(machine, program, tmp_path, said, meaning):
    seen, profile = machine("10.3.0"), load_profile("tensorrt-int8")
    artifact = export(program, profile, tmp_path, {})
    seen.fail = (said,)
    with pytest.raises(TargetError, match=f"TensorRT 10.3.0 refuses the model: .*{meaning}"):
        build_here(artifact, find_host(profile), tmp_path, tmp_path / "timing.cache")
    assert not (tmp_path / "engine.plan").exists()
    assert not (tmp_path / "timing.cache").exists()


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
    with pytest.raises(TargetError, match=r"TensorRT is not installed .*pip install 'intraq-deploy\[tensorrt\]'"):
        find_host(load_profile("tensorrt-int8"))


@pytest.mark.parametrize("version", ["8.4.1", "7.2.3", "12.0.0"])
def test_versions_that_nobody_has_read_about(version):
    with pytest.raises(TargetError, match=f"TensorRT {version} is not known here: install 8.5 to 11"):
        switches_of(version)


@pytest.mark.parametrize("version", ["", "ten", "10"])
def test_what_is_no_version(version):
    with pytest.raises(TargetError, match="which is none"):
        switches_of(version)
