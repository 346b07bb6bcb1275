"""How often a finished run's fake-quant module and its Program agree: the table in docs/exactness.md.

    python benchmarks/agreement.py RUN IMAGES.npz

Codes, layer by layer from identical input codes and end to end, on the first images; predictions on all of them.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from intraq_deploy.data.loading import load_labelled
from intraq_deploy.pipeline.finished import finished_run
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.program import arithmetic
from intraq_deploy.program.reference import Reference

BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("images", help="what --eval takes")
    parser.add_argument("--codes", type=int, default=1000, help="over how many images codes are compared")
    args = parser.parse_args()

    run = finished_run(Opening(args.run), Silent())
    student, program = run.student, run.program
    reference = Reference(program)
    nodes = [node for node in program.graph.nodes[1:] if node.name in program.grids]
    images = same = compared = alone = behind = 0
    with torch.no_grad():
        for batch, _ in load_labelled(args.images, run.run.model).batches(BATCH):
            codes: dict[str, Tensor] = {}
            predicted = reference.run(batch, codes.__setitem__).argmax(1)
            looked_at = nodes if images < args.codes else []
            logits, tensors = student.features(batch, [node.name for node in looked_at])
            same += int((logits.argmax(1) == predicted).sum())
            for node in looked_at:
                grid, expected = program.grids[node.name], codes[node.name]
                values = [arithmetic.dequantize(codes[name], program.grids[name]) for name in node.inputs]
                found = arithmetic.quantize(student.evaluate(node, values), grid)
                compared += expected.numel()
                alone += int(torch.count_nonzero(found - expected))
                behind += int(torch.count_nonzero(arithmetic.quantize(tensors[node.name], grid) - expected))
            images += len(batch)
    print(
        f"{alone:,} of {compared:,} codes differ from identical ones, {behind / compared:.2%} end to end; "
        f"{same:,} of {images:,} predictions are the same"
    )


if __name__ == "__main__":
    main()
