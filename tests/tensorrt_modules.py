"""TensorRT's Python module as each version has it: with exactly its flags, so that one too many or too few is an error.

There is no GPU here to run an engine, so ONNX Runtime computes in its place, on the memory whose addresses it is given,
with its batch, shapes and types; a plan is the ONNX file behind a line that says for which version it is.
"""

import ctypes
import json
import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import torch

from intraq_deploy.targets.tensorrt import host, runtime

# version: (NetworkDefinitionCreationFlag, BuilderFlag)
VERSIONS = {
    "8.6.2": (("EXPLICIT_BATCH", "EXPLICIT_PRECISION"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "FP8")),
    "10.3.0": (("EXPLICIT_BATCH", "STRONGLY_TYPED"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "FP8", "INT4")),
    "10.13.2.6": (("EXPLICIT_BATCH", "STRONGLY_TYPED"), ("FP16", "INT8", "DEBUG", "GPU_FALLBACK", "TF32", "INT4")),
    "11.4.1": (("PREFER_AOT_COMPILED",), ("DEBUG", "GPU_FALLBACK", "TF32")),
}
GPU, FREE = "Orin", 8 << 30
_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(uint8)": ("UINT8", np.uint8),
}
DataType = IntEnum("DataType", ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"), start=0)


class Memory(bytes):
    def serialize(self):
        return self


class Seen:
    """What a module was told, by build, and how it is to fail or err."""

    def __init__(self):
        self.builds = []
        self.refuse = None
        """Logged when it builds, which then gives None; "parser": the model is refused before."""
        self.executed = []
        """How many executions there were, by where: "stream" or "graph"."""
        self.change = lambda name, array: array
        """What it makes of an output."""
        self.layer = lambda node: "Int8"
        """In which type the inspector says that a layer multiplies."""


class Build:
    def __init__(self):
        self.network, self.builder, self.cleared, self.workspace, self.cache = None, set(), set(), None, None


def module_of(version, seen):
    """A module with the attributes of a version, and no others."""
    networks, flags = VERSIONS[version]
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = IntEnum("Flag", networks, start=0)
    trt.BuilderFlag = IntEnum("BuilderFlag", flags, start=0)
    trt.MemoryPoolType = IntEnum("MemoryPoolType", ("WORKSPACE",), start=0)
    trt.ProfilingVerbosity = IntEnum("ProfilingVerbosity", ("DETAILED",), start=0)
    trt.TensorFormat = IntEnum("TensorFormat", ("LINEAR", "CHW2", "HWC8", "CHW4"), start=0)
    trt.LayerInformationFormat = IntEnum("LayerInformationFormat", ("JSON",), start=0)
    head = f"plan of {version}\n".encode()

    class Logger:
        INTERNAL_ERROR, ERROR, VERBOSE = range(3)

        def __init__(self):
            pass

    class Tensor:
        """All formats are allowed by default."""

        name, shape, allowed_formats = "image", (-1, 3, 32, 32), 0b1111

    class Network:
        model = None

        def __init__(self):
            self.image = Tensor()

        def get_input(self, index):
            return self.image

        def get_output(self, index):
            return self.outputs[index]

        @property
        def num_outputs(self):
            return len(self.outputs)

    class Config:
        profiling_verbosity = None

        def set_flag(self, flag):
            seen.builds[-1].builder.add(flag.name)

        def clear_flag(self, flag):
            seen.builds[-1].cleared.add(flag.name)

        def set_memory_pool_limit(self, pool, size):
            seen.builds[-1].workspace = size

        def create_timing_cache(self, data):
            seen.builds[-1].cache = bytes(data)
            return Memory(b"measured")

        def set_timing_cache(self, cache, ignore_mismatch):
            assert not ignore_mismatch
            if seen.builds[-1].cache == b"another GPU's":
                return False
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

        def add_optimization_profile(self, profile):
            pass

    class Profile:
        def set_shape(self, name, least, usual, most):
            assert (name, least, usual, most[0]) == ("image", (1, 3, 32, 32), (1, 3, 32, 32), 8)

    class Builder:
        def __init__(self, logger):
            self._logger = logger
            seen.builds.append(Build())

        def create_network(self, bits):
            named = {flag.name for flag in trt.NetworkDefinitionCreationFlag if bits >> flag & 1}
            assert bits == sum(1 << flag for flag in trt.NetworkDefinitionCreationFlag if flag.name in named)
            seen.builds[-1].network = named
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            if seen.refuse is not None:
                self._logger.log(Logger.ERROR, seen.refuse)
                return None
            assert {tensor.allowed_formats for tensor in (network.image, *network.outputs)} == {1}
            return Memory(head + network.model)

    class Error:
        def desc(self):
            return "shiftIsAllZeros"

    if version[0] != "8":
        Error.node_name = lambda self: "conv1"

    class OnnxParser:
        def __init__(self, network, logger):
            self._network, self.num_errors = network, 0

        def parse(self, model):
            if seen.refuse == "parser":
                self.num_errors = 1
                return False
            self._network.model = model
            self._network.outputs = [Tensor() for _ in onnx.load_from_string(model).graph.output]
            return True

        def get_error(self, index):
            return Error()

    class Inspector:
        execution_context = None

        def __init__(self, model):
            self._model = onnx.load_from_string(model)

        def get_engine_information(self, kind):
            assert self.execution_context.shape is not None, "without shapes TensorRT has no formats to show"
            layers = [
                {
                    "Name": f"{node.name}.weight.codes + {node.name}",
                    "LayerType": "CaskConvolution" if node.op_type == "Conv" else "CaskGemmMatrixMultiply",
                    "Inputs": [{"Name": "x", "Format/Datatype": f"Row major {seen.layer(node.name)} format"}],
                    "Weights": {"Type": seen.layer(node.name), "Count": 1},
                    "Metadata": f"[ONNX Layer: {node.name}]" if version[0] != "8" else "",
                }
                for node in self._model.graph.node
                if node.op_type in ("Conv", "Gemm")
            ]
            reformat = {
                "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
                "LayerType": "Reformat",
                "Inputs": [{"Name": "image", "Format/Datatype": "Row major linear FP32"}],
            }
            return json.dumps({"Layers": [reformat, *layers], "Bindings": ["image", "logits"]})

    class Context:
        def __init__(self, session):
            self._session, self.shape, self._addresses = session, None, {}

        def set_input_shape(self, name, shape):
            assert name == "image"
            assert 1 <= shape[0] <= 8
            self.shape = tuple(shape)
            return True

        def get_tensor_shape(self, name):
            sizes = next(output.shape for output in self._session.get_outputs() if output.name == name)
            return (self.shape[0], *sizes[1:])

        def set_tensor_address(self, name, address):
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream):
            seen.executed.append("graph" if Graph.recording else "stream")
            outputs = self._session.get_outputs()
            if self._addresses.keys() != {"image", *(output.name for output in outputs)}:
                return False
            (image,) = self._session.get_inputs()
            given = _at(self._addresses["image"], self.shape, _TYPES[image.type][1])
            for output, found in zip(outputs, self._session.run(None, {"image": given.copy()}), strict=True):
                memory = _at(self._addresses[output.name], found.shape, found.dtype)
                memory[...] = seen.change(output.name, found)
            return True

    class Engine:
        def __init__(self, model):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = 1
            self._model = model
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._tensors = {x.name: x for x in (*self._session.get_inputs(), *self._session.get_outputs())}
            self.num_io_tensors = len(self._tensors)

        def get_tensor_name(self, index):
            return list(self._tensors)[index]

        def get_tensor_dtype(self, name):
            return DataType[_TYPES[self._tensors[name].type][0]]

        def get_tensor_shape(self, name):
            return (-1, *self._tensors[name].shape[1:])

        def create_execution_context(self):
            return Context(self._session)

        def create_engine_inspector(self):
            return Inspector(self._model)

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, plan):
            if not bytes(plan).startswith(head):
                self._logger.log(Logger.ERROR, "Version tag does not match")
                return None
            return Engine(bytes(plan)[len(head) :])

    for kind in (Builder, OnnxParser, Runtime):
        setattr(trt, kind.__name__, kind)
    trt.ILogger = Logger
    return trt


def _at(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Stream:
    cuda_stream = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass


class Graph:
    """Counts its replays; what is executed while it records is recorded only."""

    recording, replays = False, 0

    def __init__(self):
        Graph.replays = 0

    def replay(self):
        Graph.replays += 1


class Recording:
    def __enter__(self):
        Graph.recording = True

    def __exit__(self, *_):
        Graph.recording = False


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 0.5


def install(monkeypatch, version, gpu=True):
    """A machine with a version of TensorRT and an Orin, whose memory is the CPU's. Gives what it sees.

    Only the modules that talk to TensorRT see the GPU: torch itself would try to use it.
    """
    seen = Seen()
    monkeypatch.setitem(sys.modules, "tensorrt", module_of(version, seen))
    cuda = SimpleNamespace(
        is_available=lambda: gpu,
        get_device_capability=lambda: (8, 7),
        get_device_name=lambda: GPU,
        mem_get_info=lambda: (FREE, 2 * FREE),
        stream=lambda stream: stream,
        Stream=Stream,
        current_stream=Stream,
        synchronize=lambda: None,
        CUDAGraph=Graph,
        graph=lambda graph: Recording(),
        Event=Event,
    )
    with_gpu = SimpleNamespace(**{**vars(torch), "cuda": cuda})
    monkeypatch.setattr(host, "torch", with_gpu)
    monkeypatch.setattr(runtime, "torch", with_gpu)
    monkeypatch.setattr(host, "DEVICE", "cpu")
    return seen
