"""The reader of a network's batch norms while images are made, from the network or from its graph."""

from collections.abc import Callable
from dataclasses import replace

import torch

from intraq_deploy.graph.graph import Graph
from intraq_deploy.graph.module import GraphModule
from intraq_deploy.models.model import Model
from intraq_deploy.synthesis.make import probe_of
from intraq_deploy.synthesis.probe import Probe


def differentiable_probe(model: Model, graph: Callable[[], Graph], device: torch.device) -> Probe:
    """Makes the probe of a model on `device`. Where the forward keeps gradients from its image (a frozen backbone in
    `no_grad`, checkpoints), its graph is read in its place.

    graph: makes the model's. Raises UnsupportedModelError for a network without stored BN statistics.
    """
    probe = probe_of(model, device)
    if probe.is_differentiable(model.input_shape):
        return probe
    return probe_of(replace(model, module=GraphModule(graph())), device)
