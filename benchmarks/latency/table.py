"""Renders results.csv as the tables of docs/latency.md, between that page's markers.

python benchmarks/latency/table.py
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from results import RESULTS, Row, read

PAGE = Path(__file__).parents[2] / "docs" / "latency.md"
BEGIN, END = "<!-- latency: begin -->", "<!-- latency: end -->"
GOALS = {"vs_static": "quantize_static", "vs_float32": "float32"}
_FLOAT32 = "float32 ("


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    before, rest = args.page.read_text().split(BEGIN)
    _, after = rest.split(END)
    args.page.write_text(f"{before}{BEGIN}\n\n{render(read(args.results))}\n{END}{after}")


def render(rows: Sequence[Row]) -> str:
    """Markdown: for each CPU its conditions; for each batch and number of threads the goals, then every network."""
    parts = []
    for cpu in sorted({row["cpu"] for row in rows}):
        own = [row for row in rows if row["cpu"] == cpu]
        parts.append(f"## {cpu}\n\n{_conditions(own)}\n")
        settings = sorted({(int(row["batch"]), int(row["threads"])) for row in own})
        for batch, threads in settings:
            some = [row for row in own if (int(row["batch"]), int(row["threads"])) == (batch, threads)]
            parts.append(f"### Batch {batch}, {threads} thread{'s' * (threads > 1)}\n")
            parts += [f"{_summary(some, column, name)}\n" for column, name in GOALS.items()]
            parts.append(f"{_networks(some)}\n")
        missing = sorted({(row["network"], row["note"]) for row in own if not row["median_ms"]})
        if missing:
            parts.append("Not made:\n\n" + "\n".join(f"* {network}: {why}" for network, why in missing) + "\n")
    return "\n".join(parts)


def verdict(row: Row, column: str) -> str:
    """ "faster", "slower", or "undecided" where the interval holds 1."""
    if float(row[f"{column}_low"]) > 1:
        return "faster"
    return "slower" if float(row[f"{column}_high"]) < 1 else "undecided"


def _conditions(rows: Iterable[Row]) -> str:
    measured = [row for row in rows if row["median_ms"]]
    versions = "; ".join(sorted({row["versions"] for row in measured}))
    commits = ", ".join(sorted({row["commit"] for row in measured}))
    dates = sorted(row["date"][:10] for row in measured)
    if not measured:
        return ""
    return (
        f"{versions}. Commit {commits}, {dates[0]} to {dates[-1]}. Load average before: at most "
        f"{max(float(row['load']) for row in measured):.2f}; other processes kept at most "
        f"{max(float(row['others_cores']) for row in measured):.2f} cores busy meanwhile."
    )


def _summary(rows: Sequence[Row], column: str, name: str) -> str:
    """How many times as fast as `name`, model by model."""
    lines = [f"| against {name} | ratios | faster | undecided | slower |", "|---|---|---|---|---|"]
    compared = sorted((row for row in rows if row[column] and not row["model"].startswith(_FLOAT32)), key=_model)
    for model, group in groupby(compared, key=_model):
        own = list(group)
        ratios = sorted(float(row[column]) for row in own)
        if model == name:
            continue
        found = {key: [] for key in ("faster", "undecided", "slower")}
        for row in own:
            found[verdict(row, column)].append(_network(row))
        cells = (f"{len(names)}: {', '.join(names)}" if names else "0" for names in found.values())
        lines.append(f"| {model} | {ratios[0]:.2f} to {ratios[-1]:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _networks(rows: Sequence[Row]) -> str:
    """A line for each network; a cell says milliseconds, and how many times as fast as float32."""
    models = sorted({_model(row) for row in rows if row["median_ms"] and not row["model"].startswith(_FLOAT32)})
    lines = [f"| ms (x float32, 95 % interval) | float32 | {' | '.join(models)} |", "|---" * (len(models) + 2) + "|"]
    for network in sorted({_network(row) for row in rows}):
        own = {_model(row): row for row in rows if _network(row) == network and row["median_ms"]}
        base = next((row for row in own.values() if row["model"].startswith(_FLOAT32) and not row["vs_float32"]), None)
        cells = [float(base["median_ms"]) if base else None, *(own.get(model) for model in models)]
        lines.append(f"| {network} | {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def _cell(value: Row | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}"
    ratio, low, high = (float(value[f"vs_float32{end}"]) for end in ("", "_low", "_high"))
    layers = f", {value['float_layers']} float layers" if value["float_layers"] not in ("", "0") else ""
    return f"{float(value['median_ms']):.2f} ({ratio:.2f}, {low:.2f} to {high:.2f}{layers})"


def _model(row: Row) -> str:
    return f"{row['model']} {row['profile']}".strip()


def _network(row: Row) -> str:
    size = f" {row['input_size']}" if row["input_size"] != "224" else ""
    return row["network"].removeprefix("torchvision:") + size


if __name__ == "__main__":
    main()
