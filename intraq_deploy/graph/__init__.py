"""The traced network: a closed set of operators, shared by quantization, the Program and every target."""

from intraq_deploy.graph.graph import BatchNorm, Graph, Node, Weights
from intraq_deploy.graph.trace import trace

__all__ = ["BatchNorm", "Graph", "Node", "Weights", "trace"]
