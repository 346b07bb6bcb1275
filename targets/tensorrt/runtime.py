"""Runs engines on this machine's GPU, with torch's memory and streams.

Everything that is called here exists from TensorRT 8.5 to 11. A call that fails returns None or False and logs why.
"""

import abc
import contextlib
import statistics
from collections.abc import Iterator, Mapping
from types import ModuleType

import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.device.runner.base import LARGEST_BATCH
from intraq_deploy.targets.device.runner.tensorrt import LoadedEngine, make_logger
from intraq_deploy.targets.onnx.canonical import INPUT, OUTPUT, codes_name
from intraq_deploy.targets.tensorrt.builder import explained

_WARM_UP, _RUNS = 50, 200


class BatchedSession(abc.ABC):
    """An engine that can be run and timed: it takes any number of images, batch by batch."""

    def run(self, images: Tensor) -> Tensor:
        """Logits, float32 [N, classes], on the CPU. images: [N, C, H, W] as the model takes them, any N."""
        return self._run(images)[OUTPUT]

    def run_instrumented(self, images: Tensor, zero_points: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the codes of every tensor (int16 [N, ...]), on an instrumented model.

        zero_points: zero-points of the stored bytes, by tensor.
        """
        found = self._run(images)
        codes = {name: found[codes_name(name)].to(torch.int16) - zero for name, zero in zero_points.items()}
        return found[OUTPUT], codes

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        parts = [self._batch(part) for part in images.split(LARGEST_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @abc.abstractmethod
    def milliseconds(self, images: Tensor) -> float:
        """The median time of one batch on the GPU, without transfers. Raises TargetError where it cannot be run.

        images: float32 or uint8 [N, C, H, W], as the model takes them, N at most LARGEST_BATCH.
        """

    @abc.abstractmethod
    def _batch(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs of one batch by name, on the CPU."""


class EngineSession(BatchedSession):
    """One engine with one input; the logits are its first output, and codes of tensors may follow."""

    def __init__(self, runtime: ModuleType, product: str, engine: bytes, device: str) -> None:
        """product: TensorRT's name, for messages. device: the GPU, as torch calls it.

        Raises TargetError for an engine of another version or GPU, and where memory does not suffice.
        """
        self._device, self._information = device, runtime.LayerInformationFormat
        with explained():
            self._engine = LoadedEngine(runtime, make_logger(runtime), engine, product, "build it again on this GPU")

    def layers(self) -> str:
        """TensorRT's own description of the layers, JSON. A shape is set first: without one it shows no formats."""
        engine = self._engine.engine
        with explained():
            self._engine.take((1, *tuple(engine.get_tensor_shape(INPUT))[1:]))
        inspector = engine.create_engine_inspector()
        inspector.execution_context = self._engine.context
        return str(inspector.get_engine_information(self._information.JSON))

    def milliseconds(self, images: Tensor) -> float:
        """The median time of a CUDA graph's replays, images: float32 or uint8 [N, C, H, W] (see `BatchedSession`)."""
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

    def _batch(self, images: Tensor) -> dict[str, Tensor]:
        # Not the default stream: TensorRT would wait for it more than once.
        with self._translated(), torch.cuda.stream(torch.cuda.Stream()):
            tensors = self._bind(images)
            self._execute()
            torch.cuda.current_stream().synchronize()
            return {name: tensors[name].cpu() for name in self._engine.outputs}

    def _bind(self, images: Tensor) -> dict[str, Tensor]:
        """Memory for all inputs and outputs, of which the engine has the addresses: it must outlive the execution."""
        engine = self._engine
        tensors = {INPUT: images.to(self._device, self._type(INPUT)).contiguous()}
        engine.take(images.shape)
        for name in engine.outputs:
            tensors[name] = torch.empty(engine.shape_of(name), dtype=self._type(name), device=self._device)
        for name, tensor in tensors.items():
            engine.bind(name, tensor.data_ptr())
        return tensors

    def _execute(self) -> None:
        self._engine.execute(torch.cuda.current_stream().cuda_stream)

    def _type(self, name: str) -> torch.dtype:
        kind: torch.dtype = getattr(torch, self._engine.kind_of(name))
        return kind

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises errors of torch and of the runner as TargetError."""
        try:
            with explained():
                yield
        except RuntimeError as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TargetError(
                f"The engine could not be run ({said.rstrip('.')}): free the GPU's memory, and retry."
            ) from error


def _timed(graph: torch.cuda.CUDAGraph) -> float:
    """Milliseconds of one replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
