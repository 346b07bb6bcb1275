"""ONNX Runtime's providers for GPUs, where there is none: what does not load is never taken for what was asked for."""

import os
import site
import subprocess
import sys
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import float_program
from intraq_deploy.program.program import Normalization
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.onnxruntime import imports
from intraq_deploy.targets.onnxruntime.gpu import CudaSession, TensorRTSession, find_gpu, tensorrt_options
from intraq_deploy.targets.onnxruntime.half import in_float16
from intraq_deploy.targets.onnxruntime.opening import is_rehearsed
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, open_on, why_absent
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import load_profile

PROFILE = load_profile("onnxruntime-tensorrt")
GPU_PYTHON = os.environ.get("INTRAQ_GPU_PYTHON")
CPU_PACKAGE = pytest.mark.skipif(
    CUDA.name in onnxruntime.get_available_providers(), reason="the installed package is onnxruntime-gpu"
)


class Fallback(ModuleType):
    """onnxruntime-gpu 1.31.1 on a machine without CUDA's and TensorRT's libraries, as it was measured: both providers
    are listed; CUDA makes a session on the CPU without an error, TensorRT raises where it may not fall back."""

    __version__ = "1.31.1"
    __file__ = "/nowhere/onnxruntime/__init__.py"
    SessionOptions = onnxruntime.SessionOptions
    severities: list[int]

    def __init__(self):
        super().__init__("onnxruntime")
        self.severities = []

    def get_available_providers(self):
        return [TENSORRT.name, CUDA.name, "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity):
        self.severities.append(severity)

    def InferenceSession(self, model, settings, providers, enable_fallback):  # noqa: N802
        assert enable_fallback == 0
        if providers[0][0] == TENSORRT.name:
            raise RuntimeError(
                "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
                "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please "
                "install TensorRT libraries as mentioned in the GPU requirements page.\n"
            )
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


@pytest.fixture
def fallback(monkeypatch):
    module = Fallback()
    monkeypatch.setattr(imports.importlib, "import_module", lambda name: module)
    return module


@CPU_PACKAGE
@pytest.mark.parametrize("provider", [CUDA, TENSORRT], ids=lambda provider: provider.library)
def test_a_package_without_the_provider(provider):
    said = why_absent(provider)
    assert f"was asked for {provider.name}, and the installed package has only " in said
    assert "CPUExecutionProvider: pip install onnxruntime-gpu in place of onnxruntime" in said
    with pytest.raises(TargetError, match="the installed package has only"):
        open_on(provider, b"", onnxruntime.SessionOptions(), {})


@CPU_PACKAGE
def test_sessions_are_refused_before_a_model_is_looked_at(frozen, tmp_path):
    model = export(frozen()[1], PROFILE, tmp_path, {}).path
    for attempt in (lambda: TensorRTSession(model, tmp_path / "kept"), lambda: CudaSession(model), find_gpu):
        with pytest.raises(TargetError, match="on a machine with a CUDA GPU"):
            attempt()


@pytest.mark.parametrize(
    ("provider", "instead"),
    [
        (CUDA, "and CPUExecutionProvider loaded:"),
        (TENSORRT, "and nothing loaded (Please install TensorRT libraries as mentioned in the GPU requirements page):"),
    ],
    ids=["cuda", "tensorrt"],
)
def test_a_silent_fallback_is_seen(fallback, provider, instead):
    assert f"ONNX Runtime 1.31.1 was asked for {provider.name}, {instead} pip install" in why_absent(provider)
    assert fallback.severities == [4, 2]


@pytest.mark.slow
@pytest.mark.skipif(GPU_PYTHON is None, reason="INTRAQ_GPU_PYTHON names no Python that has onnxruntime-gpu")
def test_the_real_package_without_its_libraries():
    """Nothing on standard output or error: a report as JSON stays one. Torch is not imported: it brings libraries."""
    code = (
        "import sys; sys.path += sys.argv[1:]\n"
        "from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, why_absent\n"
        "found = [why_absent(CUDA), why_absent(TENSORRT)]\n"
        "print('\\n'.join(found))\n"
    )
    path = [path for path in (*sys.path, *site.getsitepackages()) if path]
    result = subprocess.run(
        [GPU_PYTHON, "-c", code, *path], capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert result.stderr == ""
    cuda, tensorrt = result.stdout.splitlines()
    assert "was asked for CUDAExecutionProvider, and CPUExecutionProvider loaded" in cuda
    assert "was asked for TensorrtExecutionProvider, and nothing loaded" in tensorrt


@pytest.mark.skipif(why_absent(TENSORRT) is None, reason="the TensorRT provider loads here")
def test_the_file_is_rehearsed_where_the_provider_is_not(frozen, tmp_path):
    _, program = frozen()
    artifact = export(program, PROFILE, tmp_path, {})
    assert is_rehearsed(artifact)
    found = validate(artifact, program, random_images(8))
    assert found.passes
    assert found.rehearsed
    assert found.ran_by is None
    assert found.parity.mismatched <= 1e-5 * found.parity.compared


def test_the_dialect_is_tensorrts(frozen):
    _, program = frozen()
    assert lower(program, PROFILE, {}).data == lower(program, load_profile("tensorrt-int8"), {}).data


def test_engines_are_built_for_the_models_input(frozen, tmp_path):
    artifact = export(frozen()[1], PROFILE, tmp_path, {})
    options = tensorrt_options(artifact.path, tmp_path / "kept", None)
    assert options == tensorrt_options(artifact.path.read_bytes(), tmp_path / "kept", None)
    assert options["trt_profile_min_shapes"] == options["trt_profile_opt_shapes"] == "image:1x3x32x32"
    assert options["trt_profile_max_shapes"] == "image:8x3x32x32"
    assert options["trt_engine_cache_path"] == str(tmp_path / "kept")
    context = tensorrt_options(artifact.path, tmp_path / "kept", tmp_path / "engine.onnx")
    assert context["trt_ep_context_file_path"] == str(tmp_path / "engine.onnx")
    assert "trt_engine_cache_path" not in context  # an absolute one is refused beside a context


def test_why_optimisations_are_off_for_tensorrt(frozen, tmp_path):
    """They turn float biases into the INT32 behind DequantizeLinear that TensorRT refuses."""
    artifact = export(frozen()[1], PROFILE, tmp_path, {})
    levels = onnxruntime.GraphOptimizationLevel
    for level, integer in ((levels.ORT_DISABLE_ALL, False), (levels.ORT_ENABLE_BASIC, True)):
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = level
        settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(artifact.path, settings, providers=["CPUExecutionProvider"])
        stored = onnx.load(tmp_path / "optimised.onnx").graph.initializer
        assert any(constant.data_type == TensorProto.INT32 for constant in stored) == integer


@pytest.mark.parametrize("normalization", [None, Normalization.of((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))])
def test_the_float16_baseline_answers_as_float32(normalization, tmp_path):
    """On the CPU, which casts what it has no float16 kernels for."""
    program = float_program(trace(small_network("resnet"), SMALL_SHAPE), normalization)
    plain = export(program, load_profile("onnxruntime"), tmp_path, {}).path
    half = in_float16(plain.read_bytes())
    images = random_images(4)
    if normalization is not None:
        images = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected, found = Session(plain).run(images), Session(half).run(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
    weights = [w for w in onnx.load_model_from_string(half).graph.initializer if np.prod(w.dims) > 64]
    assert {weight.data_type for weight in weights} == {TensorProto.FLOAT16}
    assert len(half) < 0.7 * plain.stat().st_size


def test_cuda_is_no_target():
    with pytest.raises(UsageError, match="onnxruntime-cuda is no target.*has no integer convolution"):
        load_profile("onnxruntime-cuda")
