#!/usr/bin/env python3
"""Builds, checks, times and runs the network of this folder, with what the device has.

One file, for Python 3.8 or newer and numpy; `doctor` needs no numpy. Nothing is downloaded or installed. The network
runs in TensorRT (its Python bindings, or trtexec) or in ONNX Runtime's CPU provider.

    python3 run.py doctor              what is here, what is missing, and the remedy
    python3 run.py build               TensorRT's engines for this GPU, kept in cache/; ONNX Runtime needs none
    python3 run.py check               compares the integers that are computed here with those that must come out
    python3 run.py bench               how long one batch takes
    python3 run.py classify IMAGE...   the five likeliest classes
    python3 run.py predict             classes of what comes on standard input, as the network takes it, image by image

Exit codes: 0 done, 1 error, 2 usage, 3 the check found a difference that may not be.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036
    sys.exit("Error: this is Python %d.%d: run it with Python 3.8 or newer." % sys.version_info[:2])  # noqa: UP031

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: nothing in it is a module, and a file that says so is not verified yet

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

try:
    np: Any = importlib.import_module("numpy")
except ImportError:
    np = None

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
"""Read from standard input it is in no folder."""
ROOT = Path("/")
"""Of the system's files."""
MANIFEST, FORMAT = "manifest.json", 1
INPUT, OUTPUT = "image", "logits"
LARGEST_BATCH = 8
"""Of an engine."""
AFTER_A_FLIP = 0.1
"""How far logits may be from the expected ones, as a share of the largest, where a code before them differs."""
RUNTIMES = ("tensorrt", "trtexec", "onnxruntime")
"""In the order in which they are tried."""
GIB = 1 << 30
UNPACK = "unpack the bundle again"


class Problem(Exception):
    """One sentence for a person: what was found, and what to do. `doctor` shows them apart."""

    def __init__(self, found: str, remedy: Optional[str] = None) -> None:
        super().__init__(found if remedy is None else f"{found}: {remedy}.")
        self.found, self.remedy = found, remedy


class Absent(Problem):
    """A runtime is not installed: no surprise on most machines."""


# ---- The bundle -----------------------------------------------------------------------------------------------------


class Bundle(NamedTuple):
    """The folder, as its manifest describes it."""

    folder: Path
    manifest: Dict[str, Any]

    def path(self, name: str) -> Path:
        """Of a listed file."""
        return self.folder / name

    def json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text(encoding="utf-8"))


def open_bundle(folder: Path) -> Bundle:
    """Verifies every file. Raises Problem for one that is missing, changed, or outside the folder."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"]
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
        wanted = ("models", "input", "preprocessing", "classes", "check", "network", "device")
        missing = [key for key in wanted if key not in manifest]
        named = [] if missing else _named(manifest)
    except OSError as error:
        raise Problem(f"{folder / MANIFEST} cannot be read ({error.strerror})", UNPACK) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Problem(f"{folder / MANIFEST} is no manifest ({one_line(error)})", UNPACK) from error
    if found != FORMAT:
        raise Problem(f"{MANIFEST} has format {found!r}, and this run.py reads {FORMAT}", UNPACK)
    if missing:
        raise Problem(f"{MANIFEST} says nothing of {', '.join(missing)}", UNPACK)
    for name, (sha256, size) in sorted(files.items()):
        _verify(folder, name, sha256, size)
    for name in named:
        if name not in files:
            raise Problem(f"{MANIFEST} names {name!r} and does not list it", UNPACK)
    return Bundle(folder, manifest)


def _named(manifest: Dict[str, Any]) -> List[str]:
    """The files that commands read. Raises what Python raises where values are of another kind."""
    check, classes = manifest["check"], manifest["classes"]
    names = [model[key] for model in manifest["models"] for key in ("file", "outputs")]
    manifest["device"].get("machine")
    return [str(name) for name in (*names, check["images"], check["expected"], *([] if classes is None else [classes]))]


def _verify(folder: Path, name: str, sha256: str, size: int) -> None:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise Problem(f"{MANIFEST} lists {name!r}, which is no path inside the bundle", "do not use this bundle")
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise Problem(f"{name} leads out of the bundle", "do not use this bundle")
    if not path.is_file():
        raise Problem(f"{name} is missing", UNPACK)
    if path.stat().st_size != size or sha256_of(path) != sha256:
        raise Problem(f"{name} is not the file that {MANIFEST} describes", UNPACK)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Beside, then renamed: a file is whole or not there."""
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


# ---- Versions -------------------------------------------------------------------------------------------------------


def version_of(text: str) -> Tuple[int, int]:
    """ "10.3.0" as (10, 3)."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        raise Problem(f"a runtime calls its version {text!r}, which is none", "install it again")
    return int(numbers.group(1)), int(numbers.group(2))


def model_for(bundle: Bundle, kind: str, version: str) -> Dict[str, Any]:
    """The first model for a runtime ("tensorrt", "onnxruntime") of this version. Raises Problem where there is none."""
    models: List[Dict[str, Any]] = [model for model in bundle.manifest["models"] if model["runtime"] == kind]
    for model in models:
        late = model["before"] is not None and version_of(version) >= version_of(model["before"])
        if not late and version_of(version) >= version_of(model["since"]):
            return model
    product = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}[kind]
    if not models:
        raise Problem(f"the bundle has no file for {product}")
    has = ", ".join(f"{m['since']}" + (f" to before {m['before']}" if m["before"] else " or newer") for m in models)
    found = f"{product} {version} is here, and the bundle's files are for {has}"
    raise Problem(found, "install a version that the bundle has a file for")


# ---- Backends: each runs a model on batches and says how long that takes ---------------------------------------------


def imported(name: str, absent: str, remedy: str) -> Any:
    """A runtime's module. Raises Absent where it is not installed; one that is broken raises what it likes."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is here, and something that it imports is not
            raise
        raise Absent(f"{absent} ({error})", remedy) from error


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name = kind = "onnxruntime"

    def __init__(self, threads: int = 0) -> None:
        """threads: of the CPU; 0: it decides."""
        self._module = imported("onnxruntime", "ONNX Runtime is not installed", "pip install onnxruntime")
        self._threads = threads
        self.version = str(self._module.__version__)
        self.gpu: Optional[str] = None

    def prepare(self, bundle: Bundle, model: Dict[str, Any], cache: Path, with_codes: bool) -> Any:
        """A session, from images to arrays by name. with_codes: the codes of all tensors are among them."""
        settings = self._module.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = self._threads
        data = onnx_bytes(bundle, model, with_codes)
        try:
            session = self._module.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions are not public
            raise Problem(f"ONNX Runtime {self.version} refuses {model['file']}: {one_line(error)}.") from error
        return OnnxRuntimeSession(session)


class OnnxRuntimeSession:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, images: Any) -> Dict[str, Any]:
        return dict(zip(self._names, self._session.run(None, {INPUT: images})))

    def measured(self, images: Any, runs: int) -> "Measured":
        return measured(lambda: self._session.run([OUTPUT], {INPUT: images}), runs)


def onnx_bytes(bundle: Bundle, model: Dict[str, Any], with_codes: bool) -> bytes:
    """The ONNX file as it is shipped; with_codes: with what makes the codes of all tensors outputs of it.

    Appending one protobuf message to another merges them: lists, such as a graph's outputs, become longer.
    """
    data = bundle.path(model["file"]).read_bytes()
    return data + bundle.path(model["outputs"]).read_bytes() if with_codes else data


# ---- CUDA's memory, which TensorRT's Python bindings leave to others -------------------------------------------------

CUDA_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
"""As the loader finds them."""
_TO_DEVICE, _TO_HOST = 1, 2
_MAJOR, _MINOR = 75, 76
"""Attributes of a device: its compute capability."""


class Cuda:
    """What is needed of CUDA's runtime: by cuda-python, or else by its library."""

    def __init__(self) -> None:
        self._library, self._module = None, cuda_python()
        if self._module is None:
            self._library = cuda_library()
        if self._module is None and self._library is None:
            raise Problem(
                "TensorRT is here, and neither cuda-python nor libcudart.so can be loaded, which give it memory",
                "pip install cuda-python, or add CUDA's lib64 to LD_LIBRARY_PATH",
            )
        if self.attribute(_MAJOR) < 1:
            raise Problem("TensorRT is here, and CUDA sees no GPU", "install NVIDIA's driver, or look at nvidia-smi")

    def attribute(self, which: int) -> int:
        if self._module is not None:
            return int(self._call("cudaDeviceGetAttribute", self._module.cudaDeviceAttr(which), 0))
        value = ctypes.c_int(0)
        self._by_library("cudaDeviceGetAttribute", ctypes.byref(value), which, 0)
        return int(value.value)

    def gpu(self) -> str:
        """Its name."""
        if self._module is not None:
            name = self._call("cudaGetDeviceProperties", 0).name
            return str(name.decode() if isinstance(name, bytes) else name).strip("\0 ")
        properties = ctypes.create_string_buffer(1 << 14)  # it begins with the name, in every version
        self._by_library("cudaGetDeviceProperties", properties, 0)
        return properties.value.decode(errors="replace")

    def free_memory(self) -> int:
        if self._module is not None:
            return int(self._call("cudaMemGetInfo"))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._by_library("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return int(free.value)

    def allocate(self, size: int) -> int:
        if self._module is not None:
            return int(self._call("cudaMalloc", size))
        address = ctypes.c_void_p()
        self._by_library("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        if self._module is not None:
            self._call("cudaFree", address)
        else:
            self._by_library("cudaFree", ctypes.c_void_p(address))

    def copy(self, to: int, source: int, size: int, direction: int) -> None:
        if self._module is not None:
            self._call("cudaMemcpy", to, source, size, self._module.cudaMemcpyKind(direction))
        else:
            pointers = ctypes.c_void_p(to), ctypes.c_void_p(source)
            self._by_library("cudaMemcpy", *pointers, ctypes.c_size_t(size), direction)

    def stream(self) -> int:
        if self._module is not None:
            return int(self._call("cudaStreamCreate"))
        stream = ctypes.c_void_p()
        self._by_library("cudaStreamCreate", ctypes.byref(stream))
        return int(stream.value or 0)

    def wait(self, stream: int) -> None:
        if self._module is not None:
            self._call("cudaStreamSynchronize", stream)
        else:
            self._by_library("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._module, name)(*arguments)
        if int(code):
            raise Problem(f"CUDA refuses {name} (error {int(code)})", "look at nvidia-smi, or restart the device")
        return values[0] if values else None

    def _by_library(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            raise Problem(f"CUDA refuses {name} (error {code})", "look at nvidia-smi, or restart the device")


def cuda_python() -> Any:
    """cuda-python's runtime module: `cuda.bindings.runtime`, before 12.6 `cuda.cudart`; None without, or broken."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        with contextlib.suppress(Exception):  # RuntimeError too, where it finds no driver; the library may still do
            return importlib.import_module(name)
    return None


def cuda_library() -> Any:
    """CUDA's runtime library; None without."""
    places = sorted(str(path) for path in ROOT.glob("usr/local/cuda*/lib64/libcudart.so*"))
    for name in (*CUDA_LIBRARIES, *places):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


# ---- TensorRT by its Python bindings ---------------------------------------------------------------------------------


class Switches(NamedTuple):
    """Flags that a version wants for a network whose types are in its Q/DQ nodes."""

    network: Tuple[str, ...]
    builder: Tuple[str, ...]
    trtexec: Tuple[str, ...]


def switches_of(version: str) -> Switches:
    """Raises Problem for a version before 8.5 or after 11."""
    found = version_of(version)
    since = (
        ((12, 0), None),
        ((11, 0), Switches((), (), ("--skipInference",))),
        ((10, 12), Switches(("STRONGLY_TYPED",), (), ("--stronglyTyped", "--skipInference"))),
        ((10, 0), Switches((), ("INT8",), ("--int8", "--skipInference"))),
        ((8, 6), Switches(("EXPLICIT_BATCH",), ("INT8",), ("--int8", "--skipInference"))),
        ((8, 5), Switches(("EXPLICIT_BATCH",), ("INT8",), ("--int8", "--buildOnly"))),
    )
    for first, switches in since:
        if found >= first and switches is not None:
            return switches
        if found >= first:
            break
    raise Problem(f"TensorRT {version} is here, and run.py knows 8.5 to 11", "install one of those")


def workspace_of(free: int) -> int:
    """Bytes that kernels may use, of those that are free: half of them, as where intraq-deploy builds.

    TensorRT's own limit is all of the GPU's memory, which on a Jetson is the system's as well.
    """
    return free // 2


class TensorRT:
    """TensorRT's Python bindings."""

    name = kind = "tensorrt"

    def __init__(self) -> None:
        absent, remedy = "TensorRT's Python bindings are not installed", "python3-libnvinfer (JetPack brings it)"
        self._trt = imported("tensorrt", absent, f"on a Jetson: sudo apt install {remedy}")
        self.version = str(self._trt.__version__)
        self.switches = switches_of(self.version)
        self._cuda = Cuda()
        self.gpu: Optional[str] = self._cuda.gpu()
        self._logger = _logger(self._trt)

    def prepare(self, bundle: Bundle, model: Dict[str, Any], cache: Path, with_codes: bool) -> Any:
        return TensorRTSession(self._trt, self._cuda, self._logger, engine_of(self, bundle, model, cache, with_codes))

    def make(self, data: bytes, shape: List[int], timing: Path) -> bytes:
        """An engine for batches of 1 to LARGEST_BATCH."""
        trt, logger = self._trt, self._logger
        logger.errors.clear()
        builder = trt.Builder(logger)
        bits = sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in self.switches.network)
        network = builder.create_network(bits)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(data):
            raise self.refusal([str(parser.get_error(i).desc()) for i in range(parser.num_errors)] or logger.errors)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_of(self._cuda.free_memory()))
        config.clear_flag(trt.BuilderFlag.TF32)
        for name in self.switches.builder:
            config.set_flag(getattr(trt.BuilderFlag, name))
        before = timing.read_bytes() if timing.is_file() else b""
        kernels = config.create_timing_cache(before) or config.create_timing_cache(b"")
        if not config.set_timing_cache(kernels, False):  # another GPU's
            config.set_timing_cache(config.create_timing_cache(b""), False)
        for tensor in (network.get_input(0), *(network.get_output(i) for i in range(network.num_outputs))):
            # Else TensorRT may lay codes out in vectors of channels, and memory is given for the plain order.
            tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, (1, *shape), (1, *shape), (LARGEST_BATCH, *shape))
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise self.refusal(logger.errors)
        write_whole(timing, bytes(config.get_timing_cache().serialize()))
        return bytes(engine)

    def refusal(self, messages: List[str]) -> Problem:
        return refusal(f"TensorRT {self.version}", messages)


def refusal(product: str, messages: Iterable[str]) -> Problem:
    said = "; ".join(" ".join(str(message).split()) for message in messages) or "it gave no reason"
    memory = re.search("(?i)out of memory|find any implementation", said)
    why = "memory did not suffice, free some; it said: " if memory else ""
    return Problem(f"{product} refuses the model: {why}{said.rstrip('.')[:400]}.")


def _logger(trt: Any) -> Any:
    """Keeps errors: a call that fails returns None or False and logs why."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


class TensorRTSession:
    """An engine with one input."""

    def __init__(self, trt: Any, cuda: Cuda, logger: Any, engine: bytes) -> None:
        self._cuda, self._logger = cuda, logger
        # It must live as long as the engine.
        self._runtime = trt.Runtime(logger)
        self._engine = self._made(self._runtime.deserialize_cuda_engine(engine), "load the engine")
        self._context = self._made(self._engine.create_execution_context(), "prepare the engine")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._names, self._stream = [name for name in names if name != INPUT], cuda.stream()

    def run(self, images: Any) -> Dict[str, Any]:
        outputs, addresses = self._bound(images)
        try:
            self._execute()
            for name, array in outputs.items():
                self._cuda.copy(array.ctypes.data, addresses[name], array.nbytes, _TO_HOST)
        finally:
            self._free(addresses)
        return outputs

    def measured(self, images: Any, runs: int) -> "Measured":
        """Transfers apart."""
        _, addresses = self._bound(images)
        try:
            return measured(self._execute, runs)
        finally:
            self._free(addresses)

    def _bound(self, images: Any) -> Tuple[Dict[str, Any], Dict[str, int]]:
        """Memory for the input and the outputs, of which the context has the addresses."""
        images = np.ascontiguousarray(images, dtype=self._type(INPUT))
        self._done(self._context.set_input_shape(INPUT, tuple(images.shape)), "take the images")
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._names}
        outputs = {name: np.empty(shape, dtype=self._type(name)) for name, shape in shapes.items()}
        addresses: Dict[str, int] = {}
        try:
            for name, array in [(INPUT, images), *outputs.items()]:
                addresses[name] = self._cuda.allocate(max(array.nbytes, 1))
                self._done(self._context.set_tensor_address(name, addresses[name]), f"take memory for {name}")
            self._cuda.copy(addresses[INPUT], images.ctypes.data, images.nbytes, _TO_DEVICE)
        except BaseException:
            self._free(addresses)
            raise
        return outputs, addresses

    def _free(self, addresses: Dict[str, int]) -> None:
        for address in addresses.values():
            self._cuda.free(address)

    def _execute(self) -> None:
        self._done(self._context.execute_async_v3(self._stream), "run the engine")
        self._cuda.wait(self._stream)

    def _type(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name).name
        types = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32}
        if kind not in types:
            raise Problem(f"the engine's tensor {name} is {kind}: empty the cache and build again.")
        return types[kind]

    def _made(self, value: Any, what: str) -> Any:
        self._done(value is not None, what)
        return value

    def _done(self, well: bool, what: str) -> None:
        if not well:
            said = "; ".join(self._logger.errors) or "it gave no reason"
            raise Problem(f"TensorRT cannot {what} ({said.rstrip('.')[:400]}): empty the cache and build again.")


# ---- TensorRT by trtexec ---------------------------------------------------------------------------------------------


class Trtexec:
    """TensorRT's own command."""

    name, kind = "trtexec", "tensorrt"

    def __init__(self) -> None:
        path = find_trtexec()
        if path is None:
            remedy = "on a Jetson: sudo apt install libnvinfer-bin (JetPack brings it)"
            raise Absent("trtexec is neither on PATH nor in /usr/src/tensorrt/bin", remedy)
        self.path = path
        digits = re.search(r"\[TensorRT v(\d+)\]", self._said("--help")[1])
        parts = digits and re.fullmatch(r"(\d)(\d)(\d\d)|(\d\d)(\d\d)(\d\d)", digits.group(1))
        if not parts:
            raise Problem(f"{path} does not say which TensorRT it is of", "install TensorRT again")
        self.version = ".".join(str(int(part)) for part in parts.groups() if part is not None)
        self.switches = switches_of(self.version)
        self.gpu: Optional[str] = gpu_name()

    def prepare(self, bundle: Bundle, model: Dict[str, Any], cache: Path, with_codes: bool) -> Any:
        engine_of(self, bundle, model, cache, with_codes)
        types = {INPUT: bundle.manifest["input"]["type"]}
        return TrtexecSession(self, engine_path(self, bundle, model, cache, with_codes), types)

    def make(self, data: bytes, shape: List[int], timing: Path) -> bytes:
        sizes = "x".join(map(str, shape))
        batches = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
        free = free_memory()
        with tempfile.TemporaryDirectory() as name:
            model, engine, kernels = (Path(name) / part for part in ("model.onnx", "engine.plan", "timing.cache"))
            model.write_bytes(data)
            if timing.is_file():  # a copy: it is written in place, and trtexec may be ended in the middle
                shutil.copy(str(timing), str(kernels))
            self.call(
                f"--onnx={model}",
                f"--saveEngine={engine}",
                f"--timingCacheFile={kernels}",
                *(f"--{which}Shapes={INPUT}:{batch}x{sizes}" for which, batch in batches.items()),
                *([] if free is None else [f"--memPoolSize=workspace:{max(1, workspace_of(free) >> 20)}"]),
                "--noTF32",
                *self.switches.trtexec,
            )
            if kernels.is_file():
                write_whole(timing, kernels.read_bytes())
            return self.written(engine)

    def written(self, file: Path) -> bytes:
        """What it was told to write. Raises Problem where it did not."""
        try:
            return file.read_bytes()
        except OSError as error:
            found = f"TensorRT {self.version} (trtexec) ended well and wrote no {file.name}"
            raise Problem(found, "run it by hand") from error

    def call(self, *arguments: str) -> str:
        """What it says. Raises Problem, with its errors, where it fails."""
        code, said = self._said(*arguments)
        if code:
            raise refusal(f"TensorRT {self.version} (trtexec)", re.findall(r"\[E\] (.*)", said))
        return said

    def _said(self, *arguments: str) -> Tuple[int, str]:
        """Its exit code, and what it says."""
        try:
            done = subprocess.run(
                [self.path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        except OSError as error:  # of another architecture, say
            raise Problem(f"{self.path} cannot be run ({error.strerror})", "install TensorRT again") from error
        return done.returncode, done.stdout.decode(errors="replace")


class TrtexecSession:
    """An engine, loaded anew for every batch."""

    def __init__(self, program: Trtexec, engine: Path, types: Dict[str, str]) -> None:
        self._program, self._engine, self._types = program, engine, types

    def run(self, images: Any) -> Dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            given, found = Path(name) / "images", Path(name) / "outputs.json"
            given.write_bytes(np.ascontiguousarray(images, dtype=self._types[INPUT]).tobytes())
            self._program.call(
                f"--loadEngine={self._engine}",
                self._shape(images),
                f"--loadInputs={INPUT}:{given}",
                f"--exportOutput={found}",
                "--iterations=1",
                "--warmUp=0",
                "--duration=0",
            )
            text = self._program.written(found).decode()
        # JSON has no words for what C++ writes of a number that is none, or without end.
        outputs = json.loads(re.sub(r"(?<=[\[,\s])-?(?:nan|inf)(?=[],\s])", "NaN", text))
        return {output["name"]: _trtexec_array(output) for output in outputs if output["name"] != INPUT}

    def measured(self, images: Any, runs: int) -> "Measured":
        """Its own figures: it runs as often as it wants, at least so often, and some versions give no percentiles.

        No watts: it starts and loads the engine in the same time, and what that takes is not what the engine takes.
        """
        options = ("--noDataTransfers", f"--iterations={runs}", self._shape(images))
        said = self._program.call(f"--loadEngine={self._engine}", *options)
        line = re.search(r"GPU Compute Time:(.*)", said)
        found = dict(re.findall(r"(median|percentile\(\d+%\)) = ([\d.]+) ms", line.group(1) if line else ""))
        if "median" not in found:
            raise Problem("trtexec does not say how long the engine took: run it by hand.")
        names = {"median": "median", "p90": "percentile(90%)", "p99": "percentile(99%)"}
        milliseconds = {name: float(found[its]) if its in found else None for name, its in names.items()}
        queries = re.search(r"Timing trace has (\d+) queries", said)
        return Measured(int(queries.group(1)) if queries else runs, milliseconds, {}, 0)

    def _shape(self, images: Any) -> str:
        return f"--shapes={INPUT}:{'x'.join(map(str, images.shape))}"


def _trtexec_array(output: Dict[str, Any]) -> Any:
    """From its JSON: dimensions as "8x10", values in a row."""
    return np.array(output["values"], dtype=np.float32).reshape([int(n) for n in output["dimensions"].split("x")])


def find_trtexec() -> Optional[str]:
    jetpack = ROOT / "usr/src/tensorrt/bin/trtexec"
    return shutil.which("trtexec") or (str(jetpack) if jetpack.is_file() else None)


# ---- Engines, kept ---------------------------------------------------------------------------------------------------


def engine_path(backend: Any, bundle: Bundle, model: Dict[str, Any], cache: Path, with_codes: bool) -> Path:
    """An engine is for one ONNX file, one version of TensorRT and one GPU, and made by one backend's settings."""
    onnx = hashlib.sha256(onnx_bytes(bundle, model, with_codes)).hexdigest()
    settings = (backend.name, LARGEST_BATCH, *backend.switches)
    key = hashlib.sha256(f"{onnx} {backend.version} {backend.gpu} {settings}".encode()).hexdigest()[:16]
    return cache / f"{'codes' if with_codes else 'model'}-{backend.version}-{key}.plan"


def engine_of(backend: Any, bundle: Bundle, model: Dict[str, Any], cache: Path, with_codes: bool) -> bytes:
    """From the cache if it is whole there; else built, which takes minutes on a Jetson."""
    path = engine_path(backend, bundle, model, cache, with_codes)
    about = path.with_suffix(".json")
    try:
        engine = path.read_bytes()
        if json.loads(about.read_text())["sha256"] == hashlib.sha256(engine).hexdigest():
            return engine
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"{cache} cannot be made ({error.strerror}): choose another folder with --cache.") from error
    say(f"TensorRT {backend.version} builds {path.name} for {backend.gpu}: this can take minutes.")
    timing = cache / f"timing-{hashlib.sha256(f'{backend.version} {backend.gpu}'.encode()).hexdigest()[:12]}.cache"
    start = time.perf_counter()
    made: bytes = backend.make(onnx_bytes(bundle, model, with_codes), bundle.manifest["input"]["shape"], timing)
    seconds = round(time.perf_counter() - start, 1)
    write_whole(path, made)
    facts = {"sha256": hashlib.sha256(made).hexdigest(), "model": model["file"], "seconds": seconds, "gpu": backend.gpu}
    write_whole(about, json.dumps(facts, indent=1).encode())
    return made


# ---- Choosing --------------------------------------------------------------------------------------------------------


BACKENDS: Dict[str, Any] = {"tensorrt": TensorRT, "trtexec": Trtexec, "onnxruntime": OnnxRuntime}
_PRODUCTS = {"tensorrt": "TensorRT", "trtexec": "TensorRT (trtexec)", "onnxruntime": "ONNX Runtime"}


def backend_of(name: str, threads: int = 0) -> Any:
    """A runtime of RUNTIMES. Raises Problem for one that cannot be used here, whatever it raises itself: a broken one
    must not keep the others from being tried."""
    maker = BACKENDS[name]
    try:
        return maker(threads) if maker is OnnxRuntime else maker()
    except Problem:
        raise
    except Exception as error:
        found = f"{_PRODUCTS[name]} is here and cannot be used ({type(error).__name__}: {one_line(error)})"
        raise Problem(found, "mend what it names, or install it again") from error


class Choice(NamedTuple):
    backend: Any
    model: Dict[str, Any]
    passed_over: List[Tuple[str, Problem]]
    """The kinds of runtimes before it, and why those are not taken."""

    def reasons(self) -> List[str]:
        return [problem.found for _, problem in self.passed_over]


def choose(bundle: Bundle, forced: Optional[str], threads: int) -> Choice:
    """The first runtime that is here and that the bundle has a file for. Raises Problem, with the reasons, for none."""
    passed_over: List[Tuple[str, Problem]] = []
    for name in RUNTIMES if forced is None else (forced,):
        try:
            backend = backend_of(name, threads)
            return Choice(backend, model_for(bundle, backend.kind, backend.version), passed_over)
        except Problem as problem:
            passed_over.append((BACKENDS[name].kind, problem))
    reasons = "; ".join(problem.found for _, problem in passed_over)
    raise Problem(f"no runtime can run this bundle here: {reasons}; `run.py doctor` names remedies.")


def surprises(bundle: Bundle, choice: Choice) -> List[str]:
    """Why runtimes were passed over that a person may have counted on.

    That is one that the bundle has a file for and that is installed. One that is not installed counts only where a GPU
    is, which then stays idle: not on a machine without, nor where TensorRT's other way, trtexec, is taken.
    """
    kinds = {model["runtime"] for model in bundle.manifest["models"]}

    def counted_on(kind: str, problem: Problem) -> bool:
        installed = not isinstance(problem, Absent)
        return kind in kinds and (installed or (kind != choice.backend.kind and gpu_name() is not None))

    return [problem.found for kind, problem in choice.passed_over if counted_on(kind, problem)]


# ---- check -----------------------------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    """One quantized tensor of the network, as the manifest describes it."""

    name: str
    value: str
    """Of the ONNX file."""
    zero_point: int
    inputs: List[str]
    """The quantized tensors that it is computed from."""
    share: Optional[float]
    """How many of its codes may differ by one, computed from equal ones; None: none."""


class Comparison:
    """Codes that were found beside those that were expected, tensor by tensor, in the order in which they are computed.

    A code is judged in images in which every tensor that it is computed from has all its expected codes; what comes
    behind a difference is counted apart.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._differs: Dict[str, Any] = {}
        self.compared = self.differ = self.behind = self.differ_behind = self.ties = 0
        self.failures: List[str] = []
        self.never_judged: List[str] = []

    def add(self, tensor: Tensor, expected: Any, found: Any, near: Any) -> None:
        """Arrays of integers [N, ...]; near: flat positions at which rounding in another order may give the next
        code; None where the runtime's order is the program's."""
        if expected.shape != found.shape:  # arrays that broadcast would compare too few
            self.failures.append(f"{tensor.name} has shape {found.shape} in place of {expected.shape}.")
            self._differs[tensor.name] = np.ones(self._images, dtype=bool)
            return
        apart = np.abs(expected.astype(np.int32) - found.astype(np.int32)).reshape(self._images, -1)
        self._differs[tensor.name] = apart.any(axis=1)
        behind = np.zeros(self._images, dtype=bool)
        for name in tensor.inputs:
            behind |= self._differs[name]
        self.compared += apart.size
        self.differ += int(np.count_nonzero(apart))
        self.behind += int(apart[behind].size)
        self.differ_behind += int(np.count_nonzero(apart[behind]))
        if behind.all():
            self.never_judged.append(tensor.name)
        self._judge(tensor, apart, ~behind, near)

    def _judge(self, tensor: Tensor, apart: Any, judged: Any, near: Any) -> None:
        wrong = apart.copy()
        wrong[~judged] = 0
        if near is not None:
            flat = wrong.reshape(-1)
            tied = near[flat[near] == 1]
            self.ties += len(tied)
            flat[tied] = 0
        count, largest = int(np.count_nonzero(wrong)), int(wrong.max()) if wrong.size else 0
        allowed = 0 if tensor.share is None else math.ceil(tensor.share * int(apart[judged].size))
        if count > allowed or largest > 1:
            self.failures.append(
                f"{count:,} of {apart[judged].size:,} integers of {tensor.name} differ by up to {largest} ({allowed:,} "
                "may, by 1)."
            )

    def any_differs(self) -> Any:
        """By image."""
        found = np.zeros(self._images, dtype=bool)
        for differs in self._differs.values():
            found |= differs
        return found


def check(bundle: Bundle, choice: Choice, cache: Path) -> Dict[str, Any]:
    """Runs the parity images, and compares."""
    about, model = bundle.manifest["check"], choice.model
    images = np.load(str(bundle.path(about["images"])), allow_pickle=False)
    expected = np.load(str(bundle.path(about["expected"])), allow_pickle=False)
    with_codes, own_rounding = about["images_with_codes"], model["own_rounding"]
    found = _batched(choice.backend.prepare(bundle, model, cache, True), images[:with_codes])
    shipped = _batched(choice.backend.prepare(bundle, model, cache, False), images)[OUTPUT]
    comparison = Comparison(with_codes)
    for index, entry in enumerate(about["tensors"]):
        tensor = Tensor(*(entry[field] for field in Tensor._fields))
        if tensor.value not in found:
            raise Problem(f"the runtime gives no {tensor.value}", UNPACK)
        zero = tensor.zero_point if model["zero_points"] else 0
        near = expected[f"near{index}"] if own_rounding and f"near{index}" in expected.files else None
        near = np.zeros(0, dtype=np.int64) if own_rounding and near is None else near
        comparison.add(tensor, expected[f"codes{index}"], _integers(found[tensor.value]) - zero, near)
    failures = comparison.failures
    allowed = _allowed(comparison, expected["near_ties"], model)
    logits = _logits(shipped, expected["logits"], allowed, failures)
    looked = _apart(shipped[:with_codes], found[OUTPUT])
    if not (looked <= allowed[:with_codes]).all():
        failures.append(f"looking at the codes changes the logits by {float(np.max(looked)):.1e} of the largest.")
    return {
        "passes": not failures,
        "failures": failures,
        "images": len(images),
        "images_with_codes": with_codes,
        "tensors": len(about["tensors"]),
        "integers": comparison.compared,
        "differ": comparison.differ,
        "at_near_ties": comparison.ties,
        "behind_a_difference": comparison.behind,
        "differ_behind": comparison.differ_behind,
        "tensors_never_judged": comparison.never_judged,
        **logits,
    }


def _integers(codes: Any) -> Any:
    """As int32. What is no number must not become 0, which arm64 makes of NaN: it is far from every code."""
    if codes.dtype.kind not in "iu":
        codes = np.clip(np.rint(np.nan_to_num(codes, nan=_FAR)), -_FAR, _FAR)
    return codes.astype(np.int32)


_FAR = 1 << 20


def _allowed(comparison: Comparison, near_ties: Any, model: Dict[str, Any]) -> Any:
    """By image, how far logits may be off, as a share of the largest.

    More where a code before them differs, or may: the shipped model can round otherwise than the one whose codes are
    seen, and not all images are compared in codes.
    """
    differs = near_ties > 0 if model["own_rounding"] else np.full(len(near_ties), comparison.differ > 0)
    seen = comparison.any_differs()
    differs[: len(seen)] = seen | differs[: len(seen)] if model["own_rounding"] else seen
    return np.where(differs, AFTER_A_FLIP, model["logits_share"] or 0.0)


def _logits(found: Any, expected: Any, allowed: Any, failures: List[str]) -> Dict[str, Any]:
    """Judges the shipped model's logits. A class may be another one only where the two best are closer than that."""
    if found.shape != expected.shape:
        failures.append(f"the logits have shape {found.shape} in place of {expected.shape}.")
        return {"logits_difference": None, "top1_agreement": None}
    apart = _apart(found, expected)
    if not (apart <= allowed).all():
        worst = int(np.argmax(np.nan_to_num(apart - allowed, nan=np.inf)))
        failures.append(
            f"the logits of image {worst} are off by {float(apart[worst]):.1e} of the largest "
            f"({float(allowed[worst]):.0e} may be)."
        )
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    two = np.sort(expected, axis=1)[:, -2:]
    clear = (two[:, -1] - two[:, 0]) > 2 * allowed * np.abs(expected).max()
    if (~same & clear).any():
        failures.append(f"{int((~same & clear).sum())} of {len(same)} images have another class.")
    most = float(np.max(apart))
    return {"logits_difference": most if math.isfinite(most) else None, "top1_agreement": 100 * float(same.mean())}


def _apart(found: Any, expected: Any) -> Any:
    """By image, the greatest difference as a share of the largest logit."""
    largest = float(np.abs(expected).max()) or 1.0
    return np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(axis=1) / largest


def _batched(session: Any, images: Any) -> Dict[str, Any]:
    """All outputs, from batches that an engine takes."""
    parts = [session.run(images[start : start + LARGEST_BATCH]) for start in range(0, len(images), LARGEST_BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# ---- bench -----------------------------------------------------------------------------------------------------------


def bench(bundle: Bundle, choice: Choice, cache: Path, batch: int, runs: int) -> Dict[str, Any]:
    """Batches of 1 and of `batch`, on the parity images; and the device's state beside."""
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    images = np.load(str(bundle.path(bundle.manifest["check"]["images"])), allow_pickle=False)
    rows = []
    for size in sorted({1, batch}):
        given = np.concatenate([images] * math.ceil(size / len(images)))[:size]
        found = session.measured(given, runs)
        row = {
            "batch": size,
            "runs": found.runs,
            "images_per_second": round(1000 * size / found.milliseconds["median"], 2),
        }
        milliseconds = {
            f"{name}_ms": None if value is None else round(value, 4) for name, value in found.milliseconds.items()
        }
        rows.append({**row, **milliseconds, "watts": found.watts, "power_samples": found.power_samples})
    return {"batches": rows, "power_mode": power_mode(), "temperatures": temperatures()}


class Measured(NamedTuple):
    """What running one batch takes."""

    runs: int
    milliseconds: Dict[str, Any]
    """Median, p90 and p99; a percentile that is not known is None."""
    watts: Dict[str, float]
    """By rail; empty without sensors, and from too few samples."""
    power_samples: int


def measured(work: Callable[[], Any], runs: int) -> Measured:
    """Runs are timed one by one, while power is sampled; where that took too short for power, it goes on untimed."""
    for _ in range(max(3, runs // 10)):
        work()
    times = []
    with Power() as power:
        for _ in range(runs):
            start = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - start))
        while power.wants_more():
            work()
    percents = {"median": 50, "p90": 90, "p99": 99}
    milliseconds = {name: float(np.percentile(times, percent)) for name, percent in percents.items()}
    return Measured(runs, milliseconds, power.mean(), len(power.samples))


SAMPLED = 2.0
"""Seconds for which power is sampled at least."""
LEAST_SAMPLES = 5
"""Fewer are no mean."""


class Power:
    """Samples the rails of a Jetson's INA3221 sensors ten times a second while something runs.

    The first sample is a tenth of a second behind the start, because what the sensors saw before is not the work's.
    """

    def __init__(self) -> None:
        self.samples: List[Dict[str, float]] = []
        self._rails = watts().keys()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Power":
        self._start = time.perf_counter()
        if self._rails:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        if self._rails:
            self._thread.join()

    def wants_more(self) -> bool:
        """Never without sensors."""
        return bool(self._rails) and time.perf_counter() - self._start < SAMPLED

    def mean(self) -> Dict[str, float]:
        """Watts by rail; empty without sensors, and from too few samples."""
        if len(self.samples) < LEAST_SAMPLES:
            return {}
        return {
            name: round(sum(sample[name] for sample in self.samples) / len(self.samples), 3) for name in self._rails
        }

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            sample = watts()
            # Reading takes a while: the work can be over by then, or a rail not have answered.
            if sample.keys() == self._rails and not self._over.is_set():
                self.samples.append(sample)


def watts() -> Dict[str, float]:
    """By rail, now."""
    found = {}
    for chip in sorted(ROOT.glob("sys/class/hwmon/hwmon*")):
        if read(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in*_label")):
            number = label.name[2 : -len("_label")]
            volts, amperes = number_in(chip / f"in{number}_input"), number_in(chip / f"curr{number}_input")
            if volts is not None and amperes is not None:
                found[read(label) or label.name] = volts * amperes / 1e6
    return found


def temperatures() -> Dict[str, float]:
    """Degrees Celsius by zone; zones that are switched off are left out."""
    found = {}
    for zone in sorted(ROOT.glob("sys/class/thermal/thermal_zone*")):
        value = number_in(zone / "temp")
        if value is not None:
            found[read(zone / "type") or zone.name] = round(value / 1000, 1)
    return found


def power_mode() -> Optional[str]:
    """As nvpmodel says it; None without."""
    said = output_of("nvpmodel", "-q")
    name = re.search(r"NV Power Mode: *(\S+)", said or "")
    if name:
        return name.group(1)
    status = read(ROOT / "var/lib/nvpmodel/status")
    return status or None


# ---- classify: from a file to what the network takes -----------------------------------------------------------------


def classify(bundle: Bundle, choice: Choice, cache: Path, names: List[str]) -> List[Dict[str, Any]]:
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    listed = bundle.manifest["classes"]
    classes = None if listed is None else bundle.json(listed)
    found: List[Dict[str, Any]] = []
    for name in names:
        try:
            images = read_images(Path(name), bundle.manifest["input"]["shape"][0])
        except Problem as problem:  # the others are answered all the same
            found.append({"image": name, "error": str(problem)})
            continue
        for index, pixels in enumerate(images):
            logits = session.run(network_input(pixels, bundle.manifest))[OUTPUT][0].astype(np.float64)
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            best = np.argsort(-logits, kind="stable")[:5]
            top = [
                {
                    "class": int(k),
                    "name": str(k) if classes is None else classes[k],
                    "share": round(float(likely[k]), 6),
                }
                for k in best
            ]
            found.append({"image": name if index == 0 else f"{name}[{index}]", "top": top})
    return found


def predict(bundle: Bundle, choice: Choice, cache: Path) -> List[int]:
    """Numbers of classes, for the images on standard input: one behind the other, [C, H, W] in the network's type."""
    about = bundle.manifest["input"]
    kind, shape = np.dtype(about["type"]), tuple(about["shape"])
    size = int(np.prod(shape)) * kind.itemsize
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    classes: List[int] = []
    while True:
        data = sys.stdin.buffer.read(LARGEST_BATCH * size)
        if len(data) % size:
            raise Problem(f"input ends in the middle of image {len(classes) + len(data) // size}: send all of it.")
        if not data:
            return classes
        images = np.frombuffer(data, dtype=kind).reshape(-1, *shape)
        classes += [int(number) for number in session.run(images)[OUTPUT].argmax(axis=1)]


def read_images(path: Path, channels: int) -> List[Any]:
    """uint8 [H, W, C] each. An .npy may hold several. Raises Problem for what is no image."""
    try:
        if path.suffix.lower() == ".npy":
            return _from_array(path, np.load(str(path), allow_pickle=False), channels)
        pixels = _decoded(path, channels)
        if not pixels.size:
            raise ValueError("it has no pixels")
        return [pixels]
    except Problem:
        raise
    except Exception as error:  # each decoder has its own
        raise Problem(f"the image {path} cannot be read ({one_line(error)})", "give another file") from error


def _from_array(path: Path, array: Any, channels: int) -> List[Any]:
    if array.dtype == np.uint8 and array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, channels) or not array.size:
        raise Problem(
            f"{path} holds {array.dtype} {array.shape}: give uint8 [H, W, {channels}], or [N, H, W, {channels}]."
        )
    return [_with_channels(image, channels) for image in ([array] if array.ndim == 3 else array)]


def _decoded(path: Path, channels: int) -> Any:
    """By PIL, else by OpenCV, else .ppm and .pgm by this file."""
    if channels not in (1, 3):
        raise Problem(f"the network reads {channels} channels, and image files have 1 or 3: give an .npy.")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return _decoded_without_pil(path, channels)
    try:
        with warnings.catch_warnings(), Image.open(str(path)) as file:
            warnings.simplefilter("ignore")
            if file.mode in ("F", "I") or file.mode.startswith("I;16"):
                raise Problem(f"the image {path} has more than 8 bits per channel: convert it to 8 bits.")
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    pixels = np.array(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _decoded_without_pil(path: Path, channels: int) -> Any:
    data = path.read_bytes()
    if data[:2] in (b"P5", b"P6"):
        return _with_channels(_from_netpbm(path, data), channels)
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise Problem(
            f"{path} needs PIL or OpenCV (sudo apt install python3-pil): without them .ppm, .pgm and .npy are read."
        ) from error
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("OpenCV does not know it")
    return _with_channels(np.ascontiguousarray(pixels[:, :, ::-1]), channels)


def _from_netpbm(path: Path, data: bytes) -> Any:
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([56])" + space + rb"(\d+)" + space + rb"(\d+)" + space + rb"(\d+)\s", data)
    if header is None:
        raise ValueError("its header is none")
    kind, width, height, largest = (int(group) for group in header.groups())
    depth = 3 if kind == 6 else 1
    if largest != 255:
        raise Problem(f"the image {path} has values up to {largest}: convert it to 8 bits.")
    if len(data) - header.end() < width * height * depth:
        raise ValueError("it is cut off")
    return np.frombuffer(data, np.uint8, width * height * depth, header.end()).reshape(height, width, depth)


def _with_channels(pixels: Any, channels: int) -> Any:
    """Grey from colour as PIL computes it, colour from grey."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    weights = np.array([19595, 38470, 7471], dtype=np.int64)
    return ((pixels.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def network_input(pixels: Any, manifest: Dict[str, Any]) -> Any:
    """uint8 [H, W, C] of any size -> [1, C, H, W] as the network was trained with."""
    preprocessing = manifest["preprocessing"]
    image = to_network_size(pixels, preprocessing).transpose(2, 0, 1)[None]
    if manifest["input"]["type"] == "uint8":
        return np.ascontiguousarray(image)
    mean, std = (np.array(preprocessing[key], dtype=np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    return np.ascontiguousarray((image.astype(np.float32) / np.float32(255) - mean) / std, dtype=np.float32)


def to_network_size(pixels: Any, preprocessing: Dict[str, Any]) -> Any:
    """Resized and centre-cropped; what lies outside the image is black."""
    height, width = preprocessing["input_size"]
    target = _target_size(pixels.shape[0], pixels.shape[1], preprocessing)
    top, left = round((target[0] - height) / 2), round((target[1] - width) / 2)
    rows, columns = (
        range(max(0, first), min(size, first + wanted))
        for first, size, wanted in ((top, target[0], height), (left, target[1], width))
    )
    part = resized(pixels, target[0], target[1], preprocessing["interpolation"], rows, columns)
    crop = np.zeros((height, width, pixels.shape[2]), dtype=np.uint8)
    crop[max(0, -top) : max(0, -top) + part.shape[0], max(0, -left) : max(0, -left) + part.shape[1]] = part
    return crop


def _target_size(rows: int, columns: int, preprocessing: Dict[str, Any]) -> Tuple[int, int]:
    """Height and width before the crop."""
    (height, width), resize = preprocessing["input_size"], preprocessing["resize"]
    if resize is None:
        if (rows, columns) == (height, width):
            return rows, columns
        scale = max(height / rows, width / columns)
        return max(height, round(rows * scale)), max(width, round(columns * scale))
    if preprocessing["squash"]:
        short = min(height, width)
        return resize * height // short, resize * width // short
    if columns <= rows:
        return int(resize * rows / columns), resize
    return resize, int(resize * columns / rows)


_BITS = 22
"""Of the fraction of a resizing filter's weights, so that sums of 8-bit pixels stay in 32 bits: as PIL has it."""


def resized(pixels: Any, height: int, width: int, interpolation: str, rows: range, columns: range) -> Any:
    """uint8 [H, W, C], pixel for pixel as Pillow 13 resizes: one axis, then the other, each rounded to 8 bits. Of the
    result only `rows` and `columns` are computed: an elongated image becomes many times as long before it is cut.

    Which comes first changes a few pixels. Older ones always begin with the width, 13 with the height where that
    loses more than twice as much (observed).
    """
    if interpolation == "nearest":
        down, across = _nearest(pixels.shape[0], height), _nearest(pixels.shape[1], width)
        return pixels[down[_slice(rows)]][:, across[_slice(columns)]]
    if interpolation not in FILTERS:
        raise Problem(
            f"the interpolation {interpolation!r} is not known here: known are nearest, {', '.join(FILTERS)}."
        )
    fewer_rows, fewer_columns = pixels.shape[0] - height, pixels.shape[1] - width
    height_first = fewer_rows > 0 and fewer_rows > 2 * fewer_columns
    for vertical in (height_first, not height_first):
        if vertical:
            pixels = _filtered(pixels, height, interpolation, rows) if fewer_rows else pixels[_slice(rows)]
        else:
            across = pixels.transpose(1, 0, 2)
            across = _filtered(across, width, interpolation, columns) if fewer_columns else across[_slice(columns)]
            pixels = across.transpose(1, 0, 2)
    return pixels


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _nearest(size: int, wanted: int) -> List[int]:
    """Which pixel each new one is: steps are added up, as PIL does."""
    step, place, found = size / wanted, size / wanted * 0.5, []
    for _ in range(wanted):
        found.append(min(int(place), size - 1))
        place += step
    return found


def _filtered(pixels: Any, wanted: int, interpolation: str, part: range) -> Any:
    """Those of `part` of the first axis resized to `wanted`."""
    function, support = FILTERS[interpolation]
    size = pixels.shape[0]
    scale = size / wanted
    stretch = max(scale, 1.0)
    out = np.empty((len(part), *pixels.shape[1:]), dtype=np.uint8)
    for place, index in enumerate(part):
        centre = (index + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), size)
        weights = [function((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = sum(weights)
        fixed = [int(math.copysign(0.5, w) + w / total * (1 << _BITS)) if w else 0 for w in weights]
        # Products and sums stay far below 2^53.
        sums = np.tensordot(np.array(fixed, dtype=np.float64), pixels[first:last].astype(np.float64), axes=1)
        out[place] = np.clip((sums.astype(np.int64) + (1 << (_BITS - 1))) >> _BITS, 0, 255)
    return out


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)


FILTERS: Dict[str, Tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""With how far each reaches, in pixels."""


# ---- doctor ----------------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    what: str
    found: str
    remedy: Optional[str] = None
    """None where nothing is wrong."""
    needed: bool = False
    """Whether nothing runs without it."""


def doctor(folder: Path, cache: Path) -> List[Finding]:
    """What is here and what is missing. Needs the standard library only."""
    findings, bundle = [], None
    try:
        bundle = open_bundle(folder)
        findings.append(Finding("bundle", f"{len(bundle.manifest['files'])} files, all as {MANIFEST} describes them"))
    except Problem as problem:
        findings.append(Finding("bundle", problem.found, problem.remedy, needed=True))
    findings.append(Finding("Python", platform.python_version()))
    findings.append(_numpy())
    findings.append(_machine(bundle))
    findings += _jetson()
    gpu = gpu_name()
    findings.append(_gpu(bundle, gpu))
    runtimes, usable = _runtimes(bundle, gpu)
    findings += [*runtimes, usable, _disk(cache)]
    return findings


def _numpy() -> Finding:
    if np is None:
        return Finding("numpy", "missing", "sudo apt install python3-numpy, or pip install numpy", needed=True)
    return Finding("numpy", str(np.__version__))


def _machine(bundle: Optional[Bundle]) -> Finding:
    model = read(ROOT / "proc/device-tree/model").strip("\0 ")
    memory = re.search(r"MemTotal: *(\d+) kB", read(ROOT / "proc/meminfo"))
    said = ", ".join(
        [
            platform.machine(),
            *([model] if model else []),
            *([f"{int(memory.group(1)) / (1 << 20):.1f} GiB"] if memory else []),
        ]
    )
    wanted = None if bundle is None else bundle.manifest["device"].get("machine")
    if wanted is not None and wanted != platform.machine():
        name = bundle.manifest["device"]["name"] if bundle is not None else ""
        return Finding("machine", said, f"the bundle is for {name} ({wanted}): make one for this machine")
    return Finding("machine", said)


def _jetson() -> List[Finding]:
    release = read(ROOT / "etc/nv_tegra_release").splitlines()
    if not release:
        return []
    number = re.search(r"# R(\d+) .*REVISION: ([\d.]+)", release[0])
    said = f"L4T {number.group(1)}.{number.group(2)}" if number else release[0]
    jetpack = output_of("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack")
    mode = power_mode()
    findings = [Finding("JetPack", f"{jetpack}, {said}" if jetpack else f"{said}, nvidia-jetpack is not installed")]
    return findings + ([] if mode is None else [Finding("power mode", mode)])


def _gpu(bundle: Optional[Bundle], name: Optional[str]) -> Finding:
    wanted = bundle is not None and any(model["runtime"] == "tensorrt" for model in bundle.manifest["models"])
    if name is not None:
        return Finding("GPU", name)
    remedy = "install NVIDIA's driver; without one only ONNX Runtime's CPU provider runs" if wanted else None
    return Finding("GPU", "none found", remedy)


def _runtimes(bundle: Optional[Bundle], gpu: Optional[str]) -> Tuple[List[Finding], Finding]:
    """One finding for each, and which one would be taken."""
    names = {"tensorrt": "TensorRT", "trtexec": "trtexec", "onnxruntime": "ONNX Runtime"}
    findings, taken = [], None
    kinds = {model["runtime"] for model in bundle.manifest["models"]} if bundle is not None else set()
    for runtime, name in names.items():
        try:
            backend = backend_of(runtime)
            model = None if bundle is None else model_for(bundle, backend.kind, backend.version)
        except Problem as problem:
            if bundle is not None and BACKENDS[runtime].kind not in kinds:
                remedy: Optional[str] = "none is needed: the bundle has no file for it"
            elif bundle is None and runtime != "onnxruntime" and gpu is None:
                remedy = "none is needed: there is no GPU"
            else:
                remedy = problem.remedy
            findings.append(Finding(name, problem.found, remedy))
            continue
        findings.append(Finding(name, backend.version + (f", runs {model['file']}" if model else "")))
        taken = taken or name
    if taken is None:
        which = "this bundle" if bundle else "a bundle"
        return findings, Finding("runtime", f"none that can run {which}", "install one of those above", needed=True)
    return findings, Finding("runtime", f"{taken} would be taken")


def _disk(cache: Path) -> Finding:
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(str(place)).free
    remedy = None if free > GIB else "free some: engines, their building and the system need room"
    writable = os.access(str(place), os.W_OK)
    if not writable:
        remedy = "engines are kept there: choose another folder with --cache"
    return Finding("disk", f"{free / GIB:.1f} GiB free in {place}" + ("" if writable else ", not writable"), remedy)


def gpu_name() -> Optional[str]:
    """As NVIDIA's driver names it; a Jetson by its board."""
    said = (output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()
    if said and "not" not in said[0].lower().split() and "failed" not in said[0]:
        return said[0].strip()
    return _board()


def _board() -> Optional[str]:
    """A Jetson's name; None of another machine."""
    model = read(ROOT / "proc/device-tree/model").strip("\0 ")
    return model if "NVIDIA" in model or "Jetson" in model else None


def free_memory() -> Optional[int]:
    """Bytes of the GPU's memory, as NVIDIA's driver says; a Jetson's GPU has the system's. None where none is known."""
    said = (output_of("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits") or "").splitlines()
    if said and said[0].strip().isdigit():
        return int(said[0]) << 20
    available = re.search(r"MemAvailable: *(\d+) kB", read(ROOT / "proc/meminfo"))
    return int(available.group(1)) << 10 if available and _board() else None


# ---- Small things ----------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """Empty where it is not there."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def number_in(path: Path) -> Optional[float]:
    try:
        return float(read(path))
    except ValueError:
        return None


def output_of(*command: str) -> Optional[str]:
    """None where it is not there, fails or takes long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description="Runs the quantized network of this folder.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    helps = {
        "doctor": "what is here, what is missing, and the remedy",
        "build": "TensorRT's engines for this GPU",
        "check": "compare the integers that are computed here with the expected ones",
        "bench": "how long one batch takes",
        "classify": "the five likeliest classes of images",
        "predict": "the classes of prepared images on standard input: raw numbers, as the network takes them",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON alone")
        command.add_argument("--cache", type=Path, default=HERE / "cache", help="where engines are kept")
        if name != "doctor":
            command.add_argument("--runtime", choices=RUNTIMES, help="default: the first that is here")
            command.add_argument("--threads", type=_count, default=0, help="of ONNX Runtime; default: it decides")
        if name == "bench":
            command.add_argument("--batch", type=_batch, default=LARGEST_BATCH, help="beside 1; at most 8")
            command.add_argument("--runs", type=_count, default=200, help="default: 200")
        if name == "classify":
            command.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or an .npy of uint8 pixels")
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _batch(text: str) -> int:
    value = _count(text)
    if value > LARGEST_BATCH:
        raise argparse.ArgumentTypeError(f"{value} is more than engines take, {LARGEST_BATCH}")
    return value


def run(options: argparse.Namespace) -> int:
    """One command; gives the exit code."""
    if options.command == "doctor":
        return _show_doctor(doctor(HERE, options.cache), options.json)
    bundle = open_bundle(HERE)
    if np is None:
        raise Problem("numpy is missing: sudo apt install python3-numpy, or pip install numpy.")
    choice = choose(bundle, options.runtime, options.threads)
    backend = choice.backend
    about = {
        "command": options.command,
        "runtime": backend.name,
        "version": backend.version,
        "gpu": backend.gpu,
        "model": choice.model["file"],
        "passed_over": choice.reasons(),
    }
    if not options.json:
        # Not to standard output, where the answer is.
        unexpected = surprises(bundle, choice)
        if unexpected:
            say(f"passed over: {'; '.join(unexpected)}.")
    where = f"{choice.model['file']} in {_PRODUCTS[backend.name]} {backend.version}"
    where += "" if backend.gpu is None else f" on {backend.gpu}"
    if options.command == "build":
        return _build(bundle, choice, options, about, where)
    if options.command == "check":
        result = check(bundle, choice, options.cache)
        _show({**about, **result}, options.json, lambda: _check_lines(where, result))
        return 0 if result["passes"] else 3
    if options.command == "bench":
        result = bench(bundle, choice, options.cache, options.batch, options.runs)
        _show({**about, **result}, options.json, lambda: _bench_lines(where, result))
        return 0
    if options.command == "predict":
        classes = predict(bundle, choice, options.cache)
        _show({**about, "classes": classes}, options.json, lambda: [str(number) for number in classes])
        return 0
    found = classify(bundle, choice, options.cache, options.images)
    _show({**about, "images": found}, options.json, lambda: _classify_lines(found))
    errors = [image["error"] for image in found if "error" in image]
    for error in errors:
        say(f"Error: {error}")
    return 1 if errors else 0


def _build(bundle: Bundle, choice: Choice, options: argparse.Namespace, about: Dict[str, Any], where: str) -> int:
    engines = []
    if choice.backend.kind == "tensorrt":
        for with_codes in (False, True):
            engine = engine_of(choice.backend, bundle, choice.model, options.cache, with_codes)
            path = engine_path(choice.backend, bundle, choice.model, options.cache, with_codes)
            engines.append({"path": str(path), "bytes": len(engine)})
    lines = [f"{engine['path']} ({engine['bytes']:,} bytes)" for engine in engines]
    _show({**about, "engines": engines}, options.json, lambda: lines or [f"{where}: it needs no engine."])
    return 0


def _show(values: Any, as_json: bool, lines: Callable[[], List[str]]) -> None:
    for line in [json.dumps(values, indent=1)] if as_json else lines():
        print(line)


def _show_doctor(findings: List[Finding], as_json: bool) -> int:
    ready = not any(finding.needed for finding in findings)

    def lines() -> List[str]:
        width = max(len(finding.what) for finding in findings)
        marks = [("ok" if f.remedy is None else "NO" if f.needed else "--", f) for f in findings]
        text = [
            f"{mark}  {f.what:{width}}  {f.found}"
            + ("" if f.remedy is None else f"\n    {'':{width}}  remedy: {f.remedy}")
            for mark, f in marks
        ]
        return [*text, "Ready: now `python3 run.py check`." if ready else "Not ready: see the lines marked NO."]

    _show({"command": "doctor", "ready": ready, "findings": [f._asdict() for f in findings]}, as_json, lines)
    return 0 if ready else 1


def _check_lines(where: str, result: Dict[str, Any]) -> List[str]:
    lines = [
        f"{where}: {result['differ']:,} of {result['integers']:,} integers differ ({result['tensors']} tensors, "
        f"{result['images_with_codes']} images)."
    ]
    if result["at_near_ties"]:
        lines.append(
            f"{result['at_near_ties']:,} of them by one, where rounding in another order gives the next code; "
            f"{result['differ_behind']:,} among the {result['behind_a_difference']:,} that are computed from such."
        )
    if result["tensors_never_judged"]:
        lines.append(f"Not judged in any image: {', '.join(result['tensors_never_judged'])}.")
    if result["top1_agreement"] is not None:
        most = result["logits_difference"]
        by = "are not all numbers" if most is None else f"differ by {most:.1e} of the largest at most"
        lines.append(
            f"Logits of {result['images']} images {by}; {result['top1_agreement']:.2f} % have the expected class."
        )
    return [*lines, *(f"Check failed: {failure}" for failure in result["failures"][:8])]


def _bench_lines(where: str, result: Dict[str, Any]) -> List[str]:
    lines = [where]
    for row in result["batches"]:
        known = [key for key, value in row.items() if key.endswith("_ms") and value is not None]
        times = ", ".join(f"{key[:-3]} {row[key]:.3f} ms" for key in known)
        power = "".join(f", {rail} {value:.2f} W" for rail, value in row["watts"].items())
        lines.append(f"batch {row['batch']}: {times}, {row['images_per_second']:,.1f} images/s{power}")
    if result["power_mode"] is not None:
        lines.append(f"power mode: {result['power_mode']}")
    if result["temperatures"]:
        lines.append(
            "temperatures: " + ", ".join(f"{name} {value:.1f}" for name, value in result["temperatures"].items())
        )
    return lines


def _classify_lines(found: List[Dict[str, Any]]) -> List[str]:
    lines = []
    for each in found:
        if "top" in each:
            lines.append(each["image"])
            lines += [f"  {100 * one['share']:6.2f} %  {one['name']}" for one in each["top"]]
    return lines


def main(words: Optional[List[str]] = None) -> int:
    streams: Tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with contextlib.suppress(AttributeError):  # names of files and classes may be in another script than it takes
            stream.reconfigure(errors="backslashreplace")
    parser = arguments()
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except Problem as problem:
        say(f"Error: {problem}")
    except BrokenPipeError:  # whoever reads has enough; else Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        say(f"Error: the system refused{where}: {error.strerror or error}; make room, or choose another place.")
    except MemoryError:
        say("Error: memory did not suffice: end other programs, and run it again.")
    except Exception as error:  # what no line above foresees; its place is what a report is worth most with
        steps = traceback.extract_tb(error.__traceback__)
        line = [step.lineno for step in steps if step.filename == main.__code__.co_filename][-1]
        say(
            f"Error: unexpected {type(error).__name__} ({one_line(error)}) at line {line} of run.py: a fault of run.py "
            "or of the runtime, report it with what `python3 run.py doctor --json` says."
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
