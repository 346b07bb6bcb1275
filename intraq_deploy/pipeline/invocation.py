"""The command line that does what a run's options say."""

import shlex
from collections.abc import Mapping

from intraq_deploy.pipeline.options import QuantizeOptions, text_of


def quantize_command(options: QuantizeOptions, *further: str) -> str:
    """Returns the `quantize` that computes what the options say, in the folder in which they were given. further: ends
    it.

    Consent to run a pickle's code is not kept, and not given.
    """
    return shlex.join(["intraq-deploy", "quantize", *_model(options), *_bits(options), *_rest(options), *further])


def _model(options: QuantizeOptions) -> list[str]:
    model = options.model
    size = None if model.input_size is None else "x".join(map(str, model.input_size))
    numbers = {"mean": model.mean, "std": model.std}
    texts = {name: None if value is None else ",".join(map(str, value)) for name, value in numbers.items()}
    given = {
        "--arch": model.arch,
        "--input-size": size,
        **{f"--{name}": text for name, text in texts.items()},
        "--classes": model.classes,
        "--output": model.output,
        "--weights": model.weights,
    }
    return [model.source, *_given(given)]


def _bits(options: QuantizeOptions) -> list[str]:
    weights, activations = options.weight_bits, options.activation_bits
    depthwise = _given({"--depthwise-bits": options.depthwise_bits})
    if options.mixed is not None:
        name, value = options.mixed.budget
        widths = text_of(options.mixed.widths)
        return [name, f"{value:g}", "--widths", widths, "--activation-bits", str(activations), *depthwise]
    if weights == activations:
        return ["--bits", str(weights), *depthwise]
    return ["--weight-bits", str(weights), "--activation-bits", str(activations), *depthwise]


def _rest(options: QuantizeOptions) -> list[str]:
    usual = QuantizeOptions(model=options.model)
    given: dict[str, object] = {"--recipe": None if options.recipe is None else options.recipe.name}
    for name in (
        "scheme", "preset", "method", "calibration", "images", "iterations", "steps", "eval", "input", "device", "seed",
    ):  # fmt: skip
        value = getattr(options, name)
        given[f"--{name}"] = None if value == getattr(usual, name) else value
    targets = [] if options.made_for == usual.made_for else [f"--target={target}" for target in options.targets]
    return [*_given(given), *(["--reconstruct"] if options.reconstruct else []), *targets]


def _given(values: Mapping[str, object]) -> list[str]:
    return [text for option, value in values.items() if value is not None for text in (option, str(value))]
