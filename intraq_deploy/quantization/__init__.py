"""Quantizers and where they go: schemes, placement, ranges, the fake-quant module."""
