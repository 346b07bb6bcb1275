"""The limits that integers keep for the runtimes' sake. Imports no torch: the linter knows them too."""

from intraq_deploy.quantization.scheme import INT16_MAX

LARGEST_BIAS = 1 << 24
"""The bound of biases: integers below it are exact in float32, in which some runtimes hold them."""


def largest_weight_beside(stored: int) -> int:
    """The greatest |weight code| whose products with unsigned inputs up to `stored` can be added, two by two, in 16
    bits: 2 stored |weight| <= 32,767."""
    return INT16_MAX // (2 * max(stored, 1))
