"""ONNX Runtime's own INT8 quantization, as a baseline."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from intraq_deploy.files import write_atomically
from intraq_deploy.targets.onnx.canonical import INPUT
from intraq_deploy.targets.onnxruntime.imports import onnxruntime


def quantize_static(source: Path, path: Path, images: Tensor, name: str = INPUT) -> None:
    """Quantizes the float model `source` to 8 bits, as ONNX Runtime's documentation recommends for x86: preprocessed,
    QDQ, u8 s8, per channel, and writes it to `path`.

    images: [N, C, H, W], uint8 or float32 as the model takes them, to calibrate with, one by one. name: the input's.
    """
    onnxruntime()
    from onnxruntime import quantization  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(images.numpy())

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {name: image[None]}

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "static.onnx"
        quant_pre_process(source, prepared)
        quantization.quantize_static(
            prepared,
            made,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        write_atomically(path, made.read_bytes())
