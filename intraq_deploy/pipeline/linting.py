"""Any ONNX file against a target's rules."""

from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError
from pydantic import BaseModel

from intraq_deploy.errors import DataError
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.profile import load_profile


class FindingRecord(BaseModel):
    """One layer that breaks a rule (targets.onnx.findings)."""

    rule: str
    layer: str
    what: str
    source: str
    refused: bool


class LintReport(BaseModel):
    """Of one file."""

    file: str
    target: str
    findings: list[FindingRecord]

    @property
    def refused(self) -> int:
        """How many findings the target would refuse or compute wrongly."""
        return sum(finding.refused for finding in self.findings)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)


def lint_file(path: Path, target: str) -> LintReport:
    """Raises UsageError for an unknown target, DataError for a file that is no ONNX model."""
    profile = load_profile(target)
    try:
        model = ir.load(path)
    except (OSError, DecodeError, ValueError) as error:
        detail = getattr(error, "strerror", None) or "it is not an ONNX model"
        raise DataError(f"{path} cannot be read ({detail}): give an ONNX file.") from error
    if not len(model.graph):
        raise DataError(f"{path} holds no operators: give an ONNX model.")
    findings = [FindingRecord(**asdict(finding)) for finding in lint(model, profile)]
    return LintReport(file=str(path), target=target, findings=findings)
