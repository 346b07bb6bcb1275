"""Everything that a page says of one run, read from the run's directory. Needs no torch."""

import base64
import csv
import io
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from intraq_deploy.errors import RunError
from intraq_deploy.files import date_of
from intraq_deploy.pipeline.invocation import quantize_command
from intraq_deploy.pipeline.options import RunConfig, kept_config
from intraq_deploy.pipeline.report import ImagesRecord, LayerRecord, RunReport, read_report
from intraq_deploy.pipeline.rundir import REPORT

FLOAT, TRAINED = "float", "fake_quant"
_MOST_BYTES, _MOST_PIXELS = 300 << 10, 1200
"""A picture of more bytes is made smaller, and a JPEG."""
_SHOWN_CLASSES = 10


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of one part of a stage."""

    part: str
    """Which part: "batch 2/4", "block 1/9"; empty for a stage of one part."""
    points: list[tuple[int, float]]
    """The work done in the stage, and the loss."""


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class of labelled images, before and after."""

    name: str
    images: int
    float_right: float
    """Percent of them that the float network is right on."""
    right: float
    """Percent of them that the deployed network is right on."""

    @property
    def change(self) -> float:
        """Points that the deployed network has more than the float network."""
        return self.right - self.float_right


@dataclass(frozen=True)
class RunFacts:
    """One run, for a page."""

    path: Path
    """The directory to read from."""
    name: str
    """The directory that the page names."""
    report: RunReport
    config: RunConfig

    @property
    def command(self) -> str:
        """The command that makes the run again."""
        return quantize_command(self.config.options)

    @property
    def made(self) -> str:
        """The date of the report, UTC."""
        return date_of(self.path / REPORT)

    @property
    def floats(self) -> list[LayerRecord]:
        """The nodes that compute in float."""
        return [layer for layer in self.report.layers if layer.in_float]

    @property
    def least_signal(self) -> float | None:
        """The smallest signal-to-noise ratio of a node, in decibels."""
        known = [layer.signal_to_noise for layer in self.report.layers if layer.signal_to_noise is not None]
        return min(known, default=None)

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(self.report.seconds.values())

    @cached_property
    def sheet(self) -> str | None:
        """A sheet of the images, as a data URI; None where there is none."""
        stage = "synthesis" if isinstance(self.report.images, ImagesRecord) else "calibration"
        with suppress(OSError, UnidentifiedImageError):
            return _data_uri((self.path / stage / "sheet.png").read_bytes())
        return None

    @cached_property
    def losses(self) -> dict[str, list[Curve]]:
        """The losses by stage, where they were kept."""
        found = {stage: _curves(self.path / stage / "losses.csv") for stage in ("synthesis", "fine-tuning")}
        return {stage: curves for stage, curves in found.items() if curves}

    @cached_property
    def sensitivity(self) -> dict[str, Any] | None:
        """The table of `intraq-deploy sensitivity`; None where it was not measured."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            # As plain values: what checks them comes with torch.
            table: dict[str, Any] = json.loads((self.path / "sensitivity" / "sensitivity.json").read_bytes())
            return table if table["layers"] and table["reference"] else None
        return None

    @cached_property
    def classes(self) -> list[ClassChange]:
        """The classes that have labelled images, in order."""
        record, target = self.report.classes, self.report.target
        if record is None or target not in record.right:
            return []
        names = record.names or [str(index) for index in range(len(record.images))]
        rows = zip(names, record.images, record.right[FLOAT], record.right[target], strict=True)
        return [ClassChange(name, n, 100 * one / n, 100 * other / n) for name, n, one, other in rows if n]

    @property
    def changed_classes(self) -> list[ClassChange]:
        """The classes whose accuracy changed most, the worst first."""
        changed = sorted((each for each in self.classes if each.change), key=lambda each: -abs(each.change))
        return sorted(changed[:_SHOWN_CLASSES], key=lambda each: each.change)


def read_facts(path: Path, name: str | None = None) -> RunFacts:
    """Reads a run. name: the directory to say in place of `path`.

    Raises RunError for what is no run, or has no images yet.
    """
    config = kept_config(path)
    if not (path / REPORT).exists():
        raise RunError(f"{path} holds no finished run: run the same quantize again, which continues.")
    return RunFacts(path, name or str(path), read_report(path / REPORT), config)


def _curves(path: Path) -> list[Curve]:
    """Returns the kept losses of a stage, of each part that has several."""
    parts: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with suppress(OSError, ValueError, KeyError, TypeError):
        for row in csv.DictReader(io.StringIO(path.read_text())):
            parts[row["part"]].append((int(row["done"]), float(row["loss"])))
    return [Curve(part, points) for part, points in parts.items() if len(points) > 1]


def _data_uri(picture: bytes) -> str:
    kind = "png"
    if len(picture) > _MOST_BYTES:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
        smaller = io.BytesIO()
        image.save(smaller, "JPEG", quality=85)
        picture, kind = smaller.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
