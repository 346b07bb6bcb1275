"""The lowering of programs to ONNX, in the dialect of a target. Their integers can be brought into view."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import PostconditionError, PreconditionError
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass, ShapeInferencePass

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.program.program import Program
from intraq_deploy.targets.onnx import canonical, kernels, older, packing, passes, tensorrt
from intraq_deploy.targets.onnx.dialect import DialectPass
from intraq_deploy.targets.onnx.findings import LintFinding
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.wording import did_you_mean

ALL_PASSES: tuple[DialectPass, ...] = (
    passes.UnsignedActivations(),
    passes.AveragesAsConvolutions(),
    passes.UnsignedWeights(),
    passes.IntegerMoves(),
    kernels.TablesOfHardSigmoids(),
    kernels.FourChannelImages(),
    packing.PackedWeights(),
    packing.ImpliedParameters(),
    older.OlderOperators(),
    tensorrt.FloatClips(),
    tensorrt.FloatBiases(),
    tensorrt.QuantizedFloatWeights(),
    tensorrt.Int4Gemms(),
)
PASSES = {each.name: each for each in ALL_PASSES}
"""The dialect passes by the names that profiles have for them."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program in a target's dialect."""

    program: Program
    profile: TargetProfile
    model: ir.Model
    data: bytes
    """The model as it stands in a file."""


def lower(program: Program, profile: TargetProfile, metadata: dict[str, str]) -> Lowered:
    """The program in the profile's dialect. metadata: the model's properties.

    Raises TargetError if a pass cannot do its work after those before it, if onnx's checker refuses the result, or if
    the target would refuse it or compute it wrongly (`lint`); UsageError for passes that cannot be in this order.
    """
    model = canonical.write(program, profile.opset, metadata)
    try:
        for each in passes_of(profile.passes, profile.name):
            each(model)
    except (PreconditionError, PostconditionError) as error:
        raise TargetError(f"The program cannot be lowered for {profile.name}: {error}.") from error
    RemoveUnusedNodesPass()(model)
    try:
        CheckerPass(full_check=True)(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TargetError(f"The ONNX model for {profile.name} is not valid: {error}.") from error
    _refuse(lint(model, profile), profile)
    return Lowered(program, profile, model, serialize(model))


def passes_of(names: Sequence[str], target: str) -> list[DialectPass]:
    """The passes with those names, in order. target: the name or the file of their target, for messages.

    Raises UsageError for an unknown pass, and for one that stands before the pass that it needs.
    """
    for index, name in enumerate(names):
        if name not in PASSES:
            raise UsageError(f"The target {target} has the unknown pass {name!r}: {did_you_mean(name, sorted(PASSES))}")
        needed = PASSES[name].after
        if needed is not None and needed.name not in names[:index]:
            raise UsageError(
                f"The target {target} has the pass {name!r}, which needs {needed.name!r} before it: add that."
            )
    return [PASSES[name] for name in names]


def serialize(model: ir.Model) -> bytes:
    """The bytes of a model, as they stand in a file."""
    proto = ir.to_proto(model)
    # onnx-ir repeats the name, type and shape of every initializer there, and nothing else.
    proto.graph.ClearField("value_info")
    data: bytes = proto.SerializeToString()
    return data


def _refuse(findings: list[LintFinding], profile: TargetProfile) -> None:
    refused = [finding for finding in findings if finding.refused]
    if refused:
        more = f" ({len(refused) - 1} more like it)" if len(refused) > 1 else ""
        raise TargetError(
            f"{profile.name} would refuse this program or compute wrong integers: {refused[0].what}{more}."
        )


def instrument(model: ir.Model, program: Program) -> ir.Model:
    """A copy whose outputs are the logits and the codes of every quantized tensor, in the program's order."""
    copy = ir.serde.from_proto(ir.to_proto(model))
    ShapeInferencePass()(copy)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for tensor in program.grids:
        value = values[canonical.codes_name(tensor)]
        value.shape = ir.Shape(["N", *program.graph[tensor].shape])
        copy.graph.outputs.append(value)
    return copy


def stored_zero_points(program: Program) -> dict[str, int]:
    """The zero-point of every quantized tensor by name, with which its codes are stored where they are UINT8."""
    return {name: grid.unsigned_zero_point for name, grid in program.grids.items()}
