"""Data-free low-bit quantization of image classifiers: what was trained is what is shipped, integer for integer.

    from intraq_deploy import export, freeze, load_model, quantize, synthesize, validate

Names are imported on first use: importing this package needs neither torch nor a runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intraq_deploy.version import __version__

if TYPE_CHECKING:
    from intraq_deploy.api import calibration_images, export, load_model, quantize, synthesize, validate
    from intraq_deploy.errors import (
        ArchitectureError,
        CheckpointError,
        DataError,
        DivergedError,
        FreezeError,
        IntraqError,
        RunError,
        TargetError,
        UnsupportedModelError,
        UsageError,
    )
    from intraq_deploy.models.model import Model
    from intraq_deploy.pipeline.linting import lint_file
    from intraq_deploy.program.freeze import freeze
    from intraq_deploy.program.program import Program
    from intraq_deploy.quantization.network import FakeQuantNetwork
    from intraq_deploy.synthesis.synthetic_set import SyntheticSet
    from intraq_deploy.targets.artifact import Artifact

_HOMES = {
    "ArchitectureError": "errors",
    "Artifact": "targets.artifact",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "FakeQuantNetwork": "quantization.network",
    "FreezeError": "errors",
    "IntraqError": "errors",
    "Model": "models.model",
    "Program": "program.program",
    "RunError": "errors",
    "SyntheticSet": "synthesis.synthetic_set",
    "TargetError": "errors",
    "UnsupportedModelError": "errors",
    "UsageError": "errors",
    "calibration_images": "api",
    "export": "api",
    "freeze": "program.freeze",
    "lint_file": "pipeline.linting",
    "load_model": "api",
    "quantize": "api",
    "synthesize": "api",
    "validate": "api",
}

__all__ = [
    "ArchitectureError",
    "Artifact",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "FakeQuantNetwork",
    "FreezeError",
    "IntraqError",
    "Model",
    "Program",
    "RunError",
    "SyntheticSet",
    "TargetError",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "calibration_images",
    "export",
    "freeze",
    "lint_file",
    "load_model",
    "quantize",
    "synthesize",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"intraq_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'intraq_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
