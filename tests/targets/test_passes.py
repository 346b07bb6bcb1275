"""Each dialect pass: one tiny model in, one out."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import PostconditionError, PreconditionError

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Clamp, Conv2d, Flatten, Input, Linear, MaxPool2d, Pad, Slice
from intraq_deploy.program.program import Grid, IntegerWeights, Normalization, Program
from intraq_deploy.targets.onnx import canonical
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.kernels import FourChannelImages
from intraq_deploy.targets.onnx.lower import ALL_PASSES, PASSES, instrument, lower, passes_of, serialize
from intraq_deploy.targets.onnx.packing import ImpliedParameters
from intraq_deploy.targets.onnx.passes import IntegerMoves, UnsignedActivations, UnsignedWeights
from intraq_deploy.targets.onnx.tensorrt import Int4Gemms, QuantizedFloatWeights
from intraq_deploy.targets.profile import load_profile, profile_names
from intraq_deploy.targets.tensorrt.rehearsal import rehearsed

IMAGE, SIGNED, NIBBLE = Grid(0.5, 8, -128, 127, -128), Grid(0.25, 8, -128, 127, -128), Grid(0.25, 4, 0, 15, 0)


def tiny(output=NIBBLE, move=None, weight=7, groups=1, kernel=(1, 1), **more):
    """image -> conv -> [move] -> flatten -> fc."""
    codes = torch.full((3, 3 // groups, *kernel), weight, dtype=torch.int8)
    padding = (kernel[0] // 2, kernel[1] // 2) * 2
    conv = IntegerWeights(codes, torch.full((3,), 0.1), torch.tensor([1, -2, 3], dtype=torch.int32))
    nodes = [
        Node("image", Input(), (), (3, 4, 4)),
        Node("conv", Conv2d((1, 1), padding, (1, 1), groups), ("image",), (3, 4, 4), Clamp(0, float("inf"))),
    ]
    grids = {"image": IMAGE, "conv": output}
    shape = (3, 4, 4)
    if move is not None:
        op, shape = move
        nodes.append(Node("moved", op, ("conv",), shape))
        grids["moved"] = output
    features = int(np.prod(shape))
    nodes += [Node("flat", Flatten(), (nodes[-1].name,), (features,)), Node("fc", Linear(), ("flat",), (2,))]
    grids["flat"] = output
    fc = IntegerWeights(torch.ones(2, features, dtype=torch.int8), torch.ones(2), torch.zeros(2, dtype=torch.int32))
    return Program(Graph(tuple(nodes), "fc"), grids, {"conv": conv, "fc": fc}, **more)


def written(program):
    return canonical.write(program, 21, {})


def constants(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def operators(model):
    return [node.op_type for node in model.graph]


def test_canonical_form_is_int8_with_an_integer_clip():
    model = written(tiny())
    assert operators(model) == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear", "Clip",
        "DequantizeLinear", "Flatten", "QuantizeLinear",
        "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "Gemm",
    ]  # fmt: skip
    values = constants(model)
    assert (values["conv.low"], values["conv.high"]) == (0, 15)
    assert values["conv.low"].dtype == values["conv.zero_point"].dtype == np.int8
    assert values["conv.bias.codes"].dtype == np.int32
    assert values["conv.bias.scale"] == pytest.approx([0.05] * 3)
    assert "image.low" not in values, "signed bytes saturate by themselves"


def test_codes_beyond_a_signed_byte_are_written_unsigned():
    values = constants(written(tiny(Grid(0.25, 8, 0, 255, 0))))
    assert values["conv.zero_point"].dtype == np.uint8
    assert "conv.low" not in values


@pytest.mark.parametrize(
    ("grid", "zero_point", "low", "high"),
    [
        (NIBBLE, 0, None, 15),
        (Grid(0.25, 4, -5, 10, -5), 5, None, 15),
        (Grid(0.25, 8, 0, 127, 0), 0, None, 127),
        (SIGNED, 128, None, None),
        (Grid(0.25, 4, 2, 9, 2), 0, 2, 9),
    ],
    ids=str,
)
def test_unsigned_activations(grid, zero_point, low, high):
    model = written(tiny(grid))
    assert UnsignedActivations()(model).modified
    values = constants(model)
    assert values["conv.zero_point"] == zero_point
    assert values["conv.zero_point"].dtype == np.uint8
    clips = [node for node in model.graph if node.op_type == "Clip"]
    assert len(clips) == (0 if low is high is None else 1)
    for clip in clips:
        bounds = [None if value is None else int(value.const_value.numpy()) for value in clip.inputs[1:]]
        assert bounds == [low, high]
    assert "conv.codes" in {value.name for node in model.graph for value in node.outputs}


MOVES = {
    "max pooling": (MaxPool2d((2, 2), (2, 2), (1, 1), (1, 1), False), (3, 3, 3)),
    "slicing": (Slice(1, 0, 4, 2), (3, 2, 4)),
    "padding": (Pad((1, 0, 0), (2, 0, 0)), (6, 4, 4)),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_integer_moves(move):
    model = written(tiny(Grid(0.25, 4, -5, 10, -5), move))
    UnsignedActivations()(model)
    assert IntegerMoves()(model).modified
    assert not IntegerMoves()(model).modified, "nothing is left to do"
    operator = {MaxPool2d: "MaxPool", Slice: "Slice", Pad: "Pad"}[type(move[0])]
    (node,) = [node for node in model.graph if node.op_type == operator]
    assert node.inputs[0].name == "conv.codes"
    assert node.outputs[0].name == "moved.codes"
    assert [usage.node.op_type for usage in node.outputs[0].uses()] == ["Flatten"]
    if operator == "Pad":
        assert int(node.inputs[2].const_value.numpy()) == 5, "the stored value of zero"


@pytest.mark.parametrize(
    ("weight", "groups", "unsigned"), [(64, 1, False), (65, 1, True), (127, 1, True), (127, 3, False)],
    ids=["just safe", "just unsafe", "full range", "depthwise"],
)  # fmt: skip
def test_unsigned_weights(weight, groups, unsigned):
    """2 * 255 * 64 = 32,640 fits 16 bits; 2 * 255 * 65 does not."""
    model = written(tiny(weight=weight, groups=groups))
    UnsignedActivations()(model)
    assert UnsignedWeights()(model).modified == unsigned
    values = constants(model)
    stored = values["conv.weight.codes"].astype(int) - values["conv.weight.zero_point"].astype(int).reshape(-1, 1, 1, 1)
    assert (stored == weight).all()
    assert values["conv.weight.codes"].dtype == (np.uint8 if unsigned else np.int8)


def test_weights_behind_a_relu_stay_signed():
    """Stored from 0 on, eight-bit activations reach 127 only: 2 * 127 * 127 fits."""
    program = tiny(Grid(0.25, 8, 0, 127, 0), weight=64)
    program.layers["fc"].codes.fill_(127)
    model = written(program)
    UnsignedActivations()(model)
    assert not UnsignedWeights()(model).modified


@pytest.mark.parametrize(("kernel", "channels"), [((3, 3), 4), ((1, 1), 3)], ids=["3x3", "1x1"])
def test_four_channel_images(kernel, channels):
    program = tiny(kernel=kernel)
    model = written(program)
    UnsignedActivations()(model)
    assert FourChannelImages()(model).modified == (channels == 4)
    assert not FourChannelImages()(model).modified, "nothing is left to do"
    codes = constants(model)["conv.weight.codes"]
    assert codes.shape == (3, channels, *kernel)
    assert (codes[:, :3] == 7).all()
    assert not codes[:, 3:].any()
    for pad in (node for node in model.graph if node.op_type == "Pad"):
        assert pad.inputs[0].name == "image.codes"
        assert int(pad.inputs[2].const_value.numpy()) == 128, "the stored value of zero"


def test_a_pass_has_one_name():
    assert len(PASSES) == len(ALL_PASSES)


@pytest.mark.parametrize("target", profile_names())
def test_the_passes_of_built_in_targets_are_in_order(target):
    names = load_profile(target).passes
    assert tuple(each.name for each in passes_of(names, target)) == names


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["integer-move"], "mine has the unknown pass 'integer-move': did you mean integer-moves?"),
        (
            ["four-channel-images", "unsigned-activations"],
            "mine has the pass 'four-channel-images', which needs 'unsigned-activations' before it: add that.",
        ),
        (["int4-gemms"], "mine has the pass 'int4-gemms', which needs 'float-biases' before it: add that."),
    ],
)
def test_passes_in_another_order_are_refused_for_every_target(names, words):
    profile = load_profile("onnxruntime").model_copy(update={"name": "mine", "passes": tuple(names)})
    with pytest.raises(UsageError) as raised:
        lower(tiny(), profile, {})
    assert str(raised.value) == f"The target {words}"


@pytest.mark.parametrize(
    ("before", "refused", "words"),
    [
        ([], UnsignedWeights, "needs 'unsigned-activations' before it, which image.codes has not seen"),
        ([], FourChannelImages, "needs 'unsigned-activations' before it"),
        ([IntegerMoves], UnsignedActivations, "comes too late: moved.codes works on codes"),
        ([], Int4Gemms, "needs 'float-biases' before it, which conv.bias has not seen"),
        ([ImpliedParameters], QuantizedFloatWeights, "needs zero-points of 0, which conv.weight has not"),
    ],
)
def test_a_pass_says_what_it_requires(before, refused, words):
    model = written(tiny(move=MOVES["max pooling"]))
    for each in before:
        each()(model)
    with pytest.raises(PreconditionError, match=words):
        refused()(model)


def test_int4_needs_an_opset_that_has_it():
    profile = load_profile("tensorrt-int4").model_copy(update={"opset": 17})
    with pytest.raises(TargetError, match="'int4-gemms' needs opset 21, and the model has 17"):
        lower(tiny(), profile, {})


def own_target(opset, *passes):
    return load_profile("onnxruntime").model_copy(update={"name": "mine", "opset": opset, "passes": passes})


@pytest.mark.parametrize(
    ("opset", "passes"),
    [
        (21, ("float-clips", "unsigned-activations", "unsigned-weights")),
        (17, ("float-biases", "float-clips", "implied-parameters", "older-operators", "int4-gemms")),
    ],
)
def test_orders_that_no_built_in_target_has(opset, passes):
    """Clips that are gone already are no unfinished work, and INT4 that no layer takes needs no opset."""
    program = tiny(weight=100)
    program.layers["fc"].codes[0, 0] = 100
    assert lower(program, own_target(opset, *passes), {}).data


def test_a_pass_that_does_not_do_its_work_is_found():
    class Idle(IntegerMoves):
        def change(self, model, node):
            pass

    with pytest.raises(PostconditionError, match="'integer-moves' left moved as it was"):
        Idle()(written(tiny(move=MOVES["slicing"])))


@pytest.mark.parametrize("normalization", [None, Normalization((127.5,) * 3, (64.0,) * 3)], ids=["float", "uint8"])
def test_the_lowered_model_is_valid_and_describes_itself(normalization, tmp_path):
    made = lower(tiny(normalization=normalization), load_profile("onnxruntime"), {"scheme": "integer"})
    (tmp_path / "model.onnx").write_bytes(made.data)
    loaded = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.opset_import[0].version == 21
    assert {p.key: p.value for p in loaded.metadata_props} == {"scheme": "integer"}
    (image,) = loaded.graph.input
    assert image.type.tensor_type.elem_type == (
        onnx.TensorProto.FLOAT if normalization is None else onnx.TensorProto.UINT8
    )
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", 3, 4, 4]
    assert [d.dim_param or d.dim_value for d in loaded.graph.output[0].type.tensor_type.shape.dim] == ["N", 2]


def test_the_same_program_gives_the_same_bytes():
    profile = load_profile("onnxruntime")
    first, second = (lower(tiny(), profile, {}).data for _ in range(2))
    assert first == second


def test_the_instrumented_model_shows_every_quantized_tensor():
    program = tiny(move=MOVES["padding"])
    model = instrument(lower(program, load_profile("onnxruntime"), {}).model, program)
    assert [value.name for value in model.graph.outputs] == ["logits", *(f"{name}.codes" for name in program.grids)]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-int8"])
def test_what_was_written_is_not_read_to_see_its_integers(target, tmp_path, monkeypatch):
    program = tiny()
    artifact = export(program, load_profile(target), tmp_path, {})
    read = serialize(instrument(ir.load(artifact.path), program))
    monkeypatch.setattr(ir, "load", None)
    assert serialize(instrument(artifact.model, program)) == read
    assert rehearsed(artifact, program).grids == program.grids
