"""The command `intraq-deploy synthesize`: only the images."""

from dataclasses import asdict

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.report import show_images
from intraq_deploy.pipeline.progress import Progress


@command
def synthesize(
    *,
    recipe: o.RecipeGroup,
    images: o.ImagesGroup,
    out: o.Out = None,
    model: o.ModelGroup,
    session: o.SessionGroup,
    progress: Progress,
) -> Outcome:
    """Only the images that MODEL is quantized with.

    `quantize` with the same --out, budget and seed goes on with them.
    """
    from intraq_deploy.pipeline.options import make_options
    from intraq_deploy.pipeline.quantize import synthesize_run
    from intraq_deploy.pipeline.rundir import default_directory

    options = make_options(model.options(), **recipe.options(), **asdict(images), **asdict(session))
    bits_of_both = (options.weight_bits, options.activation_bits)
    directory = out or default_directory(model.source, bits_of_both, options.scheme, options.seed)
    report = synthesize_run(options, directory, progress)
    return Outcome(report.to_json, lambda: show_images(report, str(directory)))
