"""The check of any ONNX file against a target's rules."""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from pydantic import BaseModel, TypeAdapter

from intraq_deploy.errors import DataError
from intraq_deploy.pipeline.targets import choose_one
from intraq_deploy.targets.onnx.findings import LintFinding
from intraq_deploy.targets.onnx.lint import lint as broken_rules
from intraq_deploy.targets.profile import TargetProfile, load_profile


class LintReport(BaseModel):
    """The findings in one file, for one target."""

    file: str
    target: str
    findings: list[LintFinding]

    def __repr__(self) -> str:
        return f"LintReport({self.summary})"

    __str__ = __repr__

    @property
    def summary(self) -> str:
        """How many findings there are of each kind, for people."""
        return (
            f"{self.file} for {self.target}: {self.refused} findings that it refuses or computes wrongly, "
            f"{len(self.findings) - self.refused} that cost speed"
        )

    @property
    def refused(self) -> int:
        """Number of findings that the target would refuse or compute wrongly."""
        return sum(finding.refused for finding in self.findings)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return self.model_dump_json(indent=2)


def list_json(reports: list[LintReport]) -> str:
    """Returns the reports for several targets as JSON."""
    return TypeAdapter(list[LintReport]).dump_json(reports, indent=2).decode()


def lint(path: str | Path, *, target: str | Path) -> LintReport:
    """Checks any ONNX file against a target's rules, without torch: `.findings` names each layer that the target would
    refuse, compute wrongly or leave in float, and `.refused` counts those that are refused or wrong.

    target: a name, or the path of your own. Raises UsageError for an unknown one, and for a device of several targets,
    DataError for a file that is no ONNX model.
    """
    return lint_file(Path(path), *choose_one(target))


def lint_file(path: Path, target: str, own: Iterable[TargetProfile] = ()) -> LintReport:
    """Checks an ONNX file. own: a person's own targets, beside the built-in ones.

    Raises UsageError for an unknown target, DataError for a file that is no ONNX model.
    """
    profile = load_profile(target, own)
    try:
        model = ir.load(path)
    except Exception as error:  # by its name a file may be in one of several formats, whose parsers have their own
        detail = getattr(error, "strerror", None) or "it is not an ONNX model"
        raise DataError(f"{path} cannot be read ({detail}): give an ONNX file.") from error
    if not len(model.graph):
        raise DataError(f"{path} holds no operators: give an ONNX model.")
    try:
        onnx.checker.check_model(path)
        findings = broken_rules(model, profile)
    except onnx.checker.ValidationError as error:
        raise DataError(f"{path} is no valid ONNX model ({str(error).splitlines()[0]}): export it again.") from error
    except FileNotFoundError as error:
        raise DataError(
            f"{path} keeps data in {error.filename}, which is not there: put it beside the model."
        ) from error
    return LintReport(file=str(path), target=target, findings=findings)
