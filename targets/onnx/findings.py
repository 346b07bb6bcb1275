"""What a rule of the linter has to say."""

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One layer that breaks a rule."""

    rule: str
    layer: str
    what: str
    """One sentence with the values seen and the remedy, without its full stop."""
    source: str
    """Where the rule comes from."""
    refused: bool = True
    """Whether the target refuses the model or computes it wrongly; else it computes it right, and slower."""


def name_of(node: ir.Node) -> str:
    """For people: what exporters name nodes by differs."""
    return node.name or str(node.outputs[0].name)
