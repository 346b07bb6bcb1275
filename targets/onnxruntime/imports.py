"""ONNX Runtime, imported only where it is needed, with advice where it is missing."""

import importlib
from types import ModuleType

from intraq_deploy.errors import AbsentError


def onnxruntime() -> ModuleType:
    """ONNX Runtime's module. Raises AbsentError, which says how to install it, where it is missing."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise AbsentError(
            "ONNX Runtime is not installed",
            "pip install 'onnxruntime>=1.23' (or onnxruntime-gpu instead, never both: the two wheels overwrite each "
            "other)",
        ) from error
