"""Reading image files, with PIL, with OpenCV, or with neither."""

import importlib
import re
import warnings
from pathlib import Path
from typing import Any, List

from .arrays import Array, np
from .base import Problem, one_line


def read_images(path: Path, channels: int) -> List[Array]:
    """The images of a file, uint8 [H, W, C] each: an .npy may hold several. Raises Problem for what is no image."""
    try:
        if path.suffix.lower() == ".npy":
            return _from_array(path, np.load(str(path), allow_pickle=False), channels)
        pixels = _decoded(path, channels)
        if not pixels.size:
            raise ValueError("it has no pixels")
        return [pixels]
    except Problem:
        raise
    except Exception as error:  # each decoder has its own
        raise Problem(f"the image {path} cannot be read ({one_line(error)})", "give another file") from error


def _from_array(path: Path, array: Array, channels: int) -> List[Array]:
    if array.dtype == np.uint8 and array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, channels) or not array.size:
        raise Problem(
            f"{path} holds {array.dtype} {array.shape}: give uint8 [H, W, {channels}], or [N, H, W, {channels}]."
        )
    return [_with_channels(image, channels) for image in ([array] if array.ndim == 3 else array)]


def _decoded(path: Path, channels: int) -> Array:
    """Decodes by PIL, else by OpenCV, else .ppm and .pgm by the function below."""
    if channels not in (1, 3):
        raise Problem(f"the network reads {channels} channels, and image files have 1 or 3: give an .npy.")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return _decoded_without_pil(path, channels)
    try:
        with warnings.catch_warnings(), Image.open(str(path)) as file:
            warnings.simplefilter("ignore")
            if file.mode in ("F", "I") or file.mode.startswith("I;16"):
                raise Problem(f"the image {path} has more than 8 bits per channel: convert it to 8 bits.")
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    pixels = np.array(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _decoded_without_pil(path: Path, channels: int) -> Array:
    data = path.read_bytes()
    if data[:2] in (b"P5", b"P6"):
        return _with_channels(_from_netpbm(path, data), channels)
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise Problem(
            f"{path} needs PIL or OpenCV (sudo apt install python3-pil): without them .ppm, .pgm and .npy are read."
        ) from error
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("OpenCV does not know it")
    return _with_channels(np.ascontiguousarray(pixels[:, :, ::-1]), channels)


def _from_netpbm(path: Path, data: bytes) -> Array:
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([56])" + space + rb"(\d+)" + space + rb"(\d+)" + space + rb"(\d+)\s", data)
    if header is None:
        raise ValueError("its header is none")
    kind, width, height, largest = (int(group) for group in header.groups())
    depth = 3 if kind == 6 else 1
    if largest != 255:
        raise Problem(f"the image {path} has values up to {largest}: convert it to 8 bits.")
    if len(data) - header.end() < width * height * depth:
        raise ValueError("it is cut off")
    return np.frombuffer(data, np.uint8, width * height * depth, header.end()).reshape(height, width, depth)


def _with_channels(pixels: Array, channels: int) -> Array:
    """Makes grey from colour as PIL computes it, or colour from grey."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    weights = np.array([19595, 38470, 7471], dtype=np.int64)
    return ((pixels.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]
