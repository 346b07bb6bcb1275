"""Data-free low-bit quantization of image classifiers: what was trained is what is shipped, integer for integer.

    from intraq_deploy import export, freeze, load_model, quantize, synthesize, validate

    load_model(source)                    a checkpoint, a name or a network in memory -> Model
    synthesize(model)                     images, made from the network alone -> SyntheticSet
    calibration_images(model, images)     your own images in their place -> SyntheticSet
    quantize(model, images)               the low-bit student, trained -> FakeQuantNetwork
    freeze(student)                       the integers -> Program
    export(program, folder)               the file for a target -> Artifact
    validate(artifact, program, images)   are the file's integers the program's? -> Validation
    evaluate(network, images)             top-1 and top-5 of any of these -> Accuracy
    bundle(run, target=NAME)              a finished run, packed for a device -> BundleReport
    report(run)                           a finished run as a page for people -> Path
    lint(path, target=NAME)               what a target would refuse of an ONNX file -> LintReport

Every error is an IntraqError. Names are imported on first use: importing this package needs neither torch nor a
runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intraq_deploy.version import __version__

if TYPE_CHECKING:
    from intraq_deploy.api import (
        bundle,
        calibration_images,
        evaluate,
        export,
        load_model,
        quantize,
        synthesize,
        validate,
    )
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
    from intraq_deploy.evaluation.accuracy import Accuracy
    from intraq_deploy.models.model import Model
    from intraq_deploy.pipeline.bundle import BundleReport
    from intraq_deploy.pipeline.linting import LintReport, lint
    from intraq_deploy.pipeline.page.writing import report
    from intraq_deploy.pipeline.validation import Validation
    from intraq_deploy.program.freeze import freeze
    from intraq_deploy.program.program import Program
    from intraq_deploy.quantization.network import FakeQuantNetwork
    from intraq_deploy.synthesis.synthetic_set import SyntheticSet
    from intraq_deploy.targets.artifact import Artifact

_HOMES = {
    "Accuracy": "evaluation.accuracy",
    "ArchitectureError": "errors",
    "Artifact": "targets.artifact",
    "BundleReport": "pipeline.bundle",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "FakeQuantNetwork": "quantization.network",
    "FreezeError": "errors",
    "IntraqError": "errors",
    "LintReport": "pipeline.linting",
    "Model": "models.model",
    "Program": "program.program",
    "RunError": "errors",
    "SyntheticSet": "synthesis.synthetic_set",
    "TargetError": "errors",
    "UnsupportedModelError": "errors",
    "UsageError": "errors",
    "Validation": "pipeline.validation",
    "bundle": "api",
    "calibration_images": "api",
    "evaluate": "api",
    "export": "api",
    "freeze": "program.freeze",
    "lint": "pipeline.linting",
    "load_model": "api",
    "quantize": "api",
    "report": "pipeline.page.writing",
    "synthesize": "api",
    "validate": "api",
}

__all__ = [
    "Accuracy",
    "ArchitectureError",
    "Artifact",
    "BundleReport",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "FakeQuantNetwork",
    "FreezeError",
    "IntraqError",
    "LintReport",
    "Model",
    "Program",
    "RunError",
    "SyntheticSet",
    "TargetError",
    "UnsupportedModelError",
    "UsageError",
    "Validation",
    "__version__",
    "bundle",
    "calibration_images",
    "evaluate",
    "export",
    "freeze",
    "lint",
    "load_model",
    "quantize",
    "report",
    "synthesize",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"intraq_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'intraq_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
