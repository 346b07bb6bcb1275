"""Sessions on a GPU: the TensorRT dialect on the TensorRT provider, float baselines on the CUDA provider.

ONNX Runtime's own optimisations are off for TensorRT. From "basic" on they turn the float biases behind quantized
inputs into INT32 behind a DequantizeLinear (ONNX Runtime 1.32), which TensorRT's parser refuses.

The CUDA provider has no integer convolution: it would run Q/DQ files in float. So it is a float32 and float16
baseline here and no target.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.device.runner.base import LARGEST_BATCH
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, Provider, open_on, why_absent
from intraq_deploy.targets.onnxruntime.session import ERRORS_ONLY, Session

NO_INTEGER_CONVOLUTION = "ONNX Runtime's CUDA provider has no integer convolution: a float baseline"
_SHOWN = 200


class _GpuSession(Session):
    """A model on a GPU provider. The provider does not list the operators that run."""

    _provider: Provider
    _most: int
    """The greatest batch size of one run."""

    def _open(self, provider: Provider, model: bytes | Path, options: dict[str, str], most: int, plain: bool) -> None:
        runtime = onnxruntime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        if plain:
            settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, Path) else model
        self._session = open_on(provider, source, settings, options)
        self._provider, self._most, self._operators = provider, most, Counter()
        self._outputs = [output.name for output in self._session.get_outputs()]

    def _run(self, outputs: list[str], images: Tensor) -> list[np.ndarray[Any, Any]]:
        try:
            parts = [super(_GpuSession, self)._run(outputs, part) for part in images.split(self._most)]
        except Exception as error:  # its exception types are not public
            raise TargetError(f"{self._provider.name} fails: {str(error).strip()[:_SHOWN]}.") from error
        return [np.concatenate(found) for found in zip(*parts, strict=True)]


class TensorRTSession(_GpuSession):
    """A model on the TensorRT provider, which builds an engine as it opens."""

    def __init__(self, model: bytes | Path, kept: Path, context: Path | None = None) -> None:
        """Opens a model. kept: a folder for its engines and kernels' times, made where it is missing. context: the path
        of a model that holds the engine, written in place of engines in `kept`.

        Raises TargetError where the provider does not load, or does not run all of the model.
        """
        kept.mkdir(parents=True, exist_ok=True)
        self._open(TENSORRT, model, tensorrt_options(model, kept, context), LARGEST_BATCH, plain=True)

    def close(self) -> None:
        """Releases the engine. A context model is complete then."""
        del self._session


class CudaSession(_GpuSession):
    """A float model on the CUDA provider, in the type that it is written in."""

    def __init__(self, model: bytes | Path) -> None:
        """Opens a model. Raises TargetError where the provider does not load, or does not run all of the model."""
        self.bytes = model.stat().st_size if isinstance(model, Path) else len(model)
        self._open(CUDA, model, {"use_tf32": "0"}, 1 << 10, plain=False)


def find_gpu() -> tuple[str, str, str]:
    """The builder of a TensorRTSession's engines: runtime and provider, the GPU, and its compute capability, as far as
    torch knows them.

    Raises TargetError where the provider does not load.
    """
    absent = why_absent(TENSORRT)
    if absent is not None:
        raise TargetError(absent)
    builder = f"ONNX Runtime {onnxruntime().__version__}, {TENSORRT.name}"
    if not torch.cuda.is_available():
        return builder, "a GPU that torch does not see", "unknown"
    major, minor = torch.cuda.get_device_capability()
    return builder, torch.cuda.get_device_name(), f"{major}.{minor}"


def tensorrt_options(model: bytes | Path, kept: Path, context: Path | None) -> dict[str, str]:
    """The TensorRT provider's options: INT8 between quantizers, no float16, batches of 1 to LARGEST_BATCH.

    TF32 has no option here: NVIDIA_TF32_OVERRIDE=0 in the environment switches it off in layers that stay in float.
    """
    options = {
        "trt_int8_enable": "True",  # TensorRT 10 and before; 11 takes the types from the model
        "trt_fp16_enable": "False",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(kept),
    }
    if context is None:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(kept)}
    else:
        options |= {
            "trt_dump_ep_context_model": "True",
            "trt_ep_context_file_path": str(context),
            "trt_ep_context_embed_mode": "1",  # the engine inside, so that one file is shipped
        }
    name, shape = _image(model)
    for key, batch in (("min", 1), ("opt", 1), ("max", LARGEST_BATCH)):
        options[f"trt_profile_{key}_shapes"] = f"{name}:{'x'.join(map(str, (batch, *shape)))}"
    return options


def _image(model: bytes | Path) -> tuple[str, list[int]]:
    """The name of the model's input, and its shape behind the batch."""
    loaded = onnx.load(model) if isinstance(model, Path) else onnx.load_model_from_string(model)
    image = loaded.graph.input[0]
    return image.name, [dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]]
