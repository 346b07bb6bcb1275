"""TensorRT for RTX: NVIDIA's ONNX parser and compiler, ahead of time and without a GPU.

An engine is made for a compute capability that is named, not found: with none named the compiler accepts everything.
It cannot be loaded or run here; what is learned is whether the model is accepted, and in which types its layers
multiply. That stands in for TensorRT, whose compiler needs the GPU itself.
"""

import time
from dataclasses import dataclass

from intraq_deploy.targets.device.runner.versions import Switches
from intraq_deploy.targets.tensorrt.builder import NetworkBuild, explained
from intraq_deploy.targets.tensorrt.imports import tensorrt_rtx
from intraq_deploy.targets.tensorrt.layers import EngineLayer, parse


@dataclass(frozen=True, slots=True)
class Compiled:
    """An engine, and its layers as the compiler made them."""

    engine: bytes
    layers: list[EngineLayer]
    compiler: str
    """The compiler's name and version."""
    capability: str
    seconds: float


def compile_model(model: bytes, capability: str) -> Compiled:
    """Compiles an ONNX model for a GPU of `capability`: "8.6" or another that the compiler has.

    Raises TargetError, with the compiler's words, for a model that it refuses, and where the compiler is not installed.
    """
    runtime = tensorrt_rtx()
    compiler = f"TensorRT for RTX {runtime.__version__}"
    with explained():
        build = NetworkBuild(runtime, compiler, Switches(), model)
        build.compile_for(capability)
        start = time.perf_counter()
        engine = build.engine()
        seconds = time.perf_counter() - start
    return Compiled(engine, parse(build.log), compiler, capability, seconds)
