"""Makes the zoo's table of docs/networks.md: which classifiers of torchvision and timm can be quantized, by family.

Every architecture is built with random weights and inspected: its graph is read and compared with the network. The
smallest of each family that can be read is quantized (W8A8, ranges only, from noise) and compared integer by integer
in ONNX Runtime. Images have 64 pixels, or the network's own size where it takes no other. Finished rows are kept in
zoo.csv beside this file, so an interrupted run continues; two processes may share the work.

    python benchmarks/zoo.py [--families] [--part N OF]
"""

import argparse
import collections
import csv
import importlib
import sys
from pathlib import Path

import timm
import torch
import torchvision
from parity import quantized_from_noise
from torch import nn

from intraq_deploy.errors import IntraqError
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.run import machine

sys.path.append(str(Path(__file__).parent / "latency"))
from models import realistic

TABLE = Path(__file__).with_name("zoo.csv")
PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
BEGIN, END = "<!-- begin: made by benchmarks/zoo.py -->", "<!-- end: made by benchmarks/zoo.py -->"
COLUMNS = (
    "network", "family", "parameters", "pixels", "batch_norms", "refused", "quantized", "compared", "mismatched",
    "within_tolerance", "toleranced", "machine",
)  # fmt: skip
PIXELS = 64
CLASSES = 10
MOST_PARAMETERS = 120e6
"""Larger networks are not inspected: they differ from their families' smaller ones in widths and numbers of blocks."""


def families():
    """The names of the classifiers by family, which is the file that they are built in."""
    found = collections.defaultdict(list)
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found[f"torchvision {module}"].append(f"torchvision:{name}")
    for name in timm.list_models():
        found[f"timm {timm.model_entrypoint(name).__module__.rpartition('.')[2]}"].append(f"timm:{name}")
    return dict(sorted(found.items()))


def build(spec):
    """The network with random weights."""
    library, _, name = spec.partition(":")
    if library == "torchvision":
        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, num_classes=CLASSES, **options)
    return timm.create_model(name, num_classes=CLASSES)


def parameters(spec):
    """The number of parameters, without their memory."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build(spec).parameters())
    except Exception:  # a constructor that computes with values, in its own way
        return sum(parameter.numel() for parameter in build(spec).parameters())


def usable(module, spec):
    """The smaller of 64 pixels and the network's own size at which it runs."""
    own = 224 if spec.startswith("torchvision") else module.default_cfg["input_size"][-1]
    for pixels in (PIXELS, own, 299):
        try:
            with torch.no_grad():
                module(torch.zeros(2, 3, pixels, pixels))
        except Exception:  # a forward may refuse a size in any way
            continue
        return pixels
    return own


def inspect(spec, family):
    """One row: the network is read, or the reason why not."""
    torch.manual_seed(0)
    module = build(spec).eval()
    pixels = usable(module, spec)
    row = {
        "network": spec, "family": family, "parameters": sum(p.numel() for p in module.parameters()), "pixels": pixels,
        "batch_norms": sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in module.modules()),
        "machine": machine(),
    }  # fmt: skip
    try:
        trace(module, (3, pixels, pixels))
    except IntraqError as error:
        row["refused"] = str(error)
    return row


def quantize(spec, pixels):
    """The columns of a quantized network: how many integers were compared, and how many differ."""
    torch.manual_seed(0)
    module = build(spec).eval()
    shape = (3, pixels, pixels)
    if any(isinstance(each, nn.BatchNorm2d) for each in module.modules()):
        realistic(module, shape)
    program, parity = quantized_from_noise(module.eval(), shape, 8, 16)
    allowed = sum(each.mismatched for each in parity.tensors if each.tolerance is not None and each.passes)
    return {
        "quantized": "yes", "compared": parity.compared, "mismatched": parity.mismatched - allowed,
        "within_tolerance": allowed,
        "toleranced": "; ".join(sorted({each.reason for each in program.tolerances.values()})),
    }  # fmt: skip


def read():
    """The finished rows by network."""
    if not TABLE.exists():
        return {}
    with TABLE.open() as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def add(row):
    """Appends a row; a later one of the same network counts."""
    new = not TABLE.exists()
    with TABLE.open("a") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def work(families_only, part, of):
    """Makes the missing rows: of each family the smallest that can be read, then all others up to a size."""
    for family, names in list(families().items())[part::of]:
        sized = sorted((parameters(name), name) for name in names)
        others = [name for count, name in sized if count <= MOST_PARAMETERS or name == sized[0][1]]
        done = any(row["family"] == family and row["quantized"] == "yes" for row in read().values())
        for name in others[:1] if families_only else others:
            row = read().get(name) or inspect(name, family)
            if not done and not row.get("refused") and not row.get("quantized"):
                try:
                    row = row | quantize(name, int(row["pixels"]))
                except IntraqError as error:
                    row = row | {"quantized": f"no: {error}"}
                done = row["quantized"] == "yes"
            if row != read().get(name):
                add(row)
                print(name, row.get("refused") or row.get("quantized") or "inspected", flush=True)


def table():
    """The page's table, one row for each family."""
    rows = collections.defaultdict(list)
    for row in read().values():
        rows[row["family"]].append(row)
    lines = [
        "| family | inspected | can be quantized | quantized | integers | differing | within tolerances | toleranced, "
        "or why not |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, found in sorted(rows.items()):
        readable = [row for row in found if not row["refused"]]
        done = next((row for row in found if row["quantized"] == "yes"), None)
        why = (
            done["toleranced"]
            if done
            else min(row["refused"] or row["quantized"] for row in found).split(", which is")[0]
        )
        cells = (
            family, len(found), len(readable), done["network"].partition(":")[2] if done else "",
            f"{int(done['compared']):,}" if done else "", done["mismatched"] if done else "",
            (done["within_tolerance"] or 0) if done and why else "", why,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines, rows


def write():
    """Puts the table and its counts into the page."""
    lines, rows = table()
    every = [row for found in rows.values() for row in found]
    normed = [row for row in every if int(row["batch_norms"])]
    quantized = [row for row in every if row["quantized"] == "yes"]
    exact = [row for row in quantized if not row["toleranced"]]
    differing, within, compared = (
        sum(int(row[name] or 0) for row in quantized) for name in ("mismatched", "within_tolerance", "compared")
    )
    count = (
        f"{len(every):,} of {sum(map(len, families().values())):,} architectures, in {len(rows)} families, were "
        f"inspected, {len(normed)} of them with batch norm: {sum(not row['refused'] for row in every)} can be "
        f"quantized, {sum(not row['refused'] for row in normed)} of those with batch norm. Networks of more than "
        f"{MOST_PARAMETERS / 1e6:.0f} million parameters were left out. One of each family that can be quantized was: "
        f"{len(exact)} are exact, {len(quantized) - len(exact)} have toleranced tensors. Of {compared:,} integers "
        f"{differing} differ where they must not, and {within} in toleranced tensors."
    )
    by_family = collections.Counter(row["family"] for row in normed if row["refused"])
    refused = ", ".join(f"{family} {number}" for family, number in sorted(by_family.items()))
    refused = f"With batch norm and refused are {by_family.total()}: {refused}."
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    onnxruntime = importlib.import_module("onnxruntime").__version__
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    made = "\n".join(
        [
            BEGIN,
            "",
            count,
            "",
            refused,
            "",
            *lines,
            "",
            f"{machine()}; {versions}, onnxruntime {onnxruntime}; W8A8.",
            "",
            END,
        ]
    )
    PAGE.write_text(before + made + after)


def main():
    """Makes the missing rows, and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", action="store_true", help="only the smallest of each family")
    parser.add_argument(
        "--part", nargs=2, type=int, default=(0, 1), metavar=("N", "OF"), help="a share of the families"
    )
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        work(options.families, *options.part)
    write()


if __name__ == "__main__":
    main()
