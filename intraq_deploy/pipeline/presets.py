"""Budgets by name: how many images and steps, for small and for large networks.

A preset says how much work is done; a scheme (`quantization.scheme`) says what the quantizers are. Values were set by
measuring on two CPU cores; docs/method.md has the table.
"""

from collections.abc import Callable
from dataclasses import replace

from intraq_deploy.errors import UsageError
from intraq_deploy.synthesis.recipe import SynthesisRecipe, constants_for
from intraq_deploy.training.recipe import TrainingRecipe

Recipes = tuple[SynthesisRecipe, TrainingRecipe]
_SMALL_PIXELS = 64 * 64


def _quick(small: bool) -> Recipes:
    if small:
        synthesis = SynthesisRecipe(images=256, iterations=120, batch=256)
        return synthesis, TrainingRecipe(steps=150, batch=64, learning_rate=2e-4)
    synthesis = SynthesisRecipe(images=64, iterations=100, batch=32)
    return synthesis, TrainingRecipe(steps=100, batch=16, learning_rate=3e-5)


def _standard(small: bool) -> Recipes:
    if small:
        synthesis = SynthesisRecipe(images=1024, iterations=300, batch=256)
        return synthesis, TrainingRecipe(steps=4000, batch=128, learning_rate=2e-4)
    synthesis = SynthesisRecipe(images=512, iterations=300, batch=64)
    return synthesis, TrainingRecipe(steps=2000, batch=32, learning_rate=3e-5)


def _paper(small: bool) -> Recipes:
    """IntraQ's own budget and optimisers (Zhong et al., CVPR 2022)."""
    synthesis = SynthesisRecipe(
        images=5120, iterations=1000, batch=256, learning_rate=0.5, schedule="plateau", labels="uniform"
    )
    common = TrainingRecipe(
        steps=29_400,
        batch=256 if small else 16,
        learning_rate=1e-4 if small else 1e-6,
        optimizer="sgd",
        weight_decay=1e-4,
        schedule="steps",
        milestones=tuple(epoch / 147 for epoch in ((20, 40, 60) if small else (100,))),
        temperature=20.0,
        distillation=20.0,
        centred_logits=0.0,
        cross_entropy=1.0,
        mixup=False,
    )
    return synthesis, common


PRESETS: dict[str, Callable[[bool], Recipes]] = {"quick": _quick, "standard": _standard, "paper": _paper}


def recipes(
    preset: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    images: int | None = None,
    iterations: int | None = None,
    steps: int | None = None,
) -> Recipes:
    """The recipes of `preset` for a network of this input and class count; given numbers override it.

    Raises UsageError for an unknown preset or numbers that cannot be.
    """
    if preset not in PRESETS:
        raise UsageError(f"The preset {preset!r} is unknown: choose one of {', '.join(PRESETS)}.")
    for option, value, least in (("--images", images, 2), ("--iterations", iterations, 1), ("--steps", steps, 0)):
        if value is not None and value < least:
            raise UsageError(f"{option} is {value}: at least {least} is needed.")
    synthesis, training = PRESETS[preset](input_shape[1] * input_shape[2] <= _SMALL_PIXELS)
    constants = constants_for(classes)
    synthesis = replace(
        synthesis,
        images=images or synthesis.images,
        iterations=iterations or synthesis.iterations,
        lower=constants.lower,
        upper=constants.upper,
        softest_target=constants.softest_target,
    )
    return synthesis, replace(training, steps=training.steps if steps is None else steps)
