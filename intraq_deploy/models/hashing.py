"""Hashes of shapes: equal for equal architectures, whatever their class count and input channels.

An *item* is one tensor's name and shape with its free dimensions masked. A fingerprint is the sum of the
items' 64-bit hashes: it does not depend on the order, and masking one item of a checkpoint changes one term.
A sketch is the k smallest 32-bit hashes of the items without free dimensions; the share of equal values in
two sketches estimates the Jaccard index of the two networks (Broder, "On the resemblance and containment of
documents", 1997).
"""

import hashlib
from collections.abc import Iterable

from intraq_deploy.models.shapes import Shapes, Signature

FINGERPRINT_BITS = 64
SKETCH_SIZE = 64


def item_hash(key: str, shape: Iterable[object]) -> int:
    """The 64-bit hash of a tensor's name and shape, in which masked dimensions are words."""
    text = f"{key}|{','.join(str(size) for size in shape)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BITS // 8).digest())


def item_hashes(shapes: Shapes) -> dict[str, int]:
    """The hash of each tensor's unmasked item, by tensor name."""
    return {key: item_hash(key, shape) for key, shape in shapes.items()}


def fingerprint(shapes: Shapes, hashes: dict[str, int], signature: Signature) -> int:
    """The 64-bit fingerprint of `shapes` under `signature`, whose tensors must all be there.

    hashes: `item_hashes(shapes)`, computed once for many signatures.
    """
    masked: dict[str, list[object]] = {key: list(shapes[key]) for key in signature.names()}
    for frees, word in ((signature.classes, "classes"), (signature.channels, "channels")):
        for free in frees:
            masked[free.key][free.dimension] = f"{free.factor}{word}"

    total = sum(hashes.values())
    for key, shape in masked.items():
        total += item_hash(key, shape) - hashes[key]
    return total % (1 << FINGERPRINT_BITS)


def sketch(hashes: dict[str, int], free: frozenset[str] = frozenset()) -> list[int]:
    """The smallest `SKETCH_SIZE` distinct 32-bit hashes, sorted, of the tensors outside `free`."""
    return sorted({value >> 32 for key, value in hashes.items() if key not in free})[:SKETCH_SIZE]


def overlap(first: list[int], second: list[int]) -> float:
    """The share of items, from 0 to 1, that two networks have in common, estimated from their sketches."""
    union = sorted({*first, *second})[:SKETCH_SIZE]
    common = {*first} & {*second}
    return sum(value in common for value in union) / len(union) if union else 0.0
