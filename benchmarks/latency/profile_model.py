"""Where a model's time goes in ONNX Runtime, and what its optimised graph consists of.

    python benchmarks/latency/profile_model.py torchvision:mobilenet_v2 --model W4A4
    python benchmarks/latency/profile_model.py model.onnx --batch 8 --threads 2

Profiling adds a little to every node, so compare shares, not sums; run.py measures whole models.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from measure import session_options
from models import make

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="an ONNX file, or torchvision:NAME or timm:NAME")
    parser.add_argument("--model", nargs="+", default=["W4A4"], help="of a network: which, as run.py names them")
    parser.add_argument("--profile", default="onnxruntime", help="of a network: the target profile of ours")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--top", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if Path(args.source).is_file():
            show(args.source, Path(args.source), folder, args)
            return
        made = make(args.source, [args.profile], folder)
        for model in args.model:
            paths = [file.path for file in made.files if file.model == model]
            if not paths:
                print(f"{args.source} has no {model}: {sorted(set(made.missing.values()))}")
            for path in paths:
                show(f"{args.source} {model}", path, folder, args)


def show(title: str, path: Path, folder: Path, args: argparse.Namespace) -> None:
    events, operators = profile(path, folder, args.batch, args.threads, args.runs)
    total = sum(time for _, _, _, time in events)
    print(f"\n{title}: {total / args.runs / 1e3:.3f} ms in nodes, batch {args.batch}, {args.threads} threads")
    print(f"{'ms':>9} {'share':>7} {'nodes':>6}  operator")
    for op, time in _sums((op, time) for op, _, _, time in events):
        print(f"{time / args.runs / 1e3:9.3f} {time / total:7.1%} {operators[op]:6}  {op}")
    print(f"{'ms':>9} {'share':>7}  node")
    for (name, op, shapes), time in _sums(((name, op, shapes), time) for op, name, shapes, time in events)[: args.top]:
        print(f"{time / args.runs / 1e3:9.3f} {time / total:7.1%}  {op} {name} {shapes}")


def profile(
    path: Path, folder: Path, batch: int, threads: int, runs: int
) -> tuple[list[tuple[str, str, str, float]], Counter[str]]:
    """(operator, node, shapes, microseconds) of every node that ran, and the optimised graph's operators.

    Of `runs` runs after the warm-up.
    """
    options = session_options(batch, threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(str(path), options)
    image = session.get_inputs()[0]
    images = np.random.default_rng(0).standard_normal((batch, *image.shape[1:]), dtype=np.float32)
    for _ in range(WARM_UP + runs):
        session.run(None, {image.name: images})
    events = json.loads(Path(session.end_profiling()).read_text())
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")
    nodes = [
        (event["args"]["op_name"], event["name"].removesuffix("_kernel_time"), _shapes(event), float(event["dur"]))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begins[WARM_UP]
    ]
    return nodes, Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def _shapes(event: dict[str, Any]) -> str:
    def text(key: str) -> str:
        return ", ".join("x".join(map(str, shape)) for entry in event["args"][key] for shape in entry.values())

    return f"[{text('input_type_shape')}] -> [{text('output_type_shape')}]"


def _sums(pairs: Iterable[tuple[Any, float]]) -> Sequence[tuple[Any, float]]:
    """Summed by key, the largest first."""
    sums: Counter[Any] = Counter()
    for key, time in pairs:
        sums[key] += time  # type: ignore[assignment]
    return sums.most_common()


if __name__ == "__main__":
    main()
