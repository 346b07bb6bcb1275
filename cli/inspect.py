"""intraq-deploy inspect: what a network is, and what would be quantized."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def inspect(
    model: o.ModelArgument,
    bits: o.Bits = 4,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    scheme: o.SchemeName = "integer",
    arch: o.Arch = None,
    input_size: o.InputSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    classes: o.Classes = None,
    output: o.Output = None,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """What a network is, and what would be quantized.

    Shows architecture, classes and batch norms, and, layer by layer, what would run on integers and what in float and
    why.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_inspection
    from intraq_deploy.pipeline.inspection import inspect_model

    weight_bits = bits if weight_bits is None else weight_bits
    activation_bits = bits if activation_bits is None else activation_bits
    with make_progress():
        loaded = o.model_options(model, arch, input_size, mean, std, classes, output, trust_pickle).load()
        inspection = inspect_model(loaded, scheme, weight_bits, activation_bits)
    if json:
        print_json(inspection.to_json())
    else:
        render_inspection(inspection)
