"""The command `intraq-deploy synthesize`: only the images."""

from dataclasses import asdict

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.summary import show_images
from intraq_deploy.pipeline.progress import Progress


@command
def synthesize(
    *,
    recipe: o.RecipeGroup,
    images: o.ImagesGroup,
    place: o.PlaceGroup,
    model: o.ModelGroup,
    session: o.SessionGroup,
    progress: Progress,
) -> Outcome:
    """Only the images that MODEL is quantized with.

    `quantize` with the same recipe, budget and seed takes them, from the cache of stages or with the same --out.
    """
    from intraq_deploy.pipeline.options import make_options

    options = make_options(model.options(), **recipe.options(), **asdict(images), **asdict(session))
    begin(progress, options)
    from intraq_deploy.pipeline.quantize import synthesize_run

    report, directory = synthesize_run(options, place.out, progress, overwrite=place.overwrite)
    return Outcome(report.to_json, lambda: show_images(report, str(directory)))
