"""Times how long commands take to answer: errors, help, and what needs no PyTorch.

    python benchmarks/startup.py [--rounds 5]

Prints a Markdown table of medians beside the limits, and exits 1 where one is passed. Modules are compiled once before,
as installers do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("intraq-deploy")
FINISHED = "RUN"
"""Stands for a finished run."""
COMMANDS = {
    "--help": 0.7,
    "quantize --help": 1.0,
    "inspect missing.pth": 0.7,
    "quantize builtin:resnet20-cifar10 --bits 9": 0.7,
    "quantize builtin:resnet20-cifar10 --target nope": 0.7,
    "validate missing": 0.7,
    "lint missing.onnx --target tensorrt-int8": 0.7,
    "classify missing photo.jpg": 0.7,
    "targets": 1.5,
    "report RUN": 1.5,
    "runs RUN": 1.5,
    "ship RUN --to me@device --dry-run": 1.5,
    "doctor --on nowhere.invalid": 1.5,
    "lint RUN/targets/onnxruntime/model.onnx --target onnxruntime": 1.5,
    "inspect builtin:resnet20-cifar10": 6.0,
}
"""Seconds that each may take on a quiet machine, by its arguments."""


def seconds_of(arguments: list[str], folder: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([PROGRAM, *arguments], cwd=folder, env=environment, capture_output=True, check=False)
    return time.perf_counter() - start


def first_line(folder: Path, environment: dict[str, str]) -> float:
    """Seconds until `quantize` has said something."""
    start = time.perf_counter()
    command = [PROGRAM, "quantize", "builtin:resnet20-cifar10", "--out", folder / "first"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    taken = time.perf_counter() - start
    process.kill()
    process.wait()
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "INTRAQ_DEPLOY_CACHE": "off"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        small = ["quantize", "builtin:resnet20-cifar10", "--method", "ptq", "--images", "8", "--iterations", "2"]
        subprocess.run([PROGRAM, *small, "--out", "RUN"], cwd=folder, env=environment, capture_output=True, check=True)
        passed = []
        print("| command | seconds, median | limit |", "|---|---|---|", sep="\n")
        for text, limit in COMMANDS.items():
            seconds_of(text.split(), folder, environment)
            found = statistics.median(seconds_of(text.split(), folder, environment) for _ in range(rounds))
            print(f"| `{text}` | {found:.2f} | {limit:.1f} |", flush=True)
            passed += [text] * (found > limit)
        found = statistics.median(first_line(folder, environment) for _ in range(rounds))
        print(f"| first line of `quantize` | {found:.2f} | 0.5 |")
        passed += ["the first line"] * (found > 0.5)
    if passed:
        print(f"Above the limit: {'; '.join(passed)}.")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
