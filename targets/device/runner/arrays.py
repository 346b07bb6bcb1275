"""numpy, where it is installed: `doctor` works without it."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    np = numpy
    Array = numpy.ndarray[Any, numpy.dtype[Any]]
else:
    try:
        np = importlib.import_module("numpy")
    except ImportError:
        np = None
    Array = Any
HAS_NUMPY = np is not None
"""Whether numpy can be imported; where it is False, only `doctor` runs."""
