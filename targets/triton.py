"""Models for Triton Inference Server, as its ONNX Runtime backend loads them from a model repository.

NAME/config.pbtxt   types, shapes, batches, where it runs, and the preprocessing that clients do
NAME/labels.txt     the names of the classes, one on a line
NAME/1/model.onnx   the network

The keys are those of Triton's model_config.proto and of its ONNX Runtime backend, as their documentation has them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.device.runner.base import LARGEST_BATCH
from intraq_deploy.targets.profile import TargetProfile

CONFIG, LABELS, NETWORK = "config.pbtxt", "labels.txt", "1/model.onnx"
RUNTIMES = ("onnxruntime", "onnxruntime-tensorrt")
"""The runtimes that Triton's ONNX Runtime backend has."""
_TYPES = {ir.DataType.FLOAT: "TYPE_FP32", ir.DataType.UINT8: "TYPE_UINT8"}
_FOR_CLIENTS = ("input", "mean", "std", "resize", "interpolation", "squash", "program_sha256")
"""Properties of the file that clients need to make its input, and to know which network answers."""
_ON_CPU = """\
# On a GPU, ONNX Runtime's CUDA provider would compute in float: it has no integer convolution.
instance_group [ { kind: KIND_CPU } ]
"""
_ON_TENSORRT = """\
instance_group [ {{ kind: KIND_GPU }} ]
optimization {{
  graph {{ level: 2 }}  # no optimisation by ONNX Runtime: TensorRT's parser refuses what comes out
  execution_accelerators {{
    gpu_execution_accelerator [ {{
      name: "tensorrt"
{parameters}
    }} ]
  }}
}}
"""


def write_model(
    folder: Path, name: str, profile: TargetProfile, artifact: Artifact, classes: tuple[str, ...] | None
) -> None:
    """Fills `folder`, which exists and is empty, with a model called `name`, for a profile of one of RUNTIMES."""
    artifact.verify()
    files = {CONFIG: _config(name, profile, artifact.model, labelled=classes is not None).encode()}
    files[NETWORK] = artifact.path.read_bytes()
    if classes is not None:
        files[LABELS] = "".join(f"{' '.join(each.split())}\n" for each in classes).encode()
    for file, data in files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _config(name: str, profile: TargetProfile, model: ir.Model, *, labelled: bool) -> str:
    """The text of config.pbtxt."""
    (image,), (logits,) = model.graph.inputs, model.graph.outputs
    parts = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {LARGEST_BATCH}",
        f"input [ {{ {_tensor(image)} }} ]",
        f"output [ {{ {_tensor(logits)}{f' label_filename: {json.dumps(LABELS)}' if labelled else ''} }} ]",
        "dynamic_batching { }  # requests that wait are computed together",
        (_ON_CPU if profile.runtime == "onnxruntime" else _on_tensorrt(image)).rstrip(),
        "# How clients make the input of an image.",
        *_parameters(model.metadata_props),
    ]
    return "\n".join(parts) + "\n"


def _tensor(value: ir.Value) -> str:
    """A tensor's description, without the batch, which Triton adds."""
    assert value.dtype is not None  # the program's own input or output
    return f"name: {json.dumps(value.name)} data_type: {_TYPES[value.dtype]} dims: {_sizes(value)}"


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [size for size in value.shape[1:] if isinstance(size, int)]


def _on_tensorrt(image: ir.Value) -> str:
    """The options of the TensorRT provider that `targets/onnxruntime/gpu.py` gives it, by Triton's names."""
    options = {"precision_mode": "INT8"}
    for key, batch in (("min", 1), ("opt", 1), ("max", LARGEST_BATCH)):
        options[f"trt_profile_{key}_shapes"] = f"{image.name}:{'x'.join(map(str, (batch, *_sizes(image))))}"
    lines = (f'      parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items())
    return _ON_TENSORRT.format(parameters="\n".join(lines))


def _parameters(properties: Mapping[str, str]) -> list[str]:
    return [
        f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(properties[key])} }} }}'
        for key in _FOR_CLIENTS
        if key in properties
    ]
