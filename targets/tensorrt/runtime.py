"""Engines, run: on this machine's GPU, through torch's memory and streams.

Everything that is called here exists from TensorRT 8.5 to 11. A call that fails returns None or False and logs why.
"""

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.onnx.canonical import INPUT, OUTPUT, codes_name
from intraq_deploy.targets.tensorrt.builder import LARGEST_BATCH, make_logger

_TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
}
"""By TensorRT's names."""
_WARM_UP, _RUNS = 50, 200


class EngineSession:
    """One engine with one input; the logits are its first output, and codes of tensors may follow."""

    def __init__(self, runtime: ModuleType, product: str, engine: bytes, device: str) -> None:
        """product: its name, for messages. device: the GPU, as torch calls it.

        Raises TargetError for an engine of another version or GPU, and where memory does not suffice.
        """
        self._product, self._device, self._logger = product, device, make_logger(runtime)
        self._trt = runtime
        # It must live as long as the engine.
        self._runtime = runtime.Runtime(self._logger)
        self._engine = self._made(self._runtime.deserialize_cuda_engine(engine), "load the engine")
        self._context = self._made(self._engine.create_execution_context(), "prepare the engine")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._outputs = [name for name in names if name != INPUT]

    def run(self, images: Tensor) -> Tensor:
        """images: what the model takes, [N, C, H, W] -> logits, float32 [N, classes]; on the CPU, any N."""
        return self._run(images)[OUTPUT]

    def run_instrumented(self, images: Tensor, zero_points: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the codes of every tensor (int16 [N, ...]), on an instrumented model.

        zero_points: of the stored bytes, by tensor.
        """
        found = self._run(images)
        codes = {name: found[codes_name(name)].to(torch.int16) - zero for name, zero in zero_points.items()}
        return found[OUTPUT], codes

    def layers(self) -> str:
        """What TensorRT says of the layers, as JSON. A shape is set first: without one there are no formats to show."""
        shape = tuple(self._engine.get_tensor_shape(INPUT))
        self._done(self._context.set_input_shape(INPUT, (1, *shape[1:])), "take a batch of one")
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def milliseconds(self, images: Tensor) -> float:
        """The median of a CUDA graph's replays on `images`, at most LARGEST_BATCH of them; transfers apart."""
        with self._translated(), torch.cuda.stream(torch.cuda.Stream()):
            kept = self._bind(images)
            for _ in range(_WARM_UP):
                self._execute()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._execute()
            times = [_timed(graph) for _ in range(_RUNS)]
        del kept
        return statistics.median(times)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs, by name."""
        parts = [self._batch(part) for part in images.split(LARGEST_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in self._outputs}

    def _batch(self, images: Tensor) -> dict[str, Tensor]:
        # Not the default stream: TensorRT would wait for it more than once.
        with self._translated(), torch.cuda.stream(torch.cuda.Stream()):
            tensors = self._bind(images)
            self._execute()
            torch.cuda.current_stream().synchronize()
            return {name: tensors[name].cpu() for name in self._outputs}

    def _bind(self, images: Tensor) -> dict[str, Tensor]:
        """Memory for all inputs and outputs, of which the context has the addresses: it must outlive the execution."""
        tensors = {INPUT: images.to(self._device, self._type(INPUT)).contiguous()}
        self._done(self._context.set_input_shape(INPUT, tuple(images.shape)), "take the images")
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=self._type(name), device=self._device)
        for name, tensor in tensors.items():
            self._done(self._context.set_tensor_address(name, tensor.data_ptr()), f"take memory for {name}")
        return tensors

    def _execute(self) -> None:
        self._done(self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream), "run the engine")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What torch raises of the GPU, as a TargetError."""
        try:
            yield
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TargetError(
                f"The engine could not be run ({said.rstrip('.')}): free the GPU's memory, and retry."
            ) from error

    def _type(self, name: str) -> torch.dtype:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise TargetError(f"The engine's tensor {name} is {kind}: build it from one of our files.")
        return _TYPES[kind]

    def _made(self, value: Any, what: str) -> Any:
        self._done(value is not None, what)
        return value

    def _done(self, ok: bool, what: str) -> None:
        if not ok:
            said = "; ".join(self._logger.errors) or "it gave no reason"
            raise TargetError(f"{self._product} cannot {what} ({said.rstrip('.')}): build it again on this GPU.")


def _timed(graph: torch.cuda.CUDAGraph) -> float:
    """Milliseconds of one replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
