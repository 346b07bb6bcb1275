"""The bytes of a model file, item by item: weights, scales, biases and so on."""

from collections import Counter

import onnx_ir as ir

_ITEMS = {
    ("Cast", 0): "weights",
    ("Conv", 1): "weights",
    ("Conv", 2): "biases",
    ("Gemm", 1): "weights",
    ("Gemm", 2): "biases",
    ("DequantizeLinear", 0): "weights",
    ("QuantizeLinear", 0): "weights",
    ("DequantizeLinear", 1): "scales",
    ("DequantizeLinear", 2): "zero_points",
    ("Sub", 1): "zero_points",
}
"""The item that an initializer with more than one number belongs to, by the operator and the input that read it. Single
numbers are parameters of activations."""


def itemise(model: ir.Model, size: int) -> dict[str, int]:
    """Bytes by item, the largest first, `size` in all. size: of the file.

    Weights are told apart by how they are stored ("weights int4"); "metadata" are the model's properties, "graph" is
    the rest: operators, names, attributes, and constants that are none of the layers' and quantizers'.
    """
    items: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        item = _item(value)
        if tensor is not None and item is not None:
            items[f"{item} {tensor.dtype.name.lower()}" if item == "weights" else item] += tensor.nbytes
    items["metadata"] = sum(len(key.encode()) + len(text.encode()) for key, text in model.metadata_props.items())
    items["graph"] = size - items.total()
    return dict(items.most_common())


def _item(value: ir.Value) -> str | None:
    if value.shape is not None and value.shape.rank() == 0:
        return "activations"
    if value.dtype == ir.DataType.INT32:
        return "biases"
    readers = {(usage.node.op_type, usage.idx) for usage in value.uses()}
    if value.dtype == ir.DataType.FLOAT:
        readers.discard(("Sub", 1))  # from pixels, by the image's normalisation
    return next((item for reader, item in _ITEMS.items() if reader in readers), None)
