"""The parity images of a bundle, and the integers that must come out of them."""

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from intraq_deploy.program.program import Program
from intraq_deploy.program.ties import TieReference
from intraq_deploy.targets.device.runner.arrays import Array
from intraq_deploy.targets.device.runner.base import LARGEST_BATCH
from intraq_deploy.targets.device.runner.manifest import TensorEntry
from intraq_deploy.targets.onnx.canonical import codes_name
from intraq_deploy.targets.onnx.lower import instrument, stored_zero_points

_MOST_IMAGES, _MOST_PIXELS = 16, 1_300_000
"""The most images, and pixels in all of them, that integers are compared on: few enough to send."""
_SEARCHED = 20_000_000
"""The number of integers over which images without near ties are looked for, about."""


def integers_per_image(program: Program) -> int:
    """How many codes all quantized tensors of one image have together."""
    return max(1, sum(torch.Size(program.graph[name].shape).numel() for name in program.grids))


def pick_images(program: Program, images: Tensor, *, own_rounding: bool) -> Tensor:
    """The images to compare on, some of `images`: float32 or uint8 [N, C, H, W], as the program takes them.

    own_rounding: a runtime rounds in another order than the program, so images in which that can make no difference
    come first.
    """
    count = min(len(images), _MOST_IMAGES, max(1, _MOST_PIXELS // images[0].numel()))
    if not own_rounding:
        return images[:count]
    searched = images[: max(count, _SEARCHED // integers_per_image(program))]
    order = near_ties(program, searched).argsort(stable=True)
    return searched[order[:count]]


def near_ties(program: Program, images: Tensor) -> Tensor:
    """How many codes of each image another order of float32 arithmetic may round otherwise, int64 [N].

    images: [N, C, H, W] as the program takes them.
    """
    reference, counts = TieReference(program), []
    for part in images.split(LARGEST_BATCH):
        reference.run(part)
        zero = torch.zeros(len(part), dtype=torch.int64)
        counts.append(sum((mask.flatten(1).sum(1) for mask in reference.near.values()), zero))
    return torch.cat(counts)


def further_outputs(model: ir.Model, program: Program) -> bytes:
    """The bytes that, appended to a model's, make its codes outputs: concatenated protobuf messages are one message
    whose lists are joined."""
    seen = ir.to_proto(instrument(model, program))
    return bytes(onnx.ModelProto(graph=onnx.GraphProto(output=seen.graph.output[1:])).SerializeToString())


def tensors_of(program: Program) -> list[TensorEntry]:
    """The quantized tensors as a manifest describes them, in the order in which they are computed."""
    zero_points = stored_zero_points(program)
    return [
        {
            "name": name,
            "value": codes_name(name),
            "zero_point": zero_points[name],
            "inputs": sorted(_read_by(program, name)),
            "share": program.tolerances[name].bound if name in program.tolerances else None,
        }
        for name in program.grids
    ]


def _read_by(program: Program, name: str) -> set[str]:
    """The quantized tensors that a tensor is computed from, through float ones."""
    found = set()
    for source in program.graph[name].inputs:
        found |= {source} if source in program.grids else _read_by(program, source)
    return found


def expected(program: Program, images: Tensor, with_codes: int) -> dict[str, Array]:
    """The arrays of parity/expected.npz, for images, float32 or uint8 [N, C, H, W], as the program takes them.

    They are codes and positions near ties of the first `with_codes` images, logits and the number of near ties of all.
    """
    reference = TieReference(program)
    codes: dict[str, list[Tensor]] = {name: [] for name in program.grids}
    near: dict[str, list[Tensor]] = {name: [] for name in program.grids}
    for part in images[:with_codes].split(LARGEST_BATCH):
        reference.run(part, lambda name, found: codes[name].append(found.to(torch.int16)))
        for name, mask in reference.near.items():
            near[name].append(mask)
    arrays: dict[str, Array] = {}
    for index, (name, grid) in enumerate(program.grids.items()):
        kind = np.uint8 if grid.code_min >= 0 else np.int8 if grid.code_max <= 127 else np.int16
        arrays[f"codes{index}"] = torch.cat(codes[name]).numpy().astype(kind)
        places = torch.cat(near[name]).flatten().nonzero().flatten() if near[name] else torch.zeros(0)
        if len(places):
            arrays[f"near{index}"] = places.numpy().astype(np.int64)
    arrays["logits"] = torch.cat([reference.run(part) for part in images.split(LARGEST_BATCH)]).numpy()
    arrays["near_ties"] = near_ties(program, images).numpy()
    return arrays
