"""The runner's way through TensorRT's builder, for TensorRT itself and for TensorRT for RTX.

Both have the same Python interface but for the flags of `versions`. What they say while they fail is explained here.
"""

import contextlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.device.runner.base import Problem
from intraq_deploy.targets.device.runner.tensorrt import Build, Refused, make_logger
from intraq_deploy.targets.device.runner.versions import Switches

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
"""Words in TensorRT's messages, and their meaning."""


class NetworkBuild(Build):
    """A build whose engine tells of its layers, and whose errors name the node that they are about."""

    def __init__(self, runtime: ModuleType, product: str, switches: Switches, model: bytes) -> None:
        """product: TensorRT's name, for messages. model: ONNX. Raises Refused where it cannot be parsed."""
        self.log: list[str] = []
        """All that TensorRT says while it builds."""
        super().__init__(runtime, product, make_logger(runtime, self.log), switches, model)
        self.config.profiling_verbosity = runtime.ProfilingVerbosity.DETAILED

    def compile_for(self, capability: str) -> None:
        """Compiles ahead of time for a GPU of `capability`. Raises TargetError for one that the compiler lacks."""
        name = f"SM{capability.replace('.', '')}"
        members = self.trt.ComputeCapability.__members__
        known = {key: value for key, value in members.items() if key.startswith("SM")}
        if name not in known:
            have = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known)
            raise TargetError(f"{self.product} has no compute capability {capability}: it has {have}.")
        self.config.num_compute_capabilities = 1
        self.config.set_compute_capability(known[name], 0)

    def described(self, error: Any) -> str:
        node = getattr(error, "node_name", str)()  # TensorRT 8 has no names
        return f"{node}: {error.desc()}" if node else str(error.desc())


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns the runner's errors into this package's. Raises TargetError, explained where TensorRT's words can be."""
    try:
        yield
    except Refused as error:
        meaning = next((sentence for pattern, sentence in _REJECTIONS if re.search(pattern, error.said)), None)
        said = error.said if meaning is None else f"{meaning}. It said: {error.said}"
        raise TargetError(f"{error.product} refuses the model: {said.rstrip('.')}.") from error
    except Problem as error:
        raise TargetError(str(error)) from error
