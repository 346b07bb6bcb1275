"""TensorRT's Python bindings: building an engine, and one that is loaded.

Everything that is called here exists from TensorRT 8.5 to 11. A call that fails returns None or False and logs why.
"""

import re
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from .arrays import Array, np
from .backends import engine_of, imported
from .base import INPUT, LARGEST_BATCH, Problem, write_whole
from .cuda import TO_DEVICE, TO_HOST, Cuda
from .manifest import Bundle, ModelEntry
from .timing import Measured, measured
from .versions import Switches, switches_of, workspace_of

_KINDS = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32"}
"""Types of tensors, as numpy and torch call them, by TensorRT's names."""


class Refused(Problem):
    """TensorRT refuses a model."""

    def __init__(self, product: str, messages: Iterable[str]) -> None:
        self.product = product
        self.said = "; ".join(" ".join(str(message).split()) for message in messages) or "it gave no reason"
        """TensorRT's messages, in one line."""
        memory = re.search("(?i)out of memory|find any implementation", self.said)
        why = "memory did not suffice, free some; it said: " if memory else ""
        super().__init__(f"{product} refuses the model: {why}{self.said.rstrip('.')[:400]}.")


def make_logger(trt: ModuleType, lines: Optional[List[str]] = None) -> Any:
    """A logger that keeps errors in its list `errors`, and all that is said in `lines`, which can be much."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if lines is not None:
                lines.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


class Build:
    """A network with one input and a dynamic batch, on its way to an engine for batches of 1 to LARGEST_BATCH."""

    def __init__(self, trt: ModuleType, product: str, logger: Any, switches: Switches, model: bytes) -> None:
        """product: TensorRT's name, for messages. model: ONNX. Raises Refused where it cannot be parsed."""
        self.trt, self.product, self.logger = trt, product, logger
        self._builder = trt.Builder(logger)
        bits = sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in switches.network)
        self._network = self._builder.create_network(bits)
        # Kept, as the timing cache is: older bindings do not keep what an engine is built from.
        self._parser = parser = trt.OnnxParser(self._network, logger)
        if not parser.parse(model):
            errors = [self.described(parser.get_error(index)) for index in range(parser.num_errors)]
            raise Refused(product, errors or logger.errors)
        self.config = self._builder.create_builder_config()
        self.config.clear_flag(trt.BuilderFlag.TF32)  # set by default: float layers would multiply 10-bit mantissas
        for name in switches.builder:
            self.config.set_flag(getattr(trt.BuilderFlag, name))

    def described(self, error: Any) -> str:
        """The text of a parser's error."""
        return str(error.desc())

    def limit(self, workspace: int) -> None:
        """Lets kernels use `workspace` bytes of memory at most."""
        self.config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, workspace)

    def use_timing(self, cache: bytes) -> None:
        """Uses what an earlier build measured of kernels; that of another GPU or version is left aside."""
        config = self.config
        self._kernels = config.create_timing_cache(cache) or config.create_timing_cache(b"")  # None: it cannot be read
        if not config.set_timing_cache(self._kernels, False):  # another GPU's
            self._kernels = config.create_timing_cache(b"")
            config.set_timing_cache(self._kernels, False)

    def timing(self) -> bytes:
        """The times of kernels that are known now, for `use_timing` of a later build."""
        return bytes(self.config.get_timing_cache().serialize())

    def engine(self) -> bytes:
        """The serialized engine. Raises Refused where it cannot be built."""
        network, image = self._network, self._network.get_input(0)
        for tensor in (image, *(network.get_output(index) for index in range(network.num_outputs))):
            # Else TensorRT may lay codes out in vectors of channels, and memory is given for the plain order.
            tensor.allowed_formats = 1 << int(self.trt.TensorFormat.LINEAR)
        profile = self._builder.create_optimization_profile()
        one, most = ((batch, *tuple(image.shape)[1:]) for batch in (1, LARGEST_BATCH))
        profile.set_shape(image.name, one, one, most)
        self.config.add_optimization_profile(profile)
        engine = self._builder.build_serialized_network(network, self.config)
        if engine is None:
            raise Refused(self.product, self.logger.errors)
        return bytes(engine)


class LoadedEngine:
    """An engine with one input, loaded; memory is given by whoever runs it."""

    def __init__(self, trt: ModuleType, logger: Any, engine: bytes, product: str, remedy: str) -> None:
        """product: TensorRT's name, remedy: what to do when something fails, both for messages.

        Raises Problem for an engine of another version or GPU, and where memory does not suffice.
        """
        self._logger, self._product, self._remedy = logger, product, remedy
        # It must live as long as the engine.
        self._runtime = trt.Runtime(logger)
        self.engine = self._runtime.deserialize_cuda_engine(engine)
        self._done(self.engine is not None, "load the engine")
        self.context = self.engine.create_execution_context()
        self._done(self.context is not None, "prepare the engine")
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.outputs: List[str] = [name for name in names if name != INPUT]

    def take(self, shape: Iterable[int]) -> None:
        """Sets the input's shape."""
        self._done(self.context.set_input_shape(INPUT, tuple(shape)), "take the images")

    def shape_of(self, name: str) -> Tuple[int, ...]:
        """A tensor's shape, which for outputs depends on the input's."""
        return tuple(self.context.get_tensor_shape(name))

    def kind_of(self, name: str) -> str:
        """A tensor's type, as numpy and torch call it. Raises Problem for another than models have."""
        kind = self.engine.get_tensor_dtype(name).name
        if kind not in _KINDS:
            raise Problem(f"the engine's tensor {name} is {kind}", self._remedy)
        return _KINDS[kind]

    def bind(self, name: str, address: int) -> None:
        """Gives a tensor its memory on the GPU."""
        self._done(self.context.set_tensor_address(name, address), f"take memory for {name}")

    def execute(self, stream: int) -> None:
        """Starts one run on a CUDA stream."""
        self._done(self.context.execute_async_v3(stream), "run the engine")

    def _done(self, well: bool, what: str) -> None:
        if not well:
            said = "; ".join(self._logger.errors) or "it gave no reason"
            raise Problem(f"{self._product} cannot {what} ({said.rstrip('.')[:400]})", self._remedy)


class TensorRT:
    """TensorRT's Python bindings, as an EngineBackend."""

    name = kind = "tensorrt"

    def __init__(self) -> None:
        absent, remedy = "TensorRT's Python bindings are not installed", "python3-libnvinfer (JetPack brings it)"
        self._trt = imported("tensorrt", absent, f"on a Jetson: sudo apt install {remedy}")
        self.version = str(self._trt.__version__)
        self.switches = switches_of(self.version)
        self._cuda = Cuda()
        self.gpu: Optional[str] = self._cuda.gpu()
        self._logger = make_logger(self._trt)

    def prepare(self, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> "TensorRTSession":
        data = engine_of(self, bundle, model, cache, with_codes).read_bytes()
        engine = LoadedEngine(self._trt, self._logger, data, "TensorRT", "empty the cache and build again")
        return TensorRTSession(engine, self._cuda)

    def make(self, data: bytes, shape: Sequence[int], timing: Path) -> bytes:
        self._logger.errors.clear()
        build = Build(self._trt, f"TensorRT {self.version}", self._logger, self.switches, data)
        build.limit(workspace_of(self._cuda.free_memory()))
        build.use_timing(timing.read_bytes() if timing.is_file() else b"")
        engine = build.engine()
        write_whole(timing, build.timing())
        return engine


class TensorRTSession:
    """An engine, with CUDA's memory for every batch."""

    def __init__(self, engine: LoadedEngine, cuda: Cuda) -> None:
        self._engine, self._cuda, self._stream = engine, cuda, cuda.stream()

    def run(self, images: Array) -> Dict[str, Array]:
        outputs, addresses = self._bound(images)
        try:
            self._execute()
            for name, array in outputs.items():
                self._cuda.copy(array.ctypes.data, addresses[name], array.nbytes, TO_HOST)
        finally:
            self._free(addresses)
        return outputs

    def measured(self, images: Array, runs: int) -> Measured:
        _, addresses = self._bound(images)
        try:
            return measured(self._execute, runs)
        finally:
            self._free(addresses)

    def _bound(self, images: Array) -> Tuple[Dict[str, Array], Dict[str, int]]:
        """Memory for the input and the outputs, of which the engine has the addresses."""
        engine = self._engine
        images = np.ascontiguousarray(images, dtype=engine.kind_of(INPUT))
        engine.take(images.shape)
        outputs: Dict[str, Array] = {
            name: np.empty(engine.shape_of(name), dtype=engine.kind_of(name)) for name in engine.outputs
        }
        addresses: Dict[str, int] = {}
        try:
            for name, array in [(INPUT, images), *outputs.items()]:
                addresses[name] = self._cuda.allocate(max(array.nbytes, 1))
                engine.bind(name, addresses[name])
            self._cuda.copy(addresses[INPUT], images.ctypes.data, images.nbytes, TO_DEVICE)
        except BaseException:
            self._free(addresses)
            raise
        return outputs, addresses

    def _free(self, addresses: Dict[str, int]) -> None:
        for address in addresses.values():
            self._cuda.free(address)

    def _execute(self) -> None:
        self._engine.execute(self._stream)
        self._cuda.wait(self._stream)
