"""The findings of the linter's rules."""

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class LintFinding:
    """A layer that breaks a rule of the linter."""

    rule: str
    layer: str
    what: str
    """One sentence with the values seen and the remedy, without its full stop."""
    source: str
    """The source of the rule."""
    refused: bool = True
    """Whether the target refuses the model or computes it wrongly; else it computes it right, and slower."""


def name_of(node: ir.Node) -> str:
    """The name of a node for people: its own, or else its output's, as exporters differ in which they set."""
    return node.name or str(node.outputs[0].name)
