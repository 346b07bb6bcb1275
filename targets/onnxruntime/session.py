"""ONNX Runtime sessions, which run a model, count its kernels, and bring its integers into view."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.onnx.canonical import INPUT, codes_name
from intraq_deploy.targets.onnxruntime.imports import onnxruntime

INTEGER_KERNELS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")
_FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_FLOAT_KERNELS = (*_FLOAT_LAYERS, "Add", "AveragePool", "GlobalAveragePool", "ReduceMean")
ERRORS_ONLY = 3


class Session:
    """A model on the CPU. The sessions of gpu.py run on other devices."""

    def __init__(self, model: bytes | Path, *, threads: int = 0, optimised: bool = True) -> None:
        """Opens a model. threads: 0 lets ONNX Runtime decide. optimised: False runs every operator as it is written.

        Raises TargetError if ONNX Runtime refuses the model.
        """
        runtime = onnxruntime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        settings.intra_op_num_threads = threads
        if not optimised:
            settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            settings.optimized_model_filepath = str(optimized)
            source = str(model) if isinstance(model, Path) else model
            try:
                self._session = runtime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
            except Exception as error:  # its exception types are not public
                raise TargetError(f"ONNX Runtime {runtime.__version__} refuses the model: {error}") from error
            self._operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, images: Tensor) -> Tensor:
        """The logits, float32 [N, classes]. images: [N, C, H, W] in the type that the model takes."""
        (logits,) = self._run(self._outputs[:1], images)
        return torch.from_numpy(logits)

    def run_instrumented(self, images: Tensor, zero_points: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, float32 [N, classes], and the codes by tensor, int16 [N, ...], of an instrumented model.

        images: [N, C, H, W] in the type that the model takes. zero_points: by tensor, for codes stored as UINT8.
        """
        logits, *found = self._run(self._outputs, images)
        by_name = dict(zip(self._outputs[1:], found, strict=True))
        codes = {}
        for name, zero_point in zero_points.items():
            stored = torch.from_numpy(by_name[codes_name(name)])
            codes[name] = stored.to(torch.int16) - (zero_point if stored.dtype == torch.uint8 else 0)
        return torch.from_numpy(logits), codes

    def _run(self, outputs: list[str], images: Tensor) -> list[np.ndarray[Any, Any]]:
        found: list[np.ndarray[Any, Any]] = self._session.run(outputs, {INPUT: images.numpy()})
        return found

    def integer_kernels(self) -> dict[str, int]:
        """The number of operators of each kind in the optimised graph that compute on integers."""
        return {op: n for op, n in sorted(self._operators.items()) if op.startswith(INTEGER_KERNELS)}

    def float_layers(self) -> int:
        """The number of convolutions and linear layers that compute in float."""
        return sum(self._operators[op] for op in _FLOAT_LAYERS)

    def float_kernels(self) -> dict[str, int]:
        """The number of operators of each kind in the optimised graph that compute sums and products in float."""
        return {op: n for op, n in sorted(self._operators.items()) if op in _FLOAT_KERNELS}

    def operators(self) -> dict[str, Any]:
        """The number of operators of each kind in the optimised graph."""
        return dict(self._operators)
