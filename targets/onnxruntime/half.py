"""Float networks in float16, as a GPU runs them where nothing is quantized: the baseline of INT8."""

import onnx

from intraq_deploy.targets.onnxruntime.imports import onnxruntime


def in_float16(model: bytes) -> bytes:
    """A float32 ONNX model in float16, inputs and outputs as they are: ONNX Runtime's converter.

    Values beyond float16's are clipped to the nearest that it has.
    """
    onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415

    converted = convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True)
    data: bytes = converted.SerializeToString()
    return data
