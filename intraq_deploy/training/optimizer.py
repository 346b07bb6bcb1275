"""The rates at which parameters move: groups and the schedule.

With `rate_unit` "value" every weight has the recipe's rate, as usual. With "step" a layer's rate is that multiple of
its mean quantization step, since a code changes when its weight has moved by about one: AdamW moves a weight by about
its rate, so `learning_rate` 0.01 takes a hundred steps from code to code at any number of bits. (AIT, Choi et al.,
CVPR 2022, scales gradients until a set share of codes changes; this is its aim without its search.) Batch norms then
move at the mean rate of all layers.

Learned scales have rates relative to their own size, so that fine and coarse grids move alike.
"""

import math
from typing import Any

import torch
from torch import nn

from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.training.recipe import TrainingRecipe


def make_optimizer(student: FakeQuantNetwork, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Makes the optimiser. Each group's "base_lr" is its rate before the schedule."""
    groups = _weights(student, recipe)
    for name, scale in student.named_parameters():
        if scale.requires_grad and is_scale(name):
            size = float(scale.detach().abs().mean())
            rate = recipe.learning_rate * recipe.scale_rate * size
            groups.append({"params": [scale], "base_lr": rate, "weight_decay": 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)  # one operator for each of many groups


def is_scale(name: str) -> bool:
    """Whether a parameter of this name is a quantizer's scale."""
    return name.endswith("scale")


def _weights(student: FakeQuantNetwork, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    trained = [p for name, p in student.named_parameters() if p.requires_grad and not is_scale(name)]
    if recipe.rate_unit == "value":
        return [_group(trained, recipe.learning_rate, recipe)]
    layers = [student.layer(node.name) for node in student.graph.layers()]
    with torch.no_grad():
        steps = [float(layer.quantizer(layer.weight)[1].mean()) for layer in layers]
    rates = [recipe.learning_rate * step for step in steps]
    groups = [_group([layer.weight], rate, recipe) for layer, rate in zip(layers, rates, strict=True)]
    weights = {id(layer.weight) for layer in layers}
    rest = [parameter for parameter in trained if id(parameter) not in weights]
    return [*groups, _group(rest, sum(rates) / len(rates), recipe)]


def _group(parameters: list[nn.Parameter], rate: float, recipe: TrainingRecipe) -> dict[str, Any]:
    return {"params": parameters, "base_lr": rate, "weight_decay": recipe.weight_decay}


def schedule(recipe: TrainingRecipe, step: int) -> float:
    """The factor on every rate at step number `step`, counted from 0."""
    progress = step / recipe.steps
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return math.prod(0.1 for milestone in recipe.milestones if progress >= milestone)
