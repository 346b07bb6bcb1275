"""A recipe for one network, with the numbers that were asked for in place of its own."""

from dataclasses import dataclass, replace

from intraq_deploy.errors import UsageError
from intraq_deploy.recipes import Recipe, RecipeFile
from intraq_deploy.synthesis.recipe import MOST_IMAGES, MOST_ITERATIONS, SynthesisRecipe
from intraq_deploy.training.recipe import MOST_STEPS


@dataclass(frozen=True, slots=True)
class Overrides:
    """Numbers in place of a recipe's own; None leaves the recipe's."""

    images: int | None = None
    iterations: int | None = None
    steps: int | None = None
    """Fine-tuning steps; 0: nothing is trained, reconstruction of the recipe's own included."""
    reconstruct: bool = False
    """Switches reconstruction on."""

    def check(self) -> None:
        """Checks the values. Raises UsageError for numbers that cannot be."""
        _check("--images", self.images, 2, MOST_IMAGES)
        _check("--iterations", self.iterations, 1, MOST_ITERATIONS)
        _check("--steps", self.steps, 0, MOST_STEPS)


def recipe_for(
    file: RecipeFile, input_shape: tuple[int, int, int], classes: int, overrides: Overrides | None = None
) -> Recipe:
    """Returns the recipe for images of `input_shape`, [C, H, W], and so many classes.

    Raises UsageError for overrides that cannot be.
    """
    given = Overrides() if overrides is None else overrides
    given.check()
    recipe = file.resolve(input_shape, classes)
    synthesis, training, reconstruction = recipe.synthesis, recipe.training, recipe.reconstruction
    enabled = given.reconstruct or (reconstruction.enabled and given.steps != 0)
    return replace(
        recipe,
        synthesis=replace(
            synthesis,
            images=given.images or synthesis.images,
            iterations=given.iterations or synthesis.iterations,
        ),
        training=replace(training, steps=training.steps if given.steps is None else given.steps),
        reconstruction=replace(reconstruction, enabled=enabled),
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
    """Returns what to tell a person where some of the classes get no image, or None."""
    without = classes - recipe.images
    if without <= 0:
        return None
    drawn = recipe.labels == "uniform"
    return (
        f"{recipe.images:,} images for {classes:,} classes: {'at least ' if drawn else ''}{without:,} "
        f"{'class has' if without == 1 else 'classes have'} none; give more --images, {classes} "
        f"{'at the least' if drawn else 'for one of each'}."
    )
