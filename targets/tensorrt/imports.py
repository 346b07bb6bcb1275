"""NVIDIA's runtimes, imported only where they are needed, with advice where they are missing."""

import importlib
from types import ModuleType

from intraq_deploy.errors import AbsentError


def tensorrt_rtx() -> ModuleType:
    """TensorRT for RTX's module. Raises AbsentError, which says how to install it, where it is missing."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        raise AbsentError(
            f"TensorRT for RTX is not installed ({error})", "pip install tensorrt-rtx-cu13; it needs no GPU"
        ) from error


def tensorrt() -> ModuleType:
    """TensorRT's module. Raises AbsentError, which says where to get it, where it is missing."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise AbsentError(
            f"TensorRT is not installed ({error})",
            "pip install tensorrt, on a Jetson use the Python that JetPack brings it for, or build "
            "for tensorrt-rtx, which needs no GPU",
        ) from error
