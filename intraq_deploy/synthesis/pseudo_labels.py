"""A person's own images as the value that later stages take, with pseudo-labels."""

import torch
from torch import Tensor

from intraq_deploy.models.model import Model
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

_BATCH = 32


def pseudo_labelled(model: Model, images: Tensor, device: torch.device) -> SyntheticSet:
    """Labels images with the classes that the network predicts; targets are its probabilities.

    images: float32 [N, C, H, W], normalised, kept as they are.
    """
    network = model.module_on(device)
    with torch.no_grad():
        batches = (part.to(device).to(memory_format=torch.channels_last) for part in images.split(_BATCH))
        probabilities = torch.cat([network(part).softmax(1).cpu() for part in batches])
    targets, labels = probabilities.max(1)
    return SyntheticSet(images, labels, targets)
