"""The runs in a folder, and what came of them. Imports no torch."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from intraq_deploy.errors import RunError
from intraq_deploy.files import date_of
from intraq_deploy.pipeline.options import read_config
from intraq_deploy.pipeline.report import RunReport, read_report
from intraq_deploy.pipeline.rundir import CONFIG, REPORT, UNFINISHED


class RunRow(BaseModel):
    """One run directory. What a run does not have, or what cannot be read, is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    status: Literal["unfinished", "unreadable", "synthesized", "quantized", "passed", "failed"]
    """The status of the run. "unfinished": it was interrupted, and its command continues; "unreadable": damaged, or of
    another version."""
    network: str | None = None
    bits: str | None = None
    top1: float | None = None
    """Percent of the labelled images that the first target's file is right on."""
    float_top1: float | None = None
    mismatched: int | None = None
    """Number of integers that differ, over all targets."""
    bytes: int | None = None
    """Bytes of the first target's file."""
    made: str | None = None
    """The date of the report, UTC."""


class RunList(BaseModel):
    """The runs in a folder, in order of their paths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[RunRow]

    def to_json(self) -> str:
        """Returns the list as JSON."""
        return self.model_dump_json(indent=1)


def list_runs(folder: Path) -> RunList:
    """Returns the runs in a folder and in its folders, or the folder's own run. Raises RunError where there is none."""
    found = sorted({file.parent for file in folder.rglob(CONFIG) if file.parent.name != UNFINISHED})
    found += [path.parent for path in folder.rglob(UNFINISHED) if path.parent not in found and path.is_dir()]
    rows = [row for path in sorted(found) if (row := _row(path)) is not None]
    if not rows:
        raise RunError(f"{folder} has no run in it: give the folder that your runs are in.")
    return RunList(runs=rows)


def _row(path: Path) -> RunRow | None:
    """Returns the row of a directory; None where its configuration is another program's."""
    report = path / REPORT
    try:
        if (path / CONFIG).exists():
            read_config(path / CONFIG)
        return _finished(path, read_report(report)) if report.exists() else RunRow(path=str(path), status="unfinished")
    except RunError:
        return RunRow(path=str(path), status="unreadable") if report.exists() else None


def _finished(path: Path, report: RunReport) -> RunRow:
    target = report.target
    accuracy = report.accuracy or {}
    return RunRow(
        path=str(path),
        status=report.status,
        network=report.model.architecture,
        bits=None if report.status == "synthesized" else report.label,
        top1=accuracy.get(target or ""),
        float_top1=accuracy.get("float"),
        mismatched=report.mismatched if report.parity else None,
        bytes=report.artifacts[target].bytes if target in report.artifacts else None,
        made=date_of(path / REPORT),
    )
