"""CUDA's memory, which TensorRT's Python bindings leave to others."""

import contextlib
import ctypes
import importlib
from types import ModuleType
from typing import Any, Optional

from .base import Problem
from .machine import ROOT

CUDA_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
"""Names by which the loader finds CUDA's runtime library."""
TO_DEVICE, TO_HOST = 1, 2
"""Directions of a copy, as cudaMemcpyKind numbers them."""
_CAPABILITY = 75
"""The number of the attribute that is a GPU's major compute capability."""


class Cuda:
    """What is needed of CUDA's runtime: by cuda-python, or else by its library."""

    def __init__(self) -> None:
        self._module = cuda_python()
        self._library = cuda_library() if self._module is None else None
        if self._module is None and self._library is None:
            raise Problem(
                "TensorRT is here, and neither cuda-python nor libcudart.so can be loaded, which give it memory",
                "pip install cuda-python, or add CUDA's lib64 to LD_LIBRARY_PATH",
            )
        if self._capability() < 1:
            raise Problem("TensorRT is here, and CUDA sees no GPU", "install NVIDIA's driver, or look at nvidia-smi")

    def _capability(self) -> int:
        if self._module is not None:
            return int(self._call("cudaDeviceGetAttribute", self._module.cudaDeviceAttr(_CAPABILITY), 0))
        value = ctypes.c_int(0)
        self._by_library("cudaDeviceGetAttribute", ctypes.byref(value), _CAPABILITY, 0)
        return value.value

    def gpu(self) -> str:
        """The GPU's name."""
        if self._module is not None:
            name = self._call("cudaGetDeviceProperties", 0).name
            return str(name.decode() if isinstance(name, bytes) else name).strip("\0 ")
        properties = ctypes.create_string_buffer(1 << 14)  # it begins with the name, in every version
        self._by_library("cudaGetDeviceProperties", properties, 0)
        return properties.value.decode(errors="replace")

    def free_memory(self) -> int:
        """Bytes of the GPU's memory that are free."""
        if self._module is not None:
            return int(self._call("cudaMemGetInfo"))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._by_library("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes of the GPU's memory."""
        if self._module is not None:
            return int(self._call("cudaMalloc", size))
        address = ctypes.c_void_p()
        self._by_library("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Gives back what `allocate` gave."""
        if self._module is not None:
            self._call("cudaFree", address)
        else:
            self._by_library("cudaFree", ctypes.c_void_p(address))

    def copy(self, to: int, source: int, size: int, direction: int) -> None:
        """Copies bytes between addresses. direction: TO_DEVICE or TO_HOST."""
        if self._module is not None:
            self._call("cudaMemcpy", to, source, size, self._module.cudaMemcpyKind(direction))
        else:
            pointers = ctypes.c_void_p(to), ctypes.c_void_p(source)
            self._by_library("cudaMemcpy", *pointers, ctypes.c_size_t(size), direction)

    def stream(self) -> int:
        """The handle of a new stream."""
        if self._module is not None:
            return int(self._call("cudaStreamCreate"))
        stream = ctypes.c_void_p()
        self._by_library("cudaStreamCreate", ctypes.byref(stream))
        return int(stream.value or 0)

    def wait(self, stream: int) -> None:
        """Waits until all work of a stream is done."""
        if self._module is not None:
            self._call("cudaStreamSynchronize", stream)
        else:
            self._by_library("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: object) -> Any:
        code, *values = getattr(self._module, name)(*arguments)
        _judge(name, int(code))
        return values[0] if values else None

    def _by_library(self, name: str, *arguments: object) -> None:
        _judge(name, int(getattr(self._library, name)(*arguments)))


def _judge(name: str, code: int) -> None:
    if code:
        raise Problem(f"CUDA refuses {name} (error {code})", "look at nvidia-smi, or restart the device")


def cuda_python() -> Optional[ModuleType]:
    """The runtime module of cuda-python (before 12.6 `cuda.cudart`); None where it is missing or broken."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        with contextlib.suppress(Exception):  # RuntimeError too, where it finds no driver; the library may still do
            return importlib.import_module(name)
    return None


def cuda_library() -> Optional[ctypes.CDLL]:
    """CUDA's runtime library; None where there is none."""
    places = sorted(str(path) for path in ROOT.glob("usr/local/cuda*/lib64/libcudart.so*"))
    for name in (*CUDA_LIBRARIES, *places):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
