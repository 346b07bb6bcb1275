"""Program -> canonical ONNX -> the dialect that a profile names; and the same model with its integers in view."""

import onnx
import onnx_ir as ir
from intraq_deploy.targets.onnx import canonical, kernels, packing  # noqa: F401  registers its passes
from intraq_deploy.targets.onnx.lint import Finding, lint
from intraq_deploy.targets.onnx.passes import PASSES, drop_unused
from intraq_deploy.targets.profile import TargetProfile
from onnx_ir.passes.common import CheckerPass

from intraq_deploy.errors import TargetError
from intraq_deploy.program.program import Program


def lower(program: Program, profile: TargetProfile, metadata: dict[str, str]) -> ir.Model:
    """The program in the profile's dialect.

    Raises TargetError if onnx's checker refuses the result, or if the target would compute it wrongly (`lint`).
    """
    model = canonical.write(program, profile.opset, metadata)
    for name in profile.passes:
        PASSES[name](model)
    drop_unused(model)
    try:
        CheckerPass(full_check=True)(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TargetError(f"The ONNX model for {profile.name} is not valid: {error}.") from error
    _refuse(lint(model, profile), profile)
    return model


def serialize(model: ir.Model) -> bytes:
    """The model as it stands in a file."""
    proto = ir.to_proto(model)
    # onnx-ir repeats the name, type and shape of every initializer there, and nothing else.
    proto.graph.ClearField("value_info")
    data: bytes = proto.SerializeToString()
    return data


def _refuse(findings: list[Finding], profile: TargetProfile) -> None:
    if findings:
        more = f" ({len(findings) - 1} more layers like it)" if len(findings) > 1 else ""
        raise TargetError(
            f"{profile.name} would compute wrong integers: {findings[0].what}{more}. Quantize for this target from the "
            "start, or export for the target onnxruntime, which stores such weights as UINT8."
        )


def instrument(model: ir.Model, program: Program) -> ir.Model:
    """A copy whose outputs are the logits and the codes of every quantized tensor, in the program's order."""
    copy = ir.serde.from_proto(ir.to_proto(model))
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for tensor in program.grids:
        value = values[canonical.codes_name(tensor)]
        value.dtype = ir.DataType.UINT8
        value.shape = ir.Shape(["N", *program.graph[tensor].shape])
        copy.graph.outputs.append(value)
    return copy
