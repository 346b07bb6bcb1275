"""ONNX Runtime's GPU providers: whether they are really there, and sessions that run on nothing else.

A provider in the package need not load. Where libraries or the GPU are missing, onnxruntime-gpu 1.31.1 logs it, makes a
session on the CPU for CUDA, and for TensorRT raises or, with its default `enable_fallback`, prints to standard output
and retries on the CPU. A package without the provider only warns. So providers are tried before they are believed, and
sessions are told not to fall back.
"""

import contextlib
import ctypes
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import TensorProto, helper

from intraq_deploy.errors import AbsentError, TargetError
from intraq_deploy.targets.onnxruntime.imports import onnxruntime

_NOTHING, _WARNINGS = 4, 2
"""Severities of ONNX Runtime's default logger: fatal errors only, and warnings, its default."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One of ONNX Runtime's execution providers."""

    name: str
    """The provider's name in ONNX Runtime."""
    library: str
    """The provider's name in the name of its shared library."""
    remedy: str
    """Advice on the package and the libraries that it needs."""


_INSTALL = "pip install onnxruntime-gpu in place of onnxruntime, with the libraries of "
_WHERE = " on LD_LIBRARY_PATH, on a machine with a CUDA GPU"
CUDA = Provider("CUDAExecutionProvider", "cuda", f"{_INSTALL}CUDA and cuDNN{_WHERE}")
TENSORRT = Provider("TensorrtExecutionProvider", "tensorrt", f"{_INSTALL}CUDA, cuDNN and TensorRT{_WHERE}")


def absence(provider: Provider) -> AbsentError | None:
    """The reason why a provider does not run here, as an error: the one asked for, the one that loaded, and what to
    install. None where it runs."""
    runtime = onnxruntime()
    instead = _instead(runtime, provider)
    return None if instead is None else _absent(runtime, provider, instead)


def why_absent(provider: Provider) -> str | None:
    """The reason why a provider does not run here, in one sentence; None where it runs."""
    error = absence(provider)
    return None if error is None else str(error)


def open_on(provider: Provider, model: bytes | str, settings: Any, options: Mapping[str, str]) -> Any:
    """An InferenceSession that runs every node on `provider`.

    Raises AbsentError where the provider does not load, TargetError where it refuses the model, or leaves a node to the
    CPU.
    """
    absent = absence(provider)
    if absent is not None:
        raise absent
    runtime = onnxruntime()
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = _session(runtime, provider, model, settings, options)
    except Exception as error:  # its exception types are not public
        raise TargetError(
            f"ONNX Runtime {runtime.__version__} does not run all of the model on {provider.name}: {_reason(error)}."
        ) from error
    found = session.get_providers()
    if found[:1] != [provider.name]:
        raise _absent(runtime, provider, f"{', '.join(found)} loaded")
    return session


def _absent(runtime: ModuleType, provider: Provider, instead: str) -> AbsentError:
    asked = f"ONNX Runtime {runtime.__version__} was asked for {provider.name}"
    return AbsentError(f"{asked}, and {instead}", provider.remedy)


@cache
def _instead(runtime: ModuleType, provider: Provider) -> str | None:
    """The end of a sentence on what loaded in a provider's place; None where the provider loaded."""
    contained = runtime.get_available_providers()
    if provider.name not in contained:
        return f"the installed package has only {', '.join(contained)}"
    settings = runtime.SessionOptions()
    settings.log_severity_level = _NOTHING
    # One operator is then too few for TensorRT to build an engine.
    options = {"trt_min_subgraph_size": "2"} if provider is TENSORRT else {}
    _find_libraries(runtime)
    try:
        found = _session(runtime, provider, _one_operator(), settings, options).get_providers()
    except Exception as error:  # its exception types are not public
        missing = _missing_library(runtime, provider)
        return f"nothing loaded ({_reason(error) if missing is None else missing})"
    if found[:1] == [provider.name]:
        return None
    missing = _missing_library(runtime, provider)
    return f"{', '.join(found)} loaded" + ("" if missing is None else f" ({missing})")


def _session(
    runtime: ModuleType, provider: Provider, model: bytes | str, settings: Any, options: Mapping[str, str]
) -> Any:
    with _quiet(runtime):
        providers = [(provider.name, dict(options))]
        return runtime.InferenceSession(model, settings, providers=providers, enable_fallback=0)


def _find_libraries(runtime: ModuleType) -> None:
    """Loads the libraries of CUDA and cuDNN that were installed as Python packages, and prints nothing."""
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


@contextlib.contextmanager
def _quiet(runtime: ModuleType) -> Iterator[None]:
    """Silences the log lines of libraries that do not load: the reason is raised or returned."""
    runtime.set_default_logger_severity(_NOTHING)
    try:
        yield
    finally:
        runtime.set_default_logger_severity(_WARNINGS)


def _one_operator() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _missing_library(runtime: ModuleType, provider: Provider) -> str | None:
    """The library that a provider's own does not find, as "libnvinfer.so.10 is missing". ONNX Runtime only logs it."""
    file = Path(str(runtime.__file__)).parent / "capi" / f"libonnxruntime_providers_{provider.library}.so"
    if not file.is_file():
        return None
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        library, missing, _ = str(error).partition(": cannot open shared object file")
        return f"{library} is missing" if missing else None
    return None


def _reason(error: Exception) -> str:
    """The message of an error, without the place in ONNX Runtime's source and without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^/\S+:\d+ [^)]*\) ", "", lines[0]).rstrip(". ")
