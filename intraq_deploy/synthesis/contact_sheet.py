"""A sheet of synthetic images for people: a grid with one class per row."""

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

_COLUMNS, _ROWS, _GAP = 10, 10, 2


def contact_sheet(images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> bytes:
    """A PNG of up to ten images of each of the first ten classes.

    images: float32 [N, C, H, W], normalised; those with one or two channels, or more than three, are shown by their
    first channel in grey. labels: int64 [N]. mean, std: of pixels in [0, 1], per channel.
    """
    shift, scale = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    pixels = ((images * scale + shift).clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.shape[1] != 3:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    _, _, height, width = pixels.shape
    classes = labels.unique()[:_ROWS].tolist()
    columns = min(_COLUMNS, max(int((labels == label).sum()) for label in classes))
    size = len(classes) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3
    sheet = torch.full(size, 255).to(torch.uint8)
    for row, label in enumerate(classes):
        members = torch.nonzero(labels == label).flatten()[:_COLUMNS].tolist()
        for column, index in enumerate(members):
            _paste(sheet, pixels[index], _GAP + row * (height + _GAP), _GAP + column * (width + _GAP))
    buffer = BytesIO()
    picture = Image.fromarray(sheet.numpy())
    enlarge = max(1, 64 // max(height, width))
    picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _paste(sheet: Tensor, image: Tensor, top: int, left: int) -> None:
    height, width = image.shape[1:]
    sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
