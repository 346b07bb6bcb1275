"""How often a finished run's fake-quant module and its Program agree: the table in docs/exactness.md.

    python benchmarks/agreement.py RUN IMAGES.npz

Codes, layer by layer from identical input codes, on the first 1,000 images; answers on all of them.
"""

import argparse
from pathlib import Path

import torch

from intraq_deploy.data import load_labelled
from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.quantize import finished_run
from intraq_deploy.program import Reference, arithmetic, load_program

BATCH = 200
CODES_FROM = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("images", help="what --eval takes")
    args = parser.parse_args()

    run, _ = finished_run(args.run, False, Silent())
    student, _ = stages.kept_student(run, args.run / stages.FINE_TUNING)
    program = load_program(args.run / stages.FREEZING)
    reference = Reference(program)
    images = same = compared = differing = 0
    with torch.no_grad():
        for batch, _ in load_labelled(args.images, run.model).batches(BATCH):
            codes = {}
            logits = reference.run(batch, codes.__setitem__)
            if images < CODES_FROM:
                for node in program.graph.nodes[1:]:
                    if node.name in program.grids:
                        values = [arithmetic.dequantize(codes[name], program.grids[name]) for name in node.inputs]
                        found = arithmetic.quantize(student.evaluate(node, values), program.grids[node.name])
                        compared += found.numel()
                        differing += int(torch.count_nonzero(found - codes[node.name]))
            same += int((student(batch).argmax(1) == logits.argmax(1)).sum())
            images += len(batch)
    print(f"{differing:,} of {compared:,} codes differ; {same:,} of {images:,} answers are the same")


if __name__ == "__main__":
    main()
