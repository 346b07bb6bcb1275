"""torch.export's calls become the closed set of operators: one file per kind of call."""

from intraq_deploy.graph.aten import elementwise, layers, padding, pooling, shapes, transposed  # noqa: F401  # they register themselves
from intraq_deploy.graph.aten.translator import Translator

__all__ = ["Translator"]
