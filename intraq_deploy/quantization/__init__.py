"""Quantizers and where they go: schemes, placement, ranges, the fake-quant module."""

from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.placement import Placement, place
from intraq_deploy.quantization.ranges import calibrate
from intraq_deploy.quantization.scheme import SCHEMES, Scheme, make_scheme

__all__ = ["SCHEMES", "FakeQuantNetwork", "Placement", "Scheme", "calibrate", "make_scheme", "place"]
