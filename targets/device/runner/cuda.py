"""CUDA's memory, which TensorRT's Python bindings leave to others."""

import contextlib
import ctypes
import importlib
from types import ModuleType
from typing import Any, Optional, Tuple

from .base import Problem
from .machine import ROOT

CUDA_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
"""Names by which the loader finds CUDA's runtime library."""
TO_DEVICE, TO_HOST = 1, 2
"""Directions of a copy, as cudaMemcpyKind numbers them."""
_CAPABILITY = 75
"""The number of the attribute that is a GPU's major compute capability."""


class Cuda:
    """The needed part of CUDA's runtime: by cuda-python, or else by its library."""

    def __init__(self) -> None:
        self._module = cuda_python()
        self._library = cuda_library() if self._module is None else None
        if self._module is None and self._library is None:
            raise Problem(
                "TensorRT is here, and neither cuda-python nor libcudart.so can be loaded, which give it memory",
                "pip install cuda-python, or add CUDA's lib64 to LD_LIBRARY_PATH",
            )
        capability = self._enum("cudaDeviceAttr", _CAPABILITY)
        if int(self._call("cudaDeviceGetAttribute", capability, 0, results=(ctypes.c_int(),))) < 1:
            raise Problem("TensorRT is here, and CUDA sees no GPU", "install NVIDIA's driver, or look at nvidia-smi")

    def gpu(self) -> str:
        """The GPU's name."""
        properties = ctypes.create_string_buffer(1 << 14)  # it begins with the name, in every version
        found = self._call("cudaGetDeviceProperties", 0, results=(properties,))
        name = found if isinstance(found, bytes) else found.name
        return str(name.decode(errors="replace") if isinstance(name, bytes) else name).strip("\0 ")

    def free_memory(self) -> int:
        """Bytes of the GPU's memory that are free."""
        return int(self._call("cudaMemGetInfo", results=(ctypes.c_size_t(), ctypes.c_size_t())))

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes of the GPU's memory."""
        return int(self._call("cudaMalloc", size, results=(ctypes.c_size_t(),)))

    def free(self, address: int) -> None:
        """Gives back what `allocate` gave."""
        self._call("cudaFree", address)

    def copy(self, to: int, source: int, size: int, direction: int) -> None:
        """Copies bytes between addresses. direction: TO_DEVICE or TO_HOST."""
        self._call("cudaMemcpy", to, source, size, self._enum("cudaMemcpyKind", direction))

    def stream(self) -> int:
        """The handle of a new stream."""
        return int(self._call("cudaStreamCreate", results=(ctypes.c_size_t(),)))

    def wait(self, stream: int) -> None:
        """Waits until all work of a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def _enum(self, name: str, number: int) -> Any:
        return number if self._module is None else getattr(self._module, name)(number)

    def _call(self, name: str, *arguments: Any, results: Tuple[Any, ...] = ()) -> Any:
        """The first result of a function of CUDA. results: where the library writes them; addresses as integers."""
        if self._module is not None:
            code, *values = getattr(self._module, name)(*arguments)
        else:
            given = [*map(ctypes.byref, results), *map(ctypes.c_size_t, arguments)]
            code = getattr(self._library, name)(*given)
            values = [result.value for result in results]
        if int(code):
            raise Problem(f"CUDA refuses {name} (error {int(code)})", "look at nvidia-smi, or restart the device")
        return values[0] if values else None


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
