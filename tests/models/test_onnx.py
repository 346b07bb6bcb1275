"""ONNX files as a source of networks: what they compute is what is loaded, or a node is named."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support import SMALL_NETWORKS, SMALL_SHAPE, random_images, small_network
from torch import nn

from intraq_deploy.errors import CheckpointError, IntraqError, UnsupportedModelError, UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.loading import load_model
from intraq_deploy.models.onnx.calls import CALLS
from intraq_deploy.models.onnx.network import OnnxNetwork
from intraq_deploy.models.onnx.reading import read_onnx

VALUES = {"mean": [0.5], "std": [0.25]}
KEPT = torch.onnx.TrainingMode.PRESERVE
"""Exports batch norms as they are, where the usual mode folds them into convolutions."""


def export(module: nn.Module, path: Path, *, opset=17, dynamic=False, training=KEPT, shape=SMALL_SHAPE) -> Path:
    """Writes a network as torch's exporter of before 2.9 does."""
    axes = {"image": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, torch.zeros(1, *shape), path, opset_version=opset, dynamic_axes=axes, training=training,
            input_names=["image"], dynamo=False,
        )  # fmt: skip
    return path


def save(path: Path, nodes, inputs, constants=(), *, opset=21, outputs=("y",), domains=()) -> Path:
    """Writes a file of a few nodes. inputs: shapes by name; constants: arrays by name."""
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in dict(constants).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def head(x, size, classes=4):
    """Nodes that make logits of an image [N, C, H, W], and their constants."""
    weight = np.random.default_rng(0).normal(size=(size, classes)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", [x], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["y"], "classifier"),
    ]
    return nodes, {"weight": weight}


def refusal(path, **options) -> str:
    with pytest.raises(IntraqError) as caught:
        load_model(path, **VALUES, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_network_computes_what_was_exported(tmp_path, name):
    module = small_network(name)
    # Means and norms of later opsets are spelled out in this one.
    model = load_model(export(module, tmp_path / "network.onnx", opset=16), **VALUES)
    images = random_images(3)
    torch.testing.assert_close(model.module(images), module(images), rtol=1e-4, atol=1e-5)
    assert trace(model.module, model.input_shape).layers()


@pytest.mark.parametrize("dynamic", [False, True], ids=["batch-of-one", "any-batch"])
@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20, 21])
def test_every_opset(tmp_path, opset, dynamic):
    module = small_network("resnet" if opset > 9 else "mobilenet")  # the exporter cannot pad channels in opset 9
    model = load_model(export(module, tmp_path / "network.onnx", opset=opset, dynamic=dynamic), **VALUES)
    images = random_images(3)
    torch.testing.assert_close(model.module(images), module(images), rtol=1e-4, atol=1e-5)
    assert (model.channels, model.classes, model.input_shape) == (3, 10, SMALL_SHAPE)


@pytest.mark.parametrize("opset", [7, 8])
def test_files_of_the_first_opsets(tmp_path, opset):
    # Exporters of today write none: what these operators mean has not changed since.
    module = small_network("mobilenet")
    path = export(module, tmp_path / "network.onnx", opset=9)
    file = onnx.load(path)
    file.opset_import[0].version = opset
    onnx.save(file, path)
    model = load_model(path, **VALUES)
    torch.testing.assert_close(model.module(random_images(3)), module(random_images(3)), rtol=1e-4, atol=1e-5)


def test_layers_and_batch_norms_keep_their_names(tmp_path):
    module = small_network("resnet")
    model = load_model(export(module, tmp_path / "network.onnx"), **VALUES)
    names = {name for name, child in model.module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    assert names == {name for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    assert [node.name for node in trace(model.module, SMALL_SHAPE).layers()] == [
        node.name for node in trace(module, SMALL_SHAPE).layers()
    ]


def test_the_size_is_the_files_unless_it_is_given(tmp_path):
    path = export(small_network("resnet"), tmp_path / "network.onnx")
    assert load_model(path, **VALUES).preprocessing.source == "the file's size, --mean and --std"
    assert load_model(path, input_size=40, **VALUES).input_shape == (3, 40, 40)


def test_external_data(tmp_path):
    module = small_network("resnet")
    path = export(module, tmp_path / "network.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = load_model(path, **VALUES)
    torch.testing.assert_close(model.module(random_images(2)), module(random_images(2)), rtol=1e-4, atol=1e-5)

    before, weights = model.source.sha256, tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert load_model(path, **VALUES).source.sha256 != before

    weights.write_bytes(content[:100])
    assert "damaged external data" in refusal(path)
    weights.unlink()
    assert f"{path} keeps its weights in weights.bin, which is not beside it" in refusal(path)


def test_external_data_from_another_folder_is_refused(tmp_path):
    path = export(small_network("resnet"), tmp_path / "network.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    inner = tmp_path / "inner"
    inner.mkdir()
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    moved = inner / "network.onnx"
    moved.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError):
        load_model(moved, **VALUES)


def test_channels_last(tmp_path):
    # As converters from TensorFlow write them.
    rng = np.random.default_rng(1)
    kernel, weight = rng.normal(size=(6, 3, 3, 3)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Sub", ["image", "colour"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "kernel"], ["conv"], "stem/Conv2D", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Transpose", ["relu"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["last", "positions"], ["squeezed"], keepdims=1),
        helper.make_node("Sigmoid", ["squeezed"], ["gate"]),
        helper.make_node("Mul", ["last", "gate"], ["gated"]),
        helper.make_node("ReduceMean", ["gated", "positions"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["scores"], "dense/MatMul"),
        helper.make_node("Softmax", ["scores"], ["y"]),
    ]
    colour = rng.normal(size=(1, 1, 1, 3)).astype(np.float32)
    constants = {"colour": colour, "kernel": kernel, "weight": weight, "positions": np.array([1, 2])}
    path = save(tmp_path / "keras.onnx", nodes, {"image": [None, 9, 9, 3]}, constants)

    model = load_model(path, **VALUES)
    assert (model.channels, model.input_shape) == (3, (3, 9, 9))
    images = random_images(2, (3, 9, 9))
    (probabilities,) = onnxruntime.InferenceSession(path).run(
        None, {"image": images.permute(0, 2, 3, 1).contiguous().numpy()}
    )
    torch.testing.assert_close(model.module(images).softmax(1), torch.tensor(probabilities), rtol=1e-4, atol=1e-5)
    kinds = [type(node.op).__name__ for node in trace(model.module, model.input_shape).nodes]
    assert "Transpose" not in kinds  # pairs of transpositions meet, and go


def test_half_precision_is_read_as_single(tmp_path):
    module = small_network("resnet")
    path = export(module, tmp_path / "network.onnx")
    file = onnx.load(path)
    for tensor in file.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(file, path)
    model = load_model(path, **VALUES)
    found, exact = model.module(random_images(2)), module(random_images(2))
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 0.01 * float(exact.abs().max())


def test_several_outputs_are_chosen_by_name(tmp_path):
    nodes, constants = head("conv", 3)
    constants["kernel"] = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["conv"]),
        *nodes,
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    path = save(tmp_path / "two.onnx", nodes, {"image": ["n", 3, 8, 8]}, constants, outputs=("y", "z"))
    assert "choose one with --output: y [2, 4], z [2, 4]" in refusal(path)
    images = random_images(2, (3, 8, 8))
    y, z = (load_model(path, output=name, **VALUES).module(images) for name in ("y", "z"))
    torch.testing.assert_close(y, -z)


SMALL = (2, 4, 9, 8)
RNG = np.random.default_rng(3)
FLOATS = RNG.normal(size=(4, 1, 1)).astype(np.float32)
OPERATORS = {
    "LeakyRelu": ({"alpha": 0.2}, []),
    "Elu": ({"alpha": 0.7}, []),
    "PRelu": ({}, [FLOATS]),
    "PRelu of one": ({}, [np.full((1,), 0.2, np.float32)]),
    "HardSigmoid": ({}, []),
    "HardSigmoid as torch": ({"alpha": 1 / 6, "beta": 0.5}, []),
    "HardSwish": ({}, []),
    "Gelu": ({"approximate": "tanh"}, []),
    "Mish": ({}, []),
    "Softplus": ({}, []),
    "Selu": ({}, []),
    "Celu": ({"alpha": 0.5}, []),
    "Abs": ({}, []),
    "Erf": ({}, []),
    "Neg": ({}, []),
    "Clip": ({}, []),
    "Clip above": ({}, [None, np.float32(0.3)]),
    "Clip both": ({}, [np.float32(-0.5), np.float32(0.3)]),
    "Sub": ({}, [FLOATS]),
    "Pow": ({}, [np.float32(2)]),
    "Softmax": ({"axis": 1}, []),
    "LayerNormalization": ({"epsilon": 1e-3}, [RNG.normal(size=8).astype(np.float32)]),
    "MaxPool": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, []),
    "MaxPool same": ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, []),
    "MaxPool ceil": ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    "AveragePool": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    "AveragePool counting": (
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0], "count_include_pad": 1}, []
    ),
    "GlobalMaxPool": ({}, []),
    "ReduceMean": ({"keepdims": 0}, [np.array([2, -1])]),
    "ReduceMax": ({}, [np.array([-2, -1])]),
    "Flatten": ({"axis": 2}, []),
    "Reshape": ({}, [np.array([0, 2, -1, 8])]),
    "Transpose": ({"perm": [0, 2, 1, 3]}, []),
    "Unsqueeze": ({}, [np.array([1, -1])]),
    "Tile": ({}, [np.array([1, 2, 1, 3])]),
    "Expand": ({}, [np.array([2, 4, 9, 8])]),
    "Slice": ({}, [np.array([1, -1]), np.array([100, -100]), np.array([1, 3]), np.array([2, -3])]),
    "Gather": ({"axis": 1}, [np.array([2, -1, 0])]),
    "Gather one": ({"axis": -1}, [np.array(3)]),
    "Pad": ({}, [np.array([0, 0, 1, 2, 0, 1, 3, 0]), np.float32(0.5)]),
    "Pad reflect": ({"mode": "reflect"}, [np.array([0, 0, 1, 2, 0, 0, 3, 0])]),
    "Pad edge": ({"mode": "edge"}, [np.array([1, 2, 3, 0]), None, np.array([2, 3])]),
    "DepthToSpace": ({"blocksize": 2}, []),
    "DepthToSpace CRD": ({"blocksize": 2, "mode": "CRD"}, []),
    "Conv": ({"auto_pad": "SAME_LOWER", "strides": [2, 3]}, [RNG.normal(size=(5, 4, 4, 3)).astype(np.float32)]),
    "ConvTranspose": (
        {"strides": [2, 2], "pads": [1, 0, 0, 0], "output_padding": [0, 1], "group": 2},
        [RNG.normal(size=(4, 3, 3, 2)).astype(np.float32), RNG.normal(size=6).astype(np.float32)],
    ),
    "Resize": ({"mode": "nearest"}, [None, np.array([1, 1, 2, 3], np.float32)]),
    "Resize to": ({"mode": "nearest"}, [None, None, np.array([2, 4, 18, 8])]),
    "Resize by parts": (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [None, np.array([1, 1, 2 / 3, 0.75], np.float32)],
    ),
    "Resize by lines": (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, [None, np.array([1, 1, 2, 3], np.float32)],
    ),
    "ReduceL2": ({}, [np.array([1])]),
    "LpNormalization": ({"axis": 1}, []),
    "ReduceSum": ({}, [np.array([1])]),
    "Max": ({}, [np.float32(0.1)]),
    "Max of three": ({}, [np.float32(0.1), np.float32(0.3)]),
    "Min": ({}, [np.float32(0.1)]),
    "Exp": ({}, []),
    "Conv grouped": (
        {"group": 2, "dilations": [2, 1], "pads": [1, 0, 2, 1]},
        [RNG.normal(size=(6, 2, 3, 3)).astype(np.float32), RNG.normal(size=6).astype(np.float32)],
    ),
    "MatMul": ({}, [RNG.normal(size=(8, 5)).astype(np.float32)]),
    "BatchNormalization": ({"epsilon": 0.1}, [*RNG.uniform(0.5, 2, size=(4, 4)).astype(np.float32)]),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_what_onnx_runtime_does(tmp_path, name):
    attributes, given = OPERATORS[name]
    names = ["" if value is None else f"c{index}" for index, value in enumerate(given)]
    constants = {key: value for key, value in zip(names, given, strict=True) if key}
    node = helper.make_node(name.split()[0], ["x", *names], ["y"], name, **attributes)
    path = save(tmp_path / "node.onnx", [node], {"x": SMALL}, constants)
    images = random_images(2, SMALL[1:])
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": images.numpy()})
    found = OnnxNetwork(read_onnx(path)).eval()(images)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_space_to_depth_and_splits(tmp_path):
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["deep"], blocksize=2),
        helper.make_node("Split", ["deep", "sizes"], ["a", "b"], axis=1),
        helper.make_node("SplitToSequence", ["b", "five"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "one"], ["c"]),
        helper.make_node("Squeeze", ["c", "axes"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "axes"], ["e"]),
        helper.make_node("Concat", ["e", "a"], ["y"], axis=1),
    ]
    constants = {
        "sizes": np.array([10, 6]), "five": np.array(5), "one": np.array(1), "axes": np.array([1]),
    }  # fmt: skip
    path = save(tmp_path / "nodes.onnx", nodes, {"x": (2, 4, 8, 8)}, constants)
    images = random_images(2, (4, 8, 8))
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": images.numpy()})
    torch.testing.assert_close(OnnxNetwork(read_onnx(path)).eval()(images), torch.tensor(expected))


def test_arithmetic_with_shapes_is_no_part_of_the_network(tmp_path):
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)))

    module = Flattened().eval()
    path = export(module, tmp_path / "network.onnx", dynamic=True, shape=(3, 8, 8))
    assert "Shape" in {node.op_type for node in onnx.load(path).graph.node}
    model = load_model(path, **VALUES)
    images = random_images(3, (3, 8, 8))
    torch.testing.assert_close(model.module(images), module(images), rtol=1e-4, atol=1e-5)
    kinds = [type(node.op).__name__ for node in trace(model.module, model.input_shape).nodes]
    assert kinds == ["Input", "Conv2d", "Flatten", "Linear"]


# Refusals.


def test_options_that_an_onnx_file_does_not_need(tmp_path):
    path = export(small_network("resnet"), tmp_path / "network.onnx")
    for option, value in (("arch", "torchvision:resnet18"), ("weights", "ema")):
        with pytest.raises(UsageError, match=f"--{option} is {value}, but .* is an ONNX file"):
            load_model(path, **VALUES, **{option: value})
    with pytest.raises(UsageError, match="give --mean and --std"):
        load_model(path)


def test_a_file_that_is_cut_off(tmp_path):
    path = export(small_network("resnet"), tmp_path / "network.onnx")
    path.write_bytes(path.read_bytes()[:5000])
    assert "is cut off or damaged" in refusal(path)
    path.write_bytes(b"something else, by this name")
    assert "does not begin as an ONNX file does" in refusal(path)


def test_a_quantized_file(tmp_path):
    nodes, constants = head("dequantized", 3)
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale"], ["codes"], "image_quantizer"),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["dequantized"]),
        *nodes,
    ]
    path = save(tmp_path / "q.onnx", nodes, {"image": ["n", 3, 8, 8]}, constants | {"scale": np.float32(0.1)})
    assert "is quantized already (node 'image_quantizer' is a QuantizeLinear); give the float network" in refusal(path)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Einsum", ["image"], ["x"], "rows", equation="nchw->nc"), "'rows' .* a Einsum, which"),
        (helper.make_node("Resize", ["image", "", "two"], ["x"], "up", mode="cubic"), "'up' .* mode cubic"),
        (helper.make_node("Resize", ["image", "", "two"], ["x"], "up", mode="linear"), "'up' .* placed by none"),
        (helper.make_node("Selu", ["image"], ["x"], "own", alpha=1.0), "'own' .* alpha or gamma of its own"),
        (helper.make_node("Min", ["image", "image"], ["x"], "least"), "'least' .* 2 tensors"),
        (helper.make_node("FusedGelu", ["image"], ["x"], domain="com.microsoft"), "'x' .* com.microsoft.FusedGelu"),
        (
            helper.make_node("AveragePool", ["image"], ["x"], "pool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
            "Node 'pool' of the ONNX file is a AveragePool with pads",
        ),
        (helper.make_node("Conv", ["image", "image"], ["x"], "hyper"), "'hyper' .* weights that depend on the image"),
        (helper.make_node("Cast", ["image"], ["x"], "floor", to=TensorProto.INT32), "Node 'floor' .* no float"),
    ],
    ids=["unknown", "mode", "place", "gamma", "two-tensors", "other-domain", "attribute", "weights", "integers"],
)  # fmt: skip
def test_an_operator_that_is_not_supported_is_named(tmp_path, node, words):
    nodes, constants = head("x", 3)
    path = save(
        tmp_path / "odd.onnx", [node, *nodes], {"image": ["n", 3, 8, 8]},
        constants | {"two": np.array([1, 1, 2, 2], np.float32)}, domains=("com.microsoft",),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=words):
        load_model(path, **VALUES)


def test_inputs_that_are_no_batch_of_images(tmp_path):
    nodes, constants = head("image", 3)
    both = [helper.make_node("Add", ["a", "b"], ["image"]), *nodes]
    path = save(tmp_path / "odd.onnx", both, {"a": [1, 3, 8, 8], "b": [1, 3, 8, 8]}, constants)
    assert "takes 2 inputs (a, b): one image is needed" in refusal(path)
    path = save(path, [helper.make_node("MatMul", ["rows", "weight"], ["y"])], {"rows": [1, 3]}, constants)
    assert "has 2 dimensions: images have 4" in refusal(path)
    path = save(path, nodes, {"image": [1, 3, 8, 8]}, constants, opset=6)
    assert "is in opset 6: export it in opset 7 or newer" in refusal(path)


def test_an_export_in_training_mode(tmp_path):
    module = small_network("resnet").train()
    path = export(module, tmp_path / "network.onnx", training=torch.onnx.TrainingMode.TRAINING)
    assert "export the network in eval mode" in refusal(path)


def test_values_that_are_not_finite(tmp_path):
    module = small_network("resnet")
    with torch.no_grad():
        module.conv1.weight[0, 0, 0, 0] = float("nan")
    assert "the tensor conv1.weight of the ONNX file has NaN or infinite values" in refusal(
        export(module, tmp_path / "network.onnx")
    )


def test_what_is_read_is_compared_with_the_file(tmp_path, monkeypatch):
    path = export(small_network("resnet"), tmp_path / "network.onnx")
    monkeypatch.setitem(CALLS, "Relu", lambda _, x: x)
    assert "read as a network, differs from what the file computes by" in refusal(path)
