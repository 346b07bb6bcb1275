"""intraq-deploy quantize: the main job."""

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import GateError


@reports_errors
def quantize(
    model: o.ModelArgument,
    bits: o.Bits = 4,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    max_drop: o.MaxDrop = None,
    max_size: o.MaxSize = None,
    average_bits: o.AverageBits = None,
    widths: o.Widths = None,
    scheme: o.SchemeName = "integer",
    preset: o.Preset = None,
    recipe: o.Recipe = None,
    method: o.Method = "qat",
    reconstruct: o.Reconstruct = False,
    calibration: o.Calibration = None,
    images: o.Images = None,
    iterations: o.Iterations = None,
    steps: o.Steps = None,
    target: o.Target = None,
    evaluate: o.Eval = None,
    input_type: o.InputType = "float",
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
    """The main job: a checkpoint in, a checked low-bit runtime out.

    Makes images from MODEL alone (or takes yours, with --calibration), fine-tunes a low-bit copy on them, freezes it
    into integers, exports it for the targets, and compares what they compute with what was trained. Exits 3 if that
    gate fails.
    """
    # Torch is imported when there is work to do, so that --help answers at once.
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_images, render_report
    from intraq_deploy.cli.wording import warning_sentence
    from intraq_deploy.pipeline.options import make_options
    from intraq_deploy.pipeline.quantize import quantize_run
    from intraq_deploy.pipeline.rundir import default_directory
    from intraq_deploy.pipeline.targets import choose

    chosen = choose(target or ("onnxruntime",))
    mixed = o.mixed_options(max_drop, max_size, average_bits, widths, weight_bits)
    options = make_options(
        o.model_options(model, arch, input_size, mean, std, classes, output, trust_pickle),
        weight_bits=min(mixed.widths) if mixed else bits if weight_bits is None else weight_bits,
        activation_bits=bits if activation_bits is None else activation_bits,
        mixed=mixed,
        scheme=scheme,
        **o.recipe_options(preset, recipe),
        method=method,
        reconstruct=reconstruct,
        calibration=calibration,
        images=images,
        iterations=iterations,
        steps=steps,
        targets=chosen.targets,
        own_targets=chosen.own,
        eval=evaluate,
        input=input_type,
        device=device,
        seed=seed,
    )
    # As in runs/resnet20-cifar10-average-bits5a4.
    weights = options.weight_bits if mixed is None else "{}{:g}".format(*mixed.budget).removeprefix("--")
    bits_of_both = (weights, options.activation_bits)
    directory = out or default_directory(model, bits_of_both, options.scheme, options.seed)
    with make_progress() as progress:
        report = quantize_run(options, directory, progress)
        for warning in report.warnings:
            progress.warn(warning_sentence(warning))
    if json:
        print_json(report.to_json())
    else:
        render_images(report, str(directory))
        render_report(report, str(directory))
    if report.status == "failed":
        raise typer.Exit(GateError.exit_code)
