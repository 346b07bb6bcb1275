"""The one graph of an ONNX file, in one opset, with its weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper, inliner, numpy_helper, version_converter

from intraq_deploy.errors import CheckpointError, UnsupportedModelError
from intraq_deploy.files import sha256_of
from intraq_deploy.wording import reason

OPSET = 21
"""The opset in which files are read; those in an older one are converted by onnx itself."""
_OLDEST = 7

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The content of an ONNX file: a float network that reads one image."""

    path: Path
    sha256: str
    """The SHA-256 of the file's bytes, in hex; of one with external data that of both."""
    model: onnx.ModelProto
    """The file as it is, with its external data."""
    converted: onnx.ModelProto
    """The file in `OPSET` or a newer one."""
    input: str
    """The name of the input."""
    dims: tuple[int | None, ...]
    """The sizes of the input's four dimensions, None for those that are free."""

    @property
    def opset(self) -> int:
        """The opset that the file is in."""
        return _opset_of(self.model)

    @property
    def graph(self) -> onnx.GraphProto:
        """The nodes and stored tensors, in `OPSET` or a newer one."""
        return self.converted.graph

    @property
    def channels_last(self) -> bool:
        """Whether the image is [N, H, W, C]: the last dimension is a number of channels, and the second is not."""
        return self.dims[3] in _CHANNELS and self.dims[1] not in _CHANNELS

    @property
    def batch(self) -> int | None:
        """The one batch size that the file was exported for, if it was."""
        return self.dims[0]

    @property
    def channels(self) -> int | None:
        """The channels of the image, where the file states them."""
        return self.dims[3] if self.channels_last else self.dims[1]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, where the file states them."""
        height, width = self.dims[1:3] if self.channels_last else self.dims[2:4]
        return None if height is None or width is None else (height, width)


def read_onnx(path: Path) -> OnnxFile:
    """Reads an ONNX file and its external data.

    Raises CheckpointError for a file that is damaged, lacks its external data or is quantized already;
    UnsupportedModelError for an opset before 7, several inputs, or an input that is no batch of images.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise CheckpointError(f"{path} is cut off or damaged ({reason(error)}); copy or export it again.") from error
    digest = _load_external_data(path, model)
    _check_operators(path, model)

    converted = _in_one_opset(path, model)
    graph = converted.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"{path} takes {len(inputs)} inputs ({', '.join(value.name for value in inputs)}): one image is needed."
        )
    return OnnxFile(path, digest, model, converted, inputs[0].name, _dims(path, inputs[0]))


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Returns the stored tensors of a graph by name, of any shape and type; float ones of any precision as float32.

    Raises CheckpointError for values that are NaN or infinite in a tensor of several.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, values in constants.items():
        if helper.np_dtype_to_tensor_dtype(values.dtype) in _FLOATS:
            constants[name] = values.astype(np.float32)
            if values.size > 1 and not np.isfinite(constants[name]).all():
                raise CheckpointError(
                    f"the tensor {name} of the ONNX file has NaN or infinite values; export a network from before "
                    "its training diverged."
                )
    return constants


def _load_external_data(path: Path, model: onnx.ModelProto) -> str:
    """Reads the tensors that are kept beside a file into it, and returns the SHA-256 of all, in hex."""
    places = {
        entry.value
        for tensor in external_data_helper._get_all_tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    missing = sorted(name for name in places if not (path.parent / name).is_file())
    if missing:
        raise CheckpointError(f"{path} keeps its weights in {missing[0]}, which is not beside it; put it there.")
    digest = sha256_of(path)
    if not places:
        return digest
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise CheckpointError(
            f"{path} has damaged external data ({reason(error)}); copy or export it again."
        ) from error
    every = [digest, *(sha256_of(path.parent / name) for name in sorted(places))]
    return hashlib.sha256("".join(every).encode()).hexdigest()


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise CheckpointError(f"{path} holds no operators; export the network again.")
    for node in model.graph.node:
        if node.op_type in _QUANTIZED:
            raise CheckpointError(
                f"{path} is quantized already (node {node.name or node.output[0]!r} is a {node.op_type}); give the "
                "float network that it was made from."
            )


def _opset_of(model: onnx.ModelProto) -> int:
    return next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 1)


def _in_one_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model in `OPSET`, or in its own where that is newer, with its functions written out."""
    version = _opset_of(model)
    if version < _OLDEST:
        raise UnsupportedModelError(f"{path} is in opset {version}: export it in opset {_OLDEST} or newer.")
    if model.functions:
        model = inliner.inline_local_functions(model)
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"{path} cannot be converted from opset {version} to {OPSET} ({reason(error)}); export it in opset {OPSET}."
        ) from error


def _dims(path: Path, value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The sizes of an input's dimensions. Raises UnsupportedModelError for what is no batch of images."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return (None,) * 4
    dims = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim)
    if len(dims) != 4:
        raise UnsupportedModelError(
            f"the input {value.name} of {path} has {len(dims)} dimensions: images have 4, [N, C, H, W] or [N, H, W, C]."
        )
    return dims
