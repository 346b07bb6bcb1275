"""TensorRT for RTX, imported late and kindly."""

import importlib
from types import ModuleType

from intraq_deploy.errors import TargetError


def tensorrt_rtx() -> ModuleType:
    """The module. Raises TargetError with the extra that brings it."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        raise TargetError(
            f"TensorRT for RTX is not installed ({error}): pip install 'intraq-deploy[rtx]'; it needs no GPU."
        ) from error
