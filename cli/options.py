"""Options that several commands share, and how their text becomes values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intraq_deploy.cli.errors import set_debug
from intraq_deploy.errors import UsageError

if TYPE_CHECKING:
    from intraq_deploy.pipeline.options import MixedOptions, ModelOptions

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint (.pth, .pt, .safetensors, .pt2), or builtin:NAME, torchvision:NAME, timm:NAME.",
        show_default=False,
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(
        help="The architecture: builtin:NAME, torchvision:NAME, timm:NAME, package.module:callable or "
        "path/to/file.py:callable. Default: found from the checkpoint's tensors.",
        show_default=False,
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Height and width in pixels. Default: the architecture's own.",
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C",
        help="Per channel, of pixels scaled to 0..1. Default: the architecture's own.",
        show_default=False,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C",
        help="Per channel, of pixels scaled to 0..1. Default: the architecture's own.",
        show_default=False,
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Class names, one per line, or as JSON. Default: the architecture's own, if known.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="KEY|INDEX",
        help="Which output of the network holds the logits, where it has several.",
        show_default=False,
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Read a pickle that runs code. Only for files that you made yourself. Default: refused.",
        show_default=False,
    ),
]
Images = Annotated[
    int | None,
    typer.Option(help="How many are made, or drawn from --calibration. Default: the recipe's.", show_default=False),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        help="Optimisation steps per batch of images. Default: the recipe's.",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Fine-tuning steps; 0: none. Default: the recipe's.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A built-in recipe: quick, standard, best or paper; `intraq-deploy recipes list` says more. Default: "
        "quick.",
        show_default=False,
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A recipe of your own, in place of --preset: TOML, as `intraq-deploy recipes show` prints it. "
        "Default: none.",
        show_default=False,
    ),
]
Method = Annotated[
    str,
    typer.Option(help="qat: ranges, then fine-tuning; ptq: ranges, no fine-tuning, which is for 8 bits."),
]
Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct",
        help="Before fine-tuning, round each block's weights to what its output needs; slower. Default: the recipe's.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The run directory. Default: runs/MODEL-wXaY. The same command continues an interrupted run.",
        show_default=False,
    ),
]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="PATH",
        help="Labelled images that measure accuracy: a folder of class folders, an .npz with images and labels, or "
        "builtin:cifar10-sample. They never quantize or calibrate. Default: none.",
        show_default=False,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Your own images in place of synthetic ones: a folder, or an .npz with images. For networks without "
        "batch norm. No label is read. Default: images are made from MODEL.",
        show_default=False,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="What to ship for: a target, a device for all of its targets, or the path of your own; repeatable. "
        "`intraq-deploy targets` lists them. Default: onnxruntime.",
        show_default=False,
    ),
]
BuildTarget = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="What to compile for: a target, a device for those of its targets that compile here, or the path of your "
        "own; repeatable. Default: tensorrt-rtx.",
        show_default=False,
    ),
]
Bits = Annotated[int, typer.Option(help="Bits of weights and activations, 2 to 8.")]
WeightBits = Annotated[
    int | None,
    typer.Option(help="Bits of weights, 2 to 8. Default: --bits.", show_default=False),
]
ActivationBits = Annotated[
    int | None,
    typer.Option(help="Bits of activations, 2 to 8. Default: --bits.", show_default=False),
]
BundleTarget = Annotated[
    str,
    typer.Option("--target", metavar="NAME", help="The device, or one target, to pack for.", show_default=False),
]
BundleOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The bundle's folder; its archive is written beside. Default: bundles/NAME in the run directory.",
        show_default=False,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Choose weight bits per layer: the smallest network whose top-1 agreement with the float network, on held "
        "synthetic images and before fine-tuning, stays within so much of all weights at the widest.",
        show_default=False,
    ),
]
MaxSize = Annotated[
    float | None,
    typer.Option(
        metavar="MIB",
        help="Choose weight bits per layer: codes (of up to 4 bits two to a byte), scales and biases of all layers in "
        "so many MiB.",
        show_default=False,
    ),
]
AverageBits = Annotated[
    float | None,
    typer.Option(metavar="BITS", help="Choose weight bits per layer: so many per weight at most.", show_default=False),
]
Widths = Annotated[
    str | None,
    typer.Option(metavar="A,B,..", help="The bits to choose from, 2 to 8 each. Default: 4,8.", show_default=False),
]
BitsToTry = Annotated[str, typer.Option("--bits", metavar="A,B,..", help="Bits of weights to try, 2 to 8 each.")]
SchemeName = Annotated[
    str,
    typer.Option(
        help="Who gets a quantizer. integer: every tensor, so that all runs on integers; paper: IntraQ's own, the rest "
        "in float; ends8: first and last layer at 8 bits.",
    ),
]
InputType = Annotated[
    str,
    typer.Option(
        "--input", help="What the model takes. float: normalised images; uint8: pixels, mean and std in the graph."
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="HOST",
        help="user@host, or a name from ~/.ssh/config; may be given several times.",
        show_default=False,
    ),
]
OnHost = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="HOST", help="user@host, or a name from ~/.ssh/config. Default: here.", show_default=False
    ),
]
Fleet = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='A TOML file with hosts = ["user@a", "user@b"].', show_default=False),
]
Port = Annotated[int | None, typer.Option(help="Of ssh. Default: the configuration's.", show_default=False)]
ShipTarget = Annotated[
    str | None,
    typer.Option("--target", help="A device or target. Default: what each host is found to be.", show_default=False),
]
RemoteFolder = Annotated[
    str | None,
    typer.Option(
        "--dir", metavar="PATH", help="On the hosts. Default: ~/intraq-deploy/RUN-DEVICE.", show_default=False
    ),
]
RemotePython = Annotated[str, typer.Option("--python", metavar="PATH", help="The hosts' Python, 3.8 or newer.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the commands alone. Default: run them.", show_default=False)
]
BatchSize = Annotated[int, typer.Option("--batch", help="Images at a time.")]
Threads = Annotated[int, typer.Option("--threads", help="Of ONNX Runtime.")]
Seconds = Annotated[float, typer.Option("--seconds", help="How long to measure, all models together.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the report alone, as JSON. Default: a table.", show_default=False)
]

Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=set_debug, help="Show tracebacks and log lines. Default: off.", show_default=False
    ),
]


def model_options(
    source: str,
    arch: str | None,
    input_size: str | None,
    mean: str | None,
    std: str | None,
    classes: Path | None,
    output: str | None,
    trust_pickle: bool,
) -> "ModelOptions":
    """The model's options as one value. Raises UsageError for text that is no number."""
    from intraq_deploy.pipeline.options import ModelOptions

    return ModelOptions(
        source=source,
        arch=arch,
        input_size=parse_size(input_size),
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        classes=None if classes is None else str(classes),
        output=output,
        trust_pickle=trust_pickle,
    )


def recipe_options(preset: str | None, recipe: Path | None) -> dict[str, Any]:
    """What says how images are made and the network is trained. Raises UsageError for two, or a file that is none."""
    from intraq_deploy.pipeline.options import own_recipe

    if preset is not None and recipe is not None:
        raise UsageError(f"--preset {preset} and --recipe {recipe} exclude each other: give one of them.")
    if recipe is not None:
        return {"recipe": own_recipe(recipe)}
    return {} if preset is None else {"preset": preset}


def mixed_options(
    max_drop: float | None,
    max_size: float | None,
    average_bits: float | None,
    widths: str | None,
    weight_bits: int | None,
) -> "MixedOptions | None":
    """What chooses weight bits per layer, or None. Raises UsageError for options that exclude each other."""
    from intraq_deploy.pipeline.options import MixedOptions

    budgets = {"--max-drop": max_drop, "--max-size": max_size, "--average-bits": average_bits}
    given = [f"{option} {value:g}" for option, value in budgets.items() if value is not None]
    if not given:
        if widths is not None:
            raise UsageError(f"--widths is {widths!r} without a budget: add --max-drop, --max-size or --average-bits.")
        return None
    given += [] if weight_bits is None else [f"--weight-bits {weight_bits}"]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one of them.")
    chosen = {} if widths is None else {"widths": parse_bits("--widths", widths)}
    return MixedOptions(max_drop=max_drop, max_size=max_size, average_bits=average_bits, **chosen)


def parse_bits(option: str, text: str) -> tuple[int, ...]:
    """ "4,8" as integers. Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"{option} is {text!r}: give bits separated by commas, as in 4,8.")
    return tuple(int(part) for part in parts)


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """ "0.485,0.456,0.406" as numbers. Raises UsageError."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}: give numbers separated by commas, as in 0.485,0.456,0.406.") from error


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "224" or "224x192" as height and width. Raises UsageError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--input-size is {text!r}: give pixels, as in 224 or 224x192.")
    return int(parts[0]), int(parts[-1])
