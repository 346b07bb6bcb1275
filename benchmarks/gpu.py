"""What this machine's GPU and TensorRT make of finished runs: builds, checks and times every engine, one row for each.

    python benchmarks/gpu.py RUN [RUN ...] [--out gpu.csv]

For each run and each target that has engines here (a run made with --target tensorrt-int8 serves all but TensorRT 8's).
A row has the types in which layers multiply, the integers that differ from the reference and those that rounding does
not explain, and medians at batch 1 of the engine and of the float network in float16. What is there already is not
built again, but checked and timed again. A target that cannot be built here is said and left out. Exits 3 where a gate
fails.
"""

import argparse
import csv
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from intraq_deploy.errors import GateError, IntraqError
from intraq_deploy.pipeline.build import build_run
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.report import RunReport
from intraq_deploy.pipeline.sentences import failure_sentence

TARGETS = ("tensorrt-int8", "tensorrt8-int8", "tensorrt-int4", "onnxruntime-tensorrt")
COLUMNS = (
    "network", "bits", "scheme", "target", "gpu", "compiler", "layers", "integers", "differing", "beyond_rounding",
    "near_ties", "milliseconds", "float16_milliseconds", "onnx_bytes", "engine_bytes", "failures", "torch", "date",
)  # fmt: skip
"""Medians in milliseconds at batch 1, transfers apart."""


def row(report: RunReport, target: str) -> dict[str, object]:
    """One line of the table; what an engine does not say is empty."""
    engine, parity = report.engines[target], report.parity.get(target)
    run = parity is not None and parity.ran_by is not None
    return {
        "network": report.model.architecture,
        "bits": report.label,
        "scheme": report.scheme,
        "target": target,
        "gpu": engine.gpu,
        "compiler": engine.compiler,
        "layers": ", ".join(f"{count} {kind}" for kind, count in Counter(engine.layers.values()).most_common()),
        "integers": parity.integers_compared if run else "",
        "differing": parity.integers_mismatched if run else "",
        "beyond_rounding": parity.exact_mismatched if run else "",
        "near_ties": parity.near_ties if run else "",
        "milliseconds": engine.milliseconds,
        "float16_milliseconds": engine.float16_milliseconds,
        "onnx_bytes": report.artifacts[target].bytes,
        "engine_bytes": engine.bytes,
        "failures": " ".join(map(failure_sentence, engine.failures)),
        "torch": report.versions.get("torch"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("gpu.csv"))
    args = parser.parse_args(arguments)
    failed = made = 0
    for path in args.runs:
        for target in TARGETS:
            try:
                report = build_run(Opening(path), (target,), Silent())
            except IntraqError as error:
                print(f"{path}, {target}: {error}", file=sys.stderr)
                continue
            new = not args.out.exists()
            with args.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row(report, target))
            made += 1
            failed += bool(report.engines[target].failures)
    print(f"{made} rows in {args.out}, {failed} of them of engines that fail their gate.")
    if not made:
        return IntraqError.exit_code
    return GateError.exit_code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
