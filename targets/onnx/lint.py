"""A linter of Q/DQ models. It finds the layers that a target would refuse, compute wrongly or silently leave in float.

Every rule reads the graph alone, so any ONNX file can be checked. Each runtime's rules stand in a file of their own,
each rule with its source.
"""

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from intraq_deploy.targets.onnx import lint_onnxruntime, lint_tensorrt
from intraq_deploy.targets.onnx.findings import LintFinding
from intraq_deploy.targets.onnx.places import inline, name_places
from intraq_deploy.targets.profile import TargetProfile

_RULES = {
    "onnxruntime": lint_onnxruntime.findings,
    "onnxruntime-tensorrt": lint_tensorrt.findings,
    "tensorrt": lint_tensorrt.findings,
    "tensorrt-rtx": lint_tensorrt.findings,
}
"""The rules by runtime."""


def lint(model: ir.Model, profile: TargetProfile) -> list[LintFinding]:
    """The findings on a model for the profile's target, in the order of the rules and of the graph."""
    typed = model.clone()  # keeps where data outside the file is
    inline(typed)
    ShapeInferencePass()(typed)
    name_places(typed)
    return _RULES[profile.runtime](typed, profile)
