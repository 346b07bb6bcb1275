"""Measures the latency of networks on ONNX Runtime's CPU kernels: float32, its own INT8, ours, and OpenVINO's.

    python benchmarks/latency/run.py                                  # all networks below
    python benchmarks/latency/run.py torchvision:resnet18 timm:mobilenetv3_large_100 --batch 1 --threads 1
    python benchmarks/latency/run.py --openvino ~/openvino/bin/python

README.md beside this file says what is compared, and how. Rows go into results.csv; table.py makes tables of them.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from measure import OthersCores, Ratio, interleaved, onnxruntime_model, session_options, speed
from models import IMAGES, OURS, STATIC, TORCH, File, Made, make
from numpy.typing import NDArray
from results import RESULTS, Row, write

HERE = Path(__file__).parent
NETWORKS = [
    f"torchvision:{name}"
    for name in (
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "shufflenet_v2_x1_0",
        "densenet121",
        "googlenet",
        "squeezenet1_1",
        "regnet_y_400mf",
        "mnasnet1_0",
    )
]
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
INTEGER_LAYERS = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger")
FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
QUIET_LOAD = 0.5
QUIET_CORES = 0.1
FLOAT32 = "float32"
OPENVINO = ("OpenVINO float32", "OpenVINO NNCF INT8")  # as openvino_nncf.py names them
Times = Mapping[str, NDArray[np.float64]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="torchvision:NAME or timm:NAME")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="1 to 8")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--profile", nargs="+", default=["onnxruntime"], help="target profiles of ours, compared")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60, help="per network, batch and threads; 15 rounds at least")
    parser.add_argument("--openvino", type=Path, help="a Python that has openvino, nncf and onnxruntime")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine all the same")
    args = parser.parse_args()

    load = os.getloadavg()[0]
    if load > QUIET_LOAD and not args.busy:
        print(f"The load average is {load:.2f}: wait until it is below {QUIET_LOAD}, or try things out with --busy.")
        return 2
    machine = conditions(load)
    print(f"{machine['cpu']}; {machine['versions']}; load {machine['load']}", flush=True)
    failed = []
    for network in args.networks:
        try:
            measure_network(network, args, machine)
        except Exception:  # the other networks are still measured
            traceback.print_exc()
            failed.append(network)
    if failed:
        print(f"Not measured: {', '.join(failed)}.")
    return 1 if failed else 0


def measure_network(network: str, args: argparse.Namespace, machine: Row) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        made = make(network, args.profile, folder)
        print(f"{network}: files made in {time.perf_counter() - start:.0f} s", flush=True)
        for why in sorted(set(made.missing.values())):
            print(f"  not made: {why}", flush=True)
        for batch in args.batch:
            for threads in args.threads:
                common = machine | {
                    "network": network,
                    "batch": str(batch),
                    "threads": str(threads),
                    "input_size": str(made.input_shape[-1]),
                }
                rows = onnxruntime_rows(made, folder, batch, threads, args)
                if args.openvino:
                    rows += openvino_rows(folder, batch, threads, args)
                write([common | row for row in rows], args.results)
                show(rows, batch, threads)


def onnxruntime_rows(made: Made, folder: Path, batch: int, threads: int, args: argparse.Namespace) -> list[Row]:
    images = np.load(folder / IMAGES)[:batch]
    runs = {file.path.as_posix(): onnxruntime_model(file.path, images, threads) for file in made.files}
    with OthersCores() as others:
        by_path = interleaved(runs, args.rounds, args.seconds, threads)
    times = {(file.model, file.profile): by_path[file.path.as_posix()] for file in made.files}
    # The float32 to beat is the faster of the two.
    float32 = min((times[key] for key in ((TORCH, ""), (OURS, "")) if key in times), key=np.median)
    rows = []
    for file in made.files:
        own = times[file.model, file.profile]
        note = "the float32 compared with" if own is float32 else ""
        rows.append(
            {"model": file.model, "profile": file.profile, "note": note, "others_cores": f"{others.mean:.2f}"}
            | figures(own, float32, times[STATIC, ""])
            | kernels(file, folder, batch)
        )
    return rows + [{"model": model, "profile": profile, "note": why} for (model, profile), why in made.missing.items()]


def openvino_rows(folder: Path, batch: int, threads: int, args: argparse.Namespace) -> list[Row]:
    """From a loop in a process of its own, compared with the float32 and quantize_static of that loop."""
    out = folder / "times.npz"
    options = {"batch": batch, "threads": threads, "rounds": args.rounds, "seconds": args.seconds, "out": out}
    command = [
        args.openvino,
        HERE / "openvino_nncf.py",
        folder,
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr[-2000:])
        why = result.stderr.strip().splitlines()[-1]
        return [{"model": model, "profile": "", "note": why} for model in OPENVINO]
    with np.load(out) as kept:
        times = {name: kept[name] for name in kept.files if not name.startswith("_")}
        common = {"profile": "", "versions": str(kept["_versions"]), "others_cores": f"{float(kept['_others']):.2f}"}
    note = f"{FLOAT32} beside it: {np.median(times[FLOAT32]):.3f} ms, {STATIC}: {np.median(times[STATIC]):.3f} ms"
    return [
        common | {"model": name, "note": note} | figures(own, times[FLOAT32], times[STATIC])
        for name, own in times.items()
        if name in OPENVINO
    ]


def figures(own: NDArray[np.float64], float32: NDArray[np.float64], static: NDArray[np.float64]) -> Row:
    row = {"rounds": str(len(own)), "median_ms": f"{np.median(own):.4f}"}
    for name, baseline in (("vs_float32", float32), ("vs_static", static)):
        if own is not baseline:
            ratio: Ratio = speed(own, baseline)
            row |= {name: f"{ratio.value:.4f}", f"{name}_low": f"{ratio.low:.4f}", f"{name}_high": f"{ratio.high:.4f}"}
    return row


def kernels(file: File, folder: Path, batch: int) -> Row:
    """Of the optimised graph."""
    optimized = folder / "optimized.onnx"
    options = session_options(batch, threads=1)
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(file.path), options)
    operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    return {
        "integer_layers": str(sum(operators[op] for op in INTEGER_LAYERS)),
        "float_layers": str(sum(operators[op] for op in FLOAT_LAYERS)),
        "transposes": str(operators["Transpose"]),
    }


def conditions(load: float) -> Row:
    """Where and when it is measured."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\w+", text))
    known = " ".join(flag for flag in FLAGS if flag in flags)
    packages = ", ".join(f"{package} {version(package)}" for package in ("onnxruntime", "torch"))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return {
        "cpu": f"{name.group(1) if name else platform.machine()} ({os.cpu_count()} cores, {known})",
        "load": f"{load:.2f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit.stdout.strip(),
        "versions": f"{packages}, Python {platform.python_version()}",
    }


def show(rows: list[Row], batch: int, threads: int) -> None:
    print(f"  batch {batch}, {threads} thread{'s' * (threads > 1)}")
    for row in rows:
        if "median_ms" in row:
            print(
                f"    {row['model']:22} {row['profile']:14} {row['median_ms']:>10} ms"
                f"  x float32 {row.get('vs_float32', '-'):>7}  x quantize_static {row.get('vs_static', '-'):>7}"
            )
    if max(float(row.get("others_cores") or 0) for row in rows) > QUIET_CORES:
        print("    OTHER PROCESSES WERE BUSY MEANWHILE: do not publish this.")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
