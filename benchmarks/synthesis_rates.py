"""How near images come to the stored statistics in a short budget, by learning rate: the table in docs/method.md.

    python benchmarks/synthesis_rates.py

The built-in ResNet-20, 128 images, 120 iterations, seed 0; labelled images are not read. About 40 s per rate on two
CPU cores.
"""

import torch

from intraq_deploy import load_model
from intraq_deploy.synthesis.make import make_images, probe_of
from intraq_deploy.synthesis.quality import measure_quality
from intraq_deploy.synthesis.recipe import SynthesisRecipe

RATES = (0.5, 0.1, 0.05, 0.02)


def main() -> None:
    model = load_model("builtin:resnet20-cifar10")
    probe = probe_of(model, torch.device("cpu"))
    for rate in RATES:
        images = make_images(model, probe, SynthesisRecipe(images=128, iterations=120, learning_rate=rate), 0)
        print(f"learning rate {rate}: BN distance {measure_quality(probe, images).bn_distance:.2f}", flush=True)


if __name__ == "__main__":
    main()
