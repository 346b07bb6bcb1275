"""NVIDIA's runtimes, imported late and kindly."""

import importlib
from types import ModuleType

from intraq_deploy.errors import TargetError


def tensorrt_rtx() -> ModuleType:
    """TensorRT for RTX. Raises TargetError with the extra that brings it."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        raise TargetError(
            f"TensorRT for RTX is not installed ({error}): pip install 'intraq-deploy[rtx]'; it needs no GPU."
        ) from error


def tensorrt() -> ModuleType:
    """TensorRT. Raises TargetError with where it comes from."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise TargetError(
            f"TensorRT is not installed ({error}): pip install 'intraq-deploy[tensorrt]', on a Jetson use the Python "
            "that JetPack brings it for, or build for tensorrt-rtx, which needs no GPU."
        ) from error
