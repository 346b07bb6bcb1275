"""torch.export's calls become the closed set of operators: one file per kind of call."""

from intraq_deploy.graph.aten import (  # noqa: F401  # they register themselves
    elementwise,
    layers,
    padding,
    pooling,
    products,
    resizing,
    shapes,
    transposed,
)
from intraq_deploy.graph.aten.translator import Translator

__all__ = ["Translator"]
