"""The comparison of a network with the ONNX file that it was read from, as onnx's own reference computes it."""

import logging
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.models.onnx.reading import OnnxFile
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)

_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
"""How much of their size outputs may differ by; in files of half precision, which the reference computes in."""
_NORMS_AS_TRAINED = 14
"""The opset from which on the reference takes a batch norm's stored statistics; before, it mixes in the batch's."""
_BATCH = 2
_SMALLEST = 1e-6
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def check_equal(file: OnnxFile, module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Compares what the network and the file give for random images; a warning says where the reference cannot run it.

    module: what was read from the file. input_shape: channels, height, width; the file's own size goes before it.
    Raises UnsupportedModelError for an output that differs.
    """
    channels, *size = input_shape
    shape = (file.batch or _BATCH, channels, *(file.size or size))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = _run(file, (images.permute(0, 2, 3, 1) if file.channels_last else images).numpy())
    except Exception as error:  # an operator may be missing in it, or fail in any way
        logger.warning(
            "onnx's reference does not compute %s (%s): the network that was read from it is not compared with it.",
            file.path,
            reason(error),
        )
        return
    with torch.no_grad():
        result: Any = module.forward(images)  # without the hooks, which choose the logits (models.logits)
    found = result if isinstance(result, dict) else dict.fromkeys(expected, result)
    half = any(tensor.data_type in _HALVES for tensor in file.model.graph.initializer)
    tolerance = _HALF_TOLERANCE if half else _TOLERANCE
    for name, values in expected.items():
        scale = max(_SMALLEST, float(np.abs(values).max()))
        alike = found[name].shape == values.shape
        difference = float(np.abs(found[name].numpy() - values).max()) / scale if alike else float("inf")
        if not difference <= tolerance:
            raise UnsupportedModelError(
                f"The output {name} of {file.path}, read as a network, differs from what the file computes by "
                f"{difference:.1e} of its size (allowed: {tolerance:.0e}): give the checkpoint that it was made from."
            )


def _run(file: OnnxFile, images: np.ndarray) -> dict[str, np.ndarray]:
    """The file's outputs, float32, by name. images: float32, as the file wants them."""
    (kind,) = [value.type.tensor_type.elem_type for value in file.model.graph.input if value.name == file.input]
    fed = images.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    evaluator = ReferenceEvaluator(file.model if file.opset >= _NORMS_AS_TRAINED else file.converted)
    made = evaluator.run(None, {file.input: fed})
    return {name: np.asarray(values, np.float32) for name, values in zip(evaluator.output_names, made, strict=True)}
