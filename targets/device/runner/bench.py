"""The command `bench`: how long one batch takes, and the device's state beside."""

import math
from pathlib import Path
from typing import Any, Dict, List

from .arrays import np
from .choosing import Choice
from .machine import power_mode, temperatures
from .manifest import Bundle
from .timing import Measured

Json = Dict[str, Any]
"""Values that are printed as JSON."""


def bench(bundle: Bundle, choice: Choice, cache: Path, batch: int, runs: int) -> Json:
    """Times batches of 1 and of `batch`, made of the parity images. Raises Problem where they cannot be run."""
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    images = np.load(str(bundle.path(bundle.manifest["check"]["images"])), allow_pickle=False)
    rows = []
    for size in sorted({1, batch}):
        given = np.concatenate([images] * math.ceil(size / len(images)))[:size]
        rows.append(_row(size, session.measured(given, runs)))
    return {"batches": rows, "power_mode": power_mode(), "temperatures": temperatures()}


def _row(batch: int, found: Measured) -> Json:
    times = {"median_ms": found.median, "p90_ms": found.p90, "p99_ms": found.p99}
    return {
        "batch": batch,
        "runs": found.runs,
        "images_per_second": round(1000 * batch / found.median, 2),
        **{name: None if value is None else round(value, 4) for name, value in times.items()},
        "watts": found.watts,
        "power_samples": found.power_samples,
    }


def bench_lines(where: str, result: Json) -> List[str]:
    """What `bench` prints for a person."""
    lines = [where]
    for row in result["batches"]:
        known = [key for key, value in row.items() if key.endswith("_ms") and value is not None]
        times = ", ".join(f"{key[:-3]} {row[key]:.3f} ms" for key in known)
        power = "".join(f", {rail} {value:.2f} W" for rail, value in row["watts"].items())
        lines.append(f"batch {row['batch']}: {times}, {row['images_per_second']:,.1f} images/s{power}")
    if result["power_mode"] is not None:
        lines.append(f"power mode: {result['power_mode']}")
    if result["temperatures"]:
        lines.append(
            "temperatures: " + ", ".join(f"{name} {value:.1f}" for name, value in result["temperatures"].items())
        )
    return lines
