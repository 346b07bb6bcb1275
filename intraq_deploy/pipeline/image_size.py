"""The size of synthetic images: a network that averages over positions is read, fitted and trained at a smaller one."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.execute import run_float
from intraq_deploy.graph.graph import Graph
from intraq_deploy.models.model import Model

_MULTIPLE = 32
"""The pixels that sides are multiples of: five strides of 2 divide them evenly, so that padding stays what it was."""
_CLOSE = 1e-3
"""The greatest difference of logits, as a share of the largest."""


def model_at(model: Model, graph: Graph, resolution: float) -> Model:
    """Returns the model with the input size of its synthetic images. graph: the model's, traced at its own size.

    It stays the model's own size where the network, or its graph, cannot be run at the smaller one.
    """
    sides = model.input_shape[1:]
    height, width = (min(side, max(1, round(resolution * side / _MULTIPLE)) * _MULTIPLE) for side in sides)
    if resolution == 1 or (height, width) == sides:
        return model
    small = replace(model, preprocessing=replace(model.preprocessing, input_size=(height, width)))
    return small if _agree(small, graph) else model


def _agree(model: Model, graph: Graph) -> bool:
    """Whether the network and the graph give the same logits at the model's input size."""
    noise = torch.randn(2, *model.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            expected, found = model.module(noise), run_float(graph, noise)
    except Exception:  # a network's forward may refuse a size in any way
        return False
    if expected.shape != found.shape:
        return False
    return bool((found - expected).abs().max() <= _CLOSE * expected.abs().max())


def enlarged(images: Tensor, height: int, width: int) -> Tensor:
    """Continues images [N, C, H, W], of any float dtype, by reflection to [N, C, height, width], themselves in the
    middle: statistics stay what they are."""
    while images.shape[2] < height or images.shape[3] < width:
        sides = zip((width, height), images.shape[:1:-1], strict=True)
        across = [min(size - side, 2 * (side - 1)) for size, side in sides]
        left, top = (missing // 2 for missing in across)
        images = F.pad(images, (left, across[0] - left, top, across[1] - top), mode="reflect")
    return images
