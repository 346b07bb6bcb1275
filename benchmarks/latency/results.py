"""The results file: one row per network, batch, threads, model, profile and CPU."""

import csv
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")
KEY = ("network", "batch", "threads", "model", "profile", "cpu")
COLUMNS = (
    *KEY,
    "input_size",
    "rounds",
    "median_ms",
    # How many times as fast as float32 and as quantize_static, with the 95 % interval: above 1 is faster.
    *("vs_float32", "vs_float32_low", "vs_float32_high"),
    *("vs_static", "vs_static_low", "vs_static_high"),
    # Of the optimised graph.
    *("integer_layers", "float_layers", "transposes"),
    "note",
    # Cores that other processes kept busy while it was measured, and the load average before anything ran.
    *("others_cores", "load", "date", "commit", "versions"),
)
Row = dict[str, str]


def read(path: Path = RESULTS) -> list[Row]:
    """All rows; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Adds rows to the file; they replace rows of the same KEY."""
    by_key = {tuple(row[column] for column in KEY): row for row in [*read(path), *rows]}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_key.values())
