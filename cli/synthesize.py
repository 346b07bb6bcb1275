"""intraq-deploy synthesize: only the images."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def synthesize(
    model: o.ModelArgument,
    preset: o.Preset = None,
    recipe: o.Recipe = None,
    images: o.Images = None,
    iterations: o.Iterations = None,
    out: o.Out = None,
    arch: o.Arch = None,
    input_size: o.InputSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    classes: o.Classes = None,
    output: o.Output = None,
    trust_pickle: o.TrustPickle = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Only the images that MODEL is quantized with.

    `quantize` with the same --out, budget and seed goes on with them.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_images
    from intraq_deploy.pipeline.options import make_options
    from intraq_deploy.pipeline.quantize import synthesize_run
    from intraq_deploy.pipeline.rundir import default_directory

    options = make_options(
        o.model_options(model, arch, input_size, mean, std, classes, output, trust_pickle),
        **o.recipe_options(preset, recipe),
        images=images,
        iterations=iterations,
        device=device,
        seed=seed,
    )
    bits_of_both = (options.weight_bits, options.activation_bits)
    directory = out or default_directory(model, bits_of_both, options.scheme, options.seed)
    with make_progress() as progress:
        report = synthesize_run(options, directory, progress)
    if json:
        print_json(report.to_json())
    else:
        render_images(report, str(directory))
