"""Data-free low-bit quantization of image classifiers: what was trained is what is shipped, integer for integer.

    from intraq_deploy import export, freeze, load_model, quantize, synthesize, validate

Names are imported on first use: importing this package needs neither torch nor a runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intraq_deploy.version import __version__

if TYPE_CHECKING:
    from intraq_deploy.api import calibration_images, export, load_model, quantize, synthesize, validate
    from intraq_deploy.models.model import Model
    from intraq_deploy.program.freeze import freeze
    from intraq_deploy.program.program import Program
    from intraq_deploy.quantization.network import FakeQuantNetwork
    from intraq_deploy.synthesis.synthetic_set import SyntheticSet
    from intraq_deploy.targets.artifact import Artifact

_HOMES = {
    "Artifact": "targets.artifact",
    "FakeQuantNetwork": "quantization.network",
    "Model": "models.model",
    "Program": "program.program",
    "SyntheticSet": "synthesis.synthetic_set",
    "calibration_images": "api",
    "export": "api",
    "freeze": "program.freeze",
    "load_model": "api",
    "quantize": "api",
    "synthesize": "api",
    "validate": "api",
}

__all__ = [
    "Artifact",
    "FakeQuantNetwork",
    "Model",
    "Program",
    "SyntheticSet",
    "__version__",
    "calibration_images",
    "export",
    "freeze",
    "load_model",
    "quantize",
    "synthesize",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"intraq_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'intraq_deploy' has no attribute {name!r}")
