"""A recipe for one network, with the numbers that were asked for in place of its own."""

from dataclasses import replace

from intraq_deploy.errors import UsageError
from intraq_deploy.recipes import Recipe, RecipeFile
from intraq_deploy.synthesis.recipe import MOST_IMAGES, MOST_ITERATIONS, SynthesisRecipe
from intraq_deploy.training.recipe import MOST_STEPS


def recipe_for(
    file: RecipeFile,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    images: int | None = None,
    iterations: int | None = None,
    steps: int | None = None,
    reconstruct: bool = False,
) -> Recipe:
    """The recipe for images [C, H, W] and so many classes; given numbers override it.

    reconstruct: switches reconstruction on. What the recipe itself switches on stays on, but not where steps are given
    as 0: then nothing is trained at all.

    Raises UsageError for numbers that cannot be.
    """
    _check("--images", images, 2, MOST_IMAGES)
    _check("--iterations", iterations, 1, MOST_ITERATIONS)
    _check("--steps", steps, 0, MOST_STEPS)
    recipe = file.resolve(input_shape, classes)
    synthesis, training, reconstruction = recipe.synthesis, recipe.training, recipe.reconstruction
    return replace(
        recipe,
        synthesis=replace(synthesis, images=images or synthesis.images, iterations=iterations or synthesis.iterations),
        training=replace(training, steps=training.steps if steps is None else steps),
        reconstruction=replace(reconstruction, enabled=reconstruct or (reconstruction.enabled and steps != 0)),
    )


def _check(option: str, value: int | None, least: int, most: int) -> None:
    if value is None:
        return
    if type(value) is not int:  # from Python anything may come
        raise UsageError(f"{option} is {value!r}: give a whole number.")
    if value < least:
        raise UsageError(f"{option} is {value}: at least {least} is needed.")
    if value > most:
        raise UsageError(f"{option} is {value}: at most {most:,} are possible.")


def too_few_images(recipe: SynthesisRecipe, classes: int) -> str | None:
    """What there is to say where some of the classes get no image, or None."""
    without = classes - recipe.images
    if without <= 0:
        return None
    drawn = recipe.labels == "uniform"
    return (
        f"{recipe.images:,} images for {classes:,} classes: {'at least ' if drawn else ''}{without:,} "
        f"{'class has' if without == 1 else 'classes have'} none; give more --images, {classes} "
        f"{'at the least' if drawn else 'for one of each'}."
    )
