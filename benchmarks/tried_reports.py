"""Tries small inputs made after public reports of people who quantize or deploy networks: docs/tried-reports.md.

A network is quantized (W4A4, ranges only, from noise) and compared integer by integer in ONNX Runtime; a file is
loaded. The verdict is what came out, or the sentence that refused it.

    python benchmarks/tried_reports.py > verdicts.json
"""

import collections
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
import torch.nn.functional as F
import torchvision
from onnx import TensorProto, helper, numpy_helper
from parity import quantized_from_noise
from torch import nn

from intraq_deploy.errors import IntraqError
from intraq_deploy.models.loading import load_model

PIXELS = 32
VALUES = {"mean": [0.5], "std": [0.25], "input_size": PIXELS}


class Net(nn.Module):
    """A stem, a function of its output and of this network's layers, and a classifier."""

    def __init__(self, function, **layers):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.fc = nn.LazyLinear(5)
        self.function = function

    def forward(self, x):
        return self.fc(self.function(self, self.stem(x)).mean((2, 3)))


class OnImage(nn.Module):
    """A function of the image, a convolution, and a classifier."""

    def __init__(self, function, channels):
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(channels, 8, 3, bias=False)
        self.bn, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(self.function(x)))).mean((2, 3)))


class C2f(nn.Module):
    """A block of YOLOv8's classifier: chunks, SiLU, a concatenation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True))

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(layer(parts[-1]) for layer in (self.inner,))
        return self.last(torch.cat(parts, 1))


def same(x, kernel, stride):
    """Pads as AdaptivePadding does: from the size that the image has."""
    rest = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
    return F.pad(x, [rest[1] // 2, rest[1] - rest[1] // 2, rest[0] // 2, rest[0] - rest[0] // 2])


def channel_attention(net, x):
    return x * torch.sigmoid(net.mlp(F.adaptive_avg_pool2d(x, 1)) + net.mlp(F.adaptive_max_pool2d(x, 1)))


def position_attention(net, x):
    both = torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)
    return x * torch.sigmoid(net.conv(both))


def added_in_place(net, x):
    y = net.conv(x)
    y += x
    return y


def chosen_by_shape(net, x):
    return net.conv(x) if x.shape[2] > 4 else x


def blurred(net, x):
    if x.shape[1] < 1:
        return x
    return F.conv2d(x, torch.tensor([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]).repeat(8, 1, 1, 1) / 16, None, 2, 1, 1, 8)


def conv(inputs=8, outputs=8, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options), nn.BatchNorm2d(outputs))


def shared():
    return nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False))


def up(**options):
    return nn.Sequential(nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False, **options), nn.BatchNorm2d(8), nn.ReLU())


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(8, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
        nn.LazyLinear(5),
    )  # fmt: skip


NETWORKS = {
    "qualcomm/aimet/issues/154": (
        "a batch norm behind a transposed convolution", lambda: Net(lambda n, x: n.up(x), up=up()),
    ),
    "qualcomm/aimet/issues/284": (
        "a batch norm behind a depthwise transposed convolution", lambda: Net(lambda n, x: n.up(x), up=up(groups=8)),
    ),
    "XiaoMi/mace/issues/551": (
        "a batch norm behind a split",
        lambda: Net(
            lambda n, x: torch.cat([n.norm(x[:, :4]), n.conv(x[:, 4:])], 1), norm=nn.BatchNorm2d(4), conv=conv(4, 4)
        ),
    ),
    "NVIDIA/TensorRT/issues/1633": (
        "a concatenation right behind the image", lambda: OnImage(lambda x: torch.cat([x, x * 0.5], 1), 6),
    ),
    "pytorch/pytorch/pull/49717": (
        "ConvTranspose2d with groups and a bias",
        lambda: Net(lambda n, x: F.relu(n.up(x)), up=nn.ConvTranspose2d(8, 6, 2, 2, groups=2)),
    ),
    "pytorch/pytorch/pull/35130": (
        "interpolate, nearest", lambda: Net(lambda n, x: n.conv(F.interpolate(x, scale_factor=2)), conv=conv()),
    ),
    "Xilinx/brevitas/pull/206": (
        "an Upsample module beside a transposed convolution",
        lambda: Net(lambda n, x: n.large(x) + n.up(x), large=nn.Upsample(scale_factor=2), up=up()),
    ),
    "pytorch/pytorch/issues/87686": (
        "conv2d with keyword arguments alone",
        lambda: Net(lambda n, x: F.relu(F.conv2d(input=x, weight=n.conv[0].weight, padding=1)), conv=conv()),
    ),
    "pytorch/pytorch/issues/68250": (
        "torchvision's MobileNetV3", lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
    ),
    "NVIDIA/TensorRT/issues/1652": ("CBAM's channel attention", lambda: Net(channel_attention, mlp=shared())),
    "Jongchan/attention-module": (
        "CBAM's attention over positions (the repository of the block that the report above is about)",
        lambda: Net(position_attention, conv=nn.Conv2d(2, 1, 7, padding=3, bias=False)),
    ),
    "huggingface/pytorch-image-models/issues/1411": (
        "timm's EfficientNetV2 with TensorFlow's padding",
        lambda: timm.create_model("tf_efficientnetv2_b0", num_classes=5),
    ),
    "huggingface/pytorch-image-models/issues/1176": (
        "timm's RegNetY", lambda: timm.create_model("regnety_002", num_classes=5),
    ),
    "open-mmlab/mmrazor/issues/569": (
        "padding computed from the image's size",
        lambda: Net(lambda n, x: F.relu(n.conv(same(x, 3, 2))), conv=nn.Conv2d(8, 8, 3, 2)),
    ),
    "mosaicml/composer/issues/1985": ("BlurPool with a condition", lambda: Net(blurred)),
    "pytorch/pytorch/issues/118634": ("a condition on a shape", lambda: Net(chosen_by_shape, conv=conv())),
    "pytorch/pytorch/issues/104469": ("a shortcut that is added in place", lambda: Net(added_in_place, conv=conv())),
    "ultralytics/ultralytics/issues/13373": ("YOLOv8's classifier", lambda: Net(lambda n, x: n.block(x), block=C2f())),
    "pytorch/ao/issues/4292": ("d2l's network of lazy layers, run once", lazy),
    "IntelLabs/distiller/issues/166": (
        "one batch norm behind two convolutions",
        lambda: Net(
            lambda n, x: n.norm(n.a(x)) + n.norm(n.b(x)),
            a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8),
        ),
    ),
}  # fmt: skip


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).eval()


def exported(path, module, **options):
    torch.onnx.export(module, torch.zeros(1, 3, PIXELS, PIXELS), path, input_names=["image"], dynamo=False, **options)
    return path


def keras(path, *, depthwise):
    """A file as a converter from TensorFlow writes it, with squeeze and excitation or a depthwise convolution."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "stem"], ["conv"], "stem", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Clip", ["conv", "zero", "six"], ["relu"]),
    ]
    constants = {"stem": rng.normal(size=(8, 3, 3, 3)), "weight": rng.normal(size=(8, 5)), "zero": 0.0, "six": 6.0}
    if depthwise:
        constants["kernel"] = rng.normal(size=(8, 1, 3, 3))
        nodes += [
            helper.make_node("Conv", ["relu", "kernel"], ["deep"], "depthwise", auto_pad="SAME_UPPER", group=8),
            helper.make_node("Transpose", ["deep"], ["last"], perm=[0, 2, 3, 1]),
        ]
    else:
        nodes += [
            helper.make_node("Transpose", ["relu"], ["plain"], perm=[0, 2, 3, 1]),
            helper.make_node("ReduceMean", ["plain", "over"], ["squeezed"], keepdims=1),
            helper.make_node("Sigmoid", ["squeezed"], ["gate"]),
            helper.make_node("Mul", ["plain", "gate"], ["last"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", ["last", "over"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["scores"], "dense"),
        helper.make_node("Softmax", ["scores"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([1, 2]), "over"))
    graph = helper.make_graph(
        nodes, "keras", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, PIXELS, PIXELS, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])], tensors,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def saved(content, name="file.pth"):
    def make(folder):
        torch.save(content(), folder / name)
        return folder / name

    return make


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def without_head(prefix):
    return prefixed(prefix, {key: value for key, value in resnet().state_dict().items() if not key.startswith("fc.")})


def two_encoders():
    return {
        "state_dict": prefixed("encoder_q.", resnet().state_dict())
        | prefixed("encoder_k.", resnet().state_dict())
        | {"queue": torch.zeros(128, 64)}
    }


def packed():
    weight = torch.quantize_per_tensor(torch.randn(8, 3, 3, 3), 0.1, 0, torch.qint8)
    return collections.OrderedDict([("conv1.weight", weight), ("conv1.scale", torch.tensor(0.1))])


def old_opset(folder):
    path = exported(folder / "old.onnx", resnet(), opset_version=9)
    file = onnx.load(path)
    file.opset_import[0].version = 8
    onnx.save(file, path)
    return path


def any_size(folder):
    axes = {"image": {0: "n", 2: "height", 3: "width"}}
    return exported(folder / "any.onnx", resnet(), opset_version=17, dynamic_axes=axes)


RESNET = {"arch": "torchvision:resnet18"}
FILES = {
    "microsoft/onnxruntime-inference-examples/issues/319": (
        "resnet.onnx, batch norms folded", lambda d: exported(d / "m.onnx", resnet(), opset_version=12), {},
    ),
    "microsoft/onnxruntime/issues/11928": ("a file of opset 8, as the model zoo's", old_opset, {}),
    "NVIDIA/TensorRT/issues/3360": ("ONNX with free height and width", any_size, {}),
    "tensorflow/tensorflow/issues/45082": (
        "squeeze and excitation from Keras", lambda d: keras(d / "k.onnx", depthwise=False), {},
    ),
    "Tiarin-Hino/ability-draft-plus/pull/80": (
        "a depthwise network from Keras", lambda d: keras(d / "k.onnx", depthwise=True), {},
    ),
    "ultralytics/yolov5/issues/353": (
        "a pickled module", saved(lambda: {"model": resnet(), "epoch": 3}), {},
    ),
    "facebookresearch/simsiam/issues/8": (
        "a backbone behind encoder., without a head", saved(lambda: {"state_dict": without_head("encoder.")}), RESNET,
    ),
    "WXinlong/DenseCL/issues/30": ("two encoders and a queue", saved(two_encoders), RESNET),
    "TexasInstruments/edgeai/issues/1": (
        "tensors of activation ranges beside the network's",
        saved(lambda: resnet().state_dict() | {"layer1.0.relu.activation_in.clips_act": torch.zeros(2)}), RESNET,
    ),
    "pytorch/vision/issues/2562": ("a state_dict of a converted network", saved(packed), RESNET),
    "openvinotoolkit/nncf/issues/214": (
        "names of a network that NNCF has wrapped",
        saved(
            lambda: prefixed("nncf_module.", resnet().state_dict()) | {"activation_quantizers.a.scale": torch.ones(1)}
        ),
        RESNET,
    ),
    "dusty-nv/jetson-inference/issues/579": (
        "six labels for five classes", saved(lambda: resnet().state_dict()),
        RESNET | {"classes": ["a", "b", "c", "d", "e", "f"]},
    ),
}  # fmt: skip


def compared(module, shape):
    """What became of a network: its integers, compared."""
    program, parity = quantized_from_noise(module, shape, 4, 8)
    tolerances = f", {len(program.tolerances)} toleranced" if program.tolerances else ""
    return f"quantized: {parity.mismatched} of {parity.compared:,} integers differ{tolerances}"


def verdict(make):
    """What came out, or the sentence that refused it; an error that nobody foresaw is called that."""
    try:
        return make()
    except IntraqError as error:
        return f"refused: {error}"
    except Exception as error:  # what a person would see as a crash
        return f"crash: {type(error).__name__}: {error}".partition("\n")[0]


def network(build):
    torch.manual_seed(0)
    shape = (3, PIXELS, PIXELS)
    module = build()
    with torch.no_grad():
        module.train()(torch.randn(4, *shape))
    return compared(module.eval().requires_grad_(False), shape)


def file(make, options, folder):
    model = load_model(make(folder), **VALUES, **options)
    return f"loaded: {compared(model.module, model.input_shape)}"


def main():
    """Prints the verdicts as JSON, by source."""
    warnings.simplefilter("ignore")
    found = {}
    for source, (words, build) in NETWORKS.items():
        found[source] = {"input": words, "verdict": verdict(lambda build=build: network(build))}
    for source, (words, make, options) in FILES.items():
        with tempfile.TemporaryDirectory() as name:
            made = verdict(lambda make=make, options=options, name=name: file(make, options, Path(name)))
            found[source] = {"input": words, "verdict": made.replace(f"{name}/", "")}
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
