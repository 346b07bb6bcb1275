"""A sheet of synthetic images for people: a grid with one class per row, or of many classes."""

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

_COLUMNS, _ROWS, _GAP = 10, 10, 2
_SEVERAL = 3
"""How many images of a class make a row."""


def contact_sheet(images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> bytes:
    """A PNG of up to ten images of each of the first ten classes; of the first hundred where classes have one or two.

    images: float32 [N, C, H, W], normalised; those with one or two channels, or more than three, are shown by their
    first channel in grey. labels: int64 [N]. mean, std: of pixels in [0, 1], per channel.
    """
    shift, scale = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    pixels = ((images * scale + shift).clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.shape[1] != 3:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    _, _, height, width = pixels.shape
    rows = _rows(labels)
    size = len(rows) * (height + _GAP) + _GAP, max(map(len, rows)) * (width + _GAP) + _GAP, 3
    sheet = torch.full(size, 255).to(torch.uint8)
    for row, members in enumerate(rows):
        for column, index in enumerate(members):
            _paste(sheet, pixels[index], _GAP + row * (height + _GAP), _GAP + column * (width + _GAP))
    buffer = BytesIO()
    picture = Image.fromarray(sheet.numpy())
    enlarge = max(1, 64 // max(height, width))
    picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(labels: Tensor) -> list[list[int]]:
    """Returns the places of the images in each row."""
    places = [torch.nonzero(labels == label).flatten().tolist() for label in labels.unique()]
    if max(map(len, places)) < _SEVERAL:
        first = [index for each in places for index in each][: _ROWS * _COLUMNS]
        return [first[start : start + _COLUMNS] for start in range(0, len(first), _COLUMNS)]
    return [each[:_COLUMNS] for each in places[:_ROWS]]


def _paste(sheet: Tensor, image: Tensor, top: int, left: int) -> None:
    height, width = image.shape[1:]
    sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
