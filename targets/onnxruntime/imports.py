"""ONNX Runtime, imported late and kindly."""

import importlib
from types import ModuleType

from intraq_deploy.errors import TargetError


def onnxruntime() -> ModuleType:
    """The module. Raises TargetError with the two extras that bring it."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise TargetError(
            "ONNX Runtime is not installed: pip install 'intraq-deploy[cpu]' (or 'intraq-deploy[gpu]' instead, "
            "never both: the two wheels overwrite each other)."
        ) from error
