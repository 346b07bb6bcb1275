"""TensorRT's calibration cache: the scale of every tensor of a float network, as text.

The first line names a version and the calibrator, every other one a tensor and its scale s in real values per INT8
step, as the 8 hexadecimal digits of a big-endian float32; TensorRT computes clip(rint(x / s), -128, 127):

    TRT-8602-EntropyCalibration2
    layer1.conv1: 3c010a14

NVIDIA does not specify the format. Known of it, and from where:

* Scales are the greatest magnitude over 127: the README of TensorRT's sampleINT8, which shows such a file.
* trtexec (readScalesFromCalibrationCache in TensorRT's samples/common/sampleEngines.cpp) skips lines without a colon,
  the first among them, splits at the last colon, so that a name may hold others, and reads 8 digits after ": ".
* The version: the same README has calibration skipped where the file fits calibrator and version, and NVIDIA/TensorRT
  issue 1378 says that a file which does not fit is passed over. How strictly versions are compared is documented
  nowhere. NVIDIA's own writer of such files (qdq-translator of Deep-Learning-Accelerator-SW) says 8600 unless told
  otherwise, and several public ones say "8XXX", which is no version. Whoever has another release changes that line.
* The entropy calibrator 2 is the one that the DLA requires: IInt8EntropyCalibrator2 in TensorRT's API documentation.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from intraq_deploy.errors import TargetError

_HEADER = re.compile(r"TRT-([0-9]{4,6})-EntropyCalibration2")
_LINE = re.compile(r"(.+): ([0-9a-f]{8})")
_LARGEST = float(2**128 - 2**104)
"""The largest float32."""
_AGAIN = "export the run again"


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """The contents of a calibration cache."""

    version: str
    """The digits in the first line: "8602" for 8.6.2, "100300" for 10.3.0."""
    scales: dict[str, float]
    """The scales by tensor: real values per INT8 step, float32 and positive."""


def version_digits(version: str) -> str:
    """TensorRT's own number for a release: "8602" for "8.6.2", "100300" for "10.3.0".

    Raises TargetError for a version that is not three numbers.
    """
    if not re.fullmatch(r"\d+\.\d{1,2}\.\d{1,2}", version, re.ASCII):
        raise TargetError(f"The calibration cache is for TensorRT {version!r}: give three numbers, as in 8.6.2.")
    major, minor, patch = map(int, version.split("."))
    return str(major * (1000 if major < 10 else 10_000) + minor * 100 + patch)


def write_cache(scales: Mapping[str, float], version: str) -> str:
    """The text of a cache. scales: by tensor, real values per INT8 step. version: of TensorRT, as in "8.6.2".

    Raises TargetError for a name that has no line of its own, and for a scale that is no positive float32.
    """
    lines = [f"TRT-{version_digits(version)}-EntropyCalibration2"]
    for name, scale in scales.items():
        if not name or "\n" in name:
            raise TargetError(f"A calibration cache cannot hold a tensor named {name!r}: give it another name.")
        if not 0 < scale <= _LARGEST or struct.unpack(">f", struct.pack(">f", scale)) != (scale,):
            raise TargetError(f"The scale of {name} is {scale!r}, no positive float32: calibrate it again.")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def read_cache(text: str) -> CalibrationCache:
    """The cache that `write_cache` wrote, bit for bit. Raises TargetError, which names the line, for other text."""
    first, *lines = text.split("\n")
    header = _HEADER.fullmatch(first)
    if header is None:
        raise TargetError(
            f"A calibration cache starts with {first!r} instead of TRT-VERSION-EntropyCalibration2: {_AGAIN}."
        )
    if not text.endswith("\n"):
        raise TargetError(f"A calibration cache ends in {[first, *lines][-1]!r}, without a line break: {_AGAIN}.")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[:-1], 2):
        name, scale = _entry(number, line)
        if name in scales:
            raise TargetError(f"Line {number} of a calibration cache names {name} a second time: {_AGAIN}.")
        scales[name] = scale
    return CalibrationCache(header[1], scales)


def _entry(number: int, line: str) -> tuple[str, float]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise TargetError(
            f"Line {number} of a calibration cache is {line!r} instead of a tensor, a colon and 8 digits: {_AGAIN}."
        )
    scale: float = struct.unpack(">f", bytes.fromhex(found[2]))[0]
    if not math.isfinite(scale) or scale <= 0:
        raise TargetError(
            f"Line {number} of a calibration cache has the scale {scale:g}, not a positive one: {_AGAIN}."
        )
    return found[1], scale
