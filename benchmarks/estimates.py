"""Compares how long a run says that it will take with how long it takes.

    python benchmarks/estimates.py [NETWORK ...]

NETWORK: the built-in one, or one of torchvision or timm, with random weights and realistic batch norms. Prints a
Markdown table, and exits 1 where the two are more than 1.5 times apart. Run it on a machine that does nothing else.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from intraq_deploy.data.forms import SAMPLE
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.pipeline import quantize
from intraq_deploy.pipeline.options import ModelOptions, make_options
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.run import machine

sys.path.append(str(Path(__file__).parent / "latency"))
from models import realistic

NETWORKS = ("builtin:resnet20-cifar10", "torchvision:resnet18")
FAR = 1.5


def compared(network: str, folder: Path) -> tuple[float, float]:
    """Returns the seconds that a run says it takes, and those that it takes, from when it says so."""
    builtin = network.startswith("builtin:")
    source = network
    if not builtin:
        source = str(folder / "network.pth")
        torch.manual_seed(0)
        module = find_architecture(network).make(1000, 3)
        realistic(module, (3, 224, 224))
        torch.save(module.state_dict(), source)
    options = make_options(
        ModelOptions(source=source, arch=None if builtin else network), eval=SAMPLE if builtin else None
    )
    said: dict[str, float] = {}
    original = quantize.estimate

    def heard(*given, **named):
        said.update(original(*given, **named))
        return dict(said)

    quantize.estimate = heard
    try:
        report, _ = quantize.quantize_run(options, folder / "run", Silent())
    finally:
        quantize.estimate = original
    return sum(said.values()), sum(report.seconds.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    networks = parser.parse_args().networks
    os.environ["INTRAQ_DEPLOY_CACHE"] = "off"
    print(
        f"{machine()}, torch {torch.__version__}\n\n| network | said, s | taken, s | said / taken |\n|---|---|---|---|"
    )
    far = False
    for network in networks:
        with tempfile.TemporaryDirectory() as folder:
            said, taken = compared(network, Path(folder))
        far |= not 1 / FAR <= said / taken <= FAR
        print(f"| {network} | {said:.0f} | {taken:.0f} | {said / taken:.2f} |", flush=True)
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
