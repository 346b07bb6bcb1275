"""Model files that say themselves how images become their input, opened in ONNX Runtime. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from intraq_deploy.errors import DataError, TargetError
from intraq_deploy.targets.device.runner.base import INPUT, one_line
from intraq_deploy.targets.device.runner.manifest import InputEntry, PreprocessingEntry
from intraq_deploy.targets.device.runner.onnxruntime import OnnxRuntimeSession
from intraq_deploy.targets.onnxruntime.imports import onnxruntime

_ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class DescribedModel:
    """A model with what feeds it, as a bundle's manifest has it."""

    session: OnnxRuntimeSession
    input: InputEntry
    preprocessing: PreprocessingEntry
    classes: list[str] | None
    """Names of the classes; None where the file has none."""


def open_described(path: Path) -> DescribedModel:
    """Opens a model on the CPU, and reads the properties that exporting wrote into it.

    Raises TargetError for a file that ONNX Runtime refuses, DataError for one without these properties.
    """
    runtime = onnxruntime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception types are not public
        raise TargetError(f"ONNX Runtime {runtime.__version__} refuses {path}: {one_line(error)}.") from error
    about, given = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
    try:
        values = {key: json.loads(about[key]) for key in ("mean", "std", "resize")}
        preprocessing: PreprocessingEntry = {
            "input_size": given.shape[2:],
            "mean": values["mean"],
            "std": values["std"],
            "resize": values["resize"],
            "interpolation": about["interpolation"],
            "squash": json.loads(about.get("squash", "false")),
        }
        classes = json.loads(about["classes"]) if "classes" in about else None
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} does not say how pixels become its input (it has no {one_line(error)}): give a file that a run "
            "has exported, or in Python give export the model."
        ) from error
    kind = "uint8" if given.type == "tensor(uint8)" else "float32"
    entry: InputEntry = {"name": INPUT, "type": kind, "shape": given.shape[1:]}
    return DescribedModel(OnnxRuntimeSession(session), entry, preprocessing, classes)
