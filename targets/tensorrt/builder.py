"""One way through TensorRT's builder, for TensorRT itself and for TensorRT for RTX.

Both have the same Python interface but for the flags of `versions`. Neither raises when something fails: a step returns
None or False and the reason is logged, so the log is kept, and explained.
"""

import re
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.tensorrt.versions import Switches

LARGEST_BATCH = 8
_REJECTIONS = (
    ("shiftIsAllZeros", "a quantizer has a zero-point other than 0; store signed codes"),
    ("input has type Int32 but must have type", "a bias stands behind a DequantizeLinear; give float values"),
    ("blocking dimension must be the last", "the weights of a convolution have blocks; INT4 is for linear layers"),
    (r"CHECK\(dtype == W.type\(\)\)", "a convolution has 4-bit weights behind INT8 inputs; store them as INT8"),
    (r"operand\.h.*CHECK\(is_constant\(\)\)", "INT4 weights in blocks stand behind quantized inputs; give it float16"),
    ("operand scales", "INT4 weights with float16 scales stand behind quantized float32 inputs; give it float16"),
    ("Scale coefficients must all be positive", "a quantizer's scale is 0, negative or NaN; calibrate it again"),
    ("Failed to import initializer", "a constant has a type that it does not know"),
    ("(?i)out of memory|find any implementation", "memory did not suffice to try any kernel; free some"),
)
"""What its messages mean, by what they contain."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialized engine."""

    engine: bytes
    log: list[str]
    seconds: float
    timing_cache: bytes
    """What was measured of kernels, for the next build on this GPU; empty where nothing was."""


def build_plan(
    runtime: ModuleType,
    product: str,
    switches: Switches,
    model: bytes,
    *,
    capability: str | None = None,
    workspace: int | None = None,
    timing_cache: bytes | None = None,
) -> Plan:
    """Builds an ONNX model with one input and a dynamic batch, for batches of 1 to LARGEST_BATCH.

    product: its name, for messages. capability: compile for another GPU than this machine's, ahead of time. workspace:
    the most bytes that kernels may use. timing_cache: of an earlier build on this GPU, or empty; None keeps none.

    Raises TargetError, with what was logged, where the model is refused or cannot be built.
    """
    logger = make_logger(runtime)
    builder = runtime.Builder(logger)
    network = builder.create_network(_bits(runtime.NetworkDefinitionCreationFlag, switches.network))
    parser = runtime.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise refusal(product, [_said(error) for error in errors] or logger.errors)
    config = builder.create_builder_config()
    config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED
    config.clear_flag(runtime.BuilderFlag.TF32)  # set by default: float layers would multiply 10-bit mantissas
    for name in switches.builder:
        config.set_flag(getattr(runtime.BuilderFlag, name))
    if workspace is not None:
        config.set_memory_pool_limit(runtime.MemoryPoolType.WORKSPACE, workspace)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(runtime, product, capability), 0)
    if timing_cache is not None:
        # None for one that it cannot read.
        cache = config.create_timing_cache(timing_cache) or config.create_timing_cache(b"")
        if not config.set_timing_cache(cache, False):  # another GPU's
            config.set_timing_cache(config.create_timing_cache(b""), False)
    for tensor in (network.get_input(0), *(network.get_output(index) for index in range(network.num_outputs))):
        # Else TensorRT may lay codes out in vectors of channels, and memory is given for the plain order.
        tensor.allowed_formats = 1 << int(runtime.TensorFormat.LINEAR)
    config.add_optimization_profile(_batches(builder, network.get_input(0)))
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if engine is None:
        raise refusal(product, logger.errors)
    kept = b"" if timing_cache is None else bytes(config.get_timing_cache().serialize())
    return Plan(bytes(engine), logger.lines, seconds, kept)


def make_logger(runtime: ModuleType) -> Any:
    """Keeps everything: failures are not raised but logged."""

    class Logger(runtime.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in (runtime.ILogger.ERROR, runtime.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _bits(flags: Any, names: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(flags, name)) for name in names)


def _capability(runtime: ModuleType, product: str, capability: str) -> Any:
    name = f"SM{capability.replace('.', '')}"
    known = {key: value for key, value in runtime.ComputeCapability.__members__.items() if key.startswith("SM")}
    if name not in known:
        have = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known)
        raise TargetError(f"{product} has no compute capability {capability}: it has {have}.")
    return known[name]


def _batches(builder: Any, image: Any) -> Any:
    profile = builder.create_optimization_profile()
    one, most = ((batch, *tuple(image.shape)[1:]) for batch in (1, LARGEST_BATCH))
    profile.set_shape(image.name, one, one, most)
    return profile


def _said(error: Any) -> str:
    node = getattr(error, "node_name", str)()  # TensorRT 8 has no names
    return f"{node}: {error.desc()}" if node else str(error.desc())


def refusal(product: str, messages: list[str]) -> TargetError:
    """What `product` said while it failed, explained where its meaning is known."""
    said = "; ".join(" ".join(message.split()) for message in messages) or "it gave no reason"
    meaning = next((sentence for pattern, sentence in _REJECTIONS if re.search(pattern, said)), None)
    explained = said if meaning is None else f"{meaning}. It said: {said}"
    return TargetError(f"{product} refuses the model: {explained.rstrip('.')}.")
