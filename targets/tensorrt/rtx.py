"""TensorRT for RTX: NVIDIA's ONNX parser and compiler, ahead of time and without a GPU.

An engine is made for a compute capability that is named, not found: with none named the compiler accepts everything.
It cannot be loaded or run here; what is learned is whether the model is accepted, and in which types its layers
multiply. That stands in for TensorRT, whose compiler needs the GPU itself.
"""

import re
import time
from dataclasses import dataclass
from typing import Any

from intraq_deploy.targets.tensorrt.imports import tensorrt_rtx
from intraq_deploy.targets.tensorrt.layers import EngineLayer, parse

from intraq_deploy.errors import TargetError

_LARGEST_BATCH = 8
_REJECTIONS = (
    ("shiftIsAllZeros", "a quantizer has a zero-point other than 0; store signed codes"),
    ("input has type Int32 but must have type", "a bias stands behind a DequantizeLinear; give float values"),
    ("blocking dimension must be the last", "the weights of a convolution have blocks; INT4 is for linear layers"),
    (r"CHECK\(dtype == W.type\(\)\)", "a convolution has 4-bit weights behind INT8 inputs; store them as INT8"),
    (r"operand\.h.*CHECK\(is_constant\(\)\)", "INT4 weights in blocks stand behind quantized inputs; give it float16"),
    ("operand scales", "INT4 weights with float16 scales stand behind quantized float32 inputs; give it float16"),
    ("Failed to import initializer", "a constant has a type that it does not know"),
    ("(?i)out of memory|find any implementation", "memory did not suffice to try any kernel; free some"),
)
"""What its messages mean, by what they contain."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An engine, and what became of the layers."""

    engine: bytes
    layers: list[EngineLayer]
    version: str
    """Of the compiler."""
    capability: str
    seconds: float


def compile_model(model: bytes, capability: str) -> Compiled:
    """Compiles an ONNX model with one input and a dynamic batch, for batches of 1 to 8.

    capability: "8.6" or another that the compiler has. Raises TargetError with what it says to a model that it
    refuses.
    """
    runtime = tensorrt_rtx()
    logger = _logger(runtime)
    builder = runtime.Builder(logger)
    network = builder.create_network(0)
    parser = runtime.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise _refusal(runtime, [_said(error) for error in errors] or logger.errors)
    config = builder.create_builder_config()
    config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(_capability(runtime, capability), 0)
    config.add_optimization_profile(_batches(builder, network.get_input(0)))
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _refusal(runtime, logger.errors)
    seconds = time.perf_counter() - start
    return Compiled(bytes(engine), parse(logger.lines), runtime.__version__, capability, seconds)


def _logger(runtime: Any) -> Any:
    """Keeps everything: failures are not raised but logged, and the layers are only in the log."""

    class Logger(runtime.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in (runtime.ILogger.ERROR, runtime.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _capability(runtime: Any, capability: str) -> Any:
    name = f"SM{capability.replace('.', '')}"
    known = {key: value for key, value in runtime.ComputeCapability.__members__.items() if key.startswith("SM")}
    if name not in known:
        have = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known)
        raise TargetError(
            f"TensorRT for RTX {runtime.__version__} has no compute capability {capability}: it has {have}."
        )
    return known[name]


def _batches(builder: Any, image: Any) -> Any:
    profile = builder.create_optimization_profile()
    one, most = ((batch, *tuple(image.shape)[1:]) for batch in (1, _LARGEST_BATCH))
    profile.set_shape(image.name, one, one, most)
    return profile


def _said(error: Any) -> str:
    return f"{error.node_name()}: {error.desc()}" if error.node_name() else str(error.desc())


def _refusal(runtime: Any, messages: list[str]) -> TargetError:
    said = "; ".join(" ".join(message.split()) for message in messages) or "it gave no reason"
    meaning = next((sentence for pattern, sentence in _REJECTIONS if re.search(pattern, said)), None)
    explained = said if meaning is None else f"{meaning}. It said: {said}"
    return TargetError(f"TensorRT for RTX {runtime.__version__} refuses the model: {explained.rstrip('.')}.")
