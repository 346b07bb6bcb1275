"""Options that several commands share, alone or in groups, and how their text becomes values."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from intraq_deploy.cli.completion import architectures, one_of, presets, targets
from intraq_deploy.errors import UsageError

if TYPE_CHECKING:
    from intraq_deploy.pipeline.options import MixedOptions, ModelOptions

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle", help="Read a pickle that runs code. Only for files that you made yourself. Default: refused."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda",
        autocompletion=one_of("auto", "cpu", "cuda"),
        help="Where images are made and the network is trained. auto: on the GPU, if torch sees one.",
    ),
]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="PATH",
        help="Labelled images that measure accuracy: a folder of class folders, an .npz with images and labels, or "
        "builtin:cifar10-sample. They never quantize or calibrate. Default: none.",
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        autocompletion=targets,
        help="What to ship for: a target, a device for all of its targets, or the path of your own; repeatable. "
        "`intraq-deploy targets` lists them. Default: all that the run has; export: onnxruntime.",
    ),
]
SchemeName = Annotated[
    str,
    typer.Option(
        metavar="integer|paper|ends8",
        autocompletion=one_of("integer", "paper", "ends8"),
        help="Who gets a quantizer. integer: every tensor, so that all runs on integers; paper: IntraQ's own, the rest "
        "in float; ends8: first and last layer at 8 bits.",
    ),
]
Port = Annotated[int | None, typer.Option(help="Of ssh. Default: the configuration's.")]
RemotePython = Annotated[str, typer.Option("--python", metavar="PATH", help="The hosts' Python, 3.8 or newer.")]

_PerChannel = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="Per channel, of pixels scaled to 0..1. Default: the architecture's own."),
]


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """The network, and what its checkpoint does not say."""

    PANEL: ClassVar[str] = "Network"

    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint (.pth, .pt, .safetensors, .pt2) or an ONNX file; or builtin:NAME, torchvision:NAME, "
            "timm:NAME.",
        ),
    ]
    arch: Annotated[
        str | None,
        typer.Option(
            autocompletion=architectures,
            help="The architecture: builtin:NAME, torchvision:NAME, timm:NAME, package.module:callable or "
            "path/to/file.py:callable. Default: found from the checkpoint's tensors.",
        ),
    ] = None
    input_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Height and width in pixels. Default: the architecture's own."),
    ] = None
    mean: _PerChannel = None
    std: _PerChannel = None
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Class names, one per line, or as JSON. Default: the architecture's own, if known."
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(metavar="KEY|INDEX", help="Which output of the network holds the logits, where it has several."),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="KEY|PREFIX", help="Which of several networks in a checkpoint: a key, or a prefix of names."
        ),
    ] = None
    trust_pickle: TrustPickle = False

    def options(self) -> "ModelOptions":
        """Returns the pipeline's value. Raises UsageError for text that is no number."""
        from intraq_deploy.pipeline.options import ModelOptions

        return ModelOptions(
            source=self.source,
            arch=self.arch,
            input_size=_parse_size(self.input_size),
            mean=_parse_numbers("--mean", self.mean),
            std=_parse_numbers("--std", self.std),
            classes=None if self.classes is None else str(self.classes),
            output=self.output,
            weights=self.weights,
            trust_pickle=self.trust_pickle,
        )


@dataclass(frozen=True, slots=True)
class RecipeGroup:
    """The recipe, which says how images are made and the network is trained."""

    PANEL: ClassVar[str] = "Recipe and budget"

    preset: Annotated[
        str | None,
        typer.Option(
            metavar="quick|standard|best|paper",
            autocompletion=presets,
            help="A built-in recipe; `intraq-deploy recipes list` says more. Default: quick.",
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A recipe of your own, in place of --preset: TOML, as `intraq-deploy recipes show` prints it. "
            "Default: none.",
        ),
    ] = None

    def options(self) -> dict[str, Any]:
        """Returns the fields of QuantizeOptions. Raises UsageError for two recipes, or a file that is none."""
        from intraq_deploy.pipeline.options import own_recipe

        if self.preset is not None and self.recipe is not None:
            raise UsageError(f"--preset {self.preset} and --recipe {self.recipe} exclude each other: give one of them.")
        if self.recipe is not None:
            return {"recipe": own_recipe(self.recipe)}
        return {} if self.preset is None else {"preset": self.preset}


@dataclass(frozen=True, slots=True)
class ImagesGroup:
    """The budget of the images, by the names of QuantizeOptions."""

    PANEL: ClassVar[str] = "Recipe and budget"

    images: Annotated[
        int | None, typer.Option(help="How many are made, or drawn from --calibration. Default: the recipe's.")
    ] = None
    iterations: Annotated[
        int | None,
        typer.Option(help="Optimisation steps per batch of images. Default: the recipe's."),
    ] = None


@dataclass(frozen=True, slots=True)
class SessionGroup:
    """The device and the seed of a run, by the names of QuantizeOptions."""

    PANEL: ClassVar[str] = "Session"

    device: Device = "auto"
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0


@dataclass(frozen=True, slots=True)
class PlaceGroup:
    """Where a run is kept."""

    PANEL: ClassVar[str] = "Where the run is kept"

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run directory. Default: one of its own, as runs/MODEL-wXaY. The same command continues an "
            "interrupted run.",
        ),
    ] = None
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the run that the directory holds, also one with other options, when the new one is whole. "
            "Default: refused.",
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class BitsGroup:
    """The bits of weights and activations, where all layers have the same."""

    PANEL: ClassVar[str] = "Bits"

    bits: Annotated[int, typer.Option(help="Bits of weights and activations, 2 to 8.")] = 4
    weight_bits: Annotated[int | None, typer.Option(help="Bits of weights, 2 to 8. Default: --bits.")] = None
    activation_bits: Annotated[int | None, typer.Option(help="Bits of activations, 2 to 8. Default: --bits.")] = None
    depthwise_bits: Annotated[
        int | None,
        typer.Option(help="Bits of depthwise layers' weights, which are few. Default: as other layers."),
    ] = None

    @property
    def weights(self) -> int:
        """The bits of weights. Raises UsageError for --bits that are not supported."""
        return self._checked() if self.weight_bits is None else self.weight_bits

    @property
    def activations(self) -> int:
        """The bits of activations. Raises UsageError for --bits that are not supported."""
        return self._checked() if self.activation_bits is None else self.activation_bits

    def _checked(self) -> int:
        """Returns --bits: an error names it, and not the options that it stands for, which nobody gave."""
        from intraq_deploy.pipeline.options import check_bits

        check_bits("--bits", self.bits)
        return self.bits


@dataclass(frozen=True, slots=True)
class MixedGroup:
    """The budget within which weight bits are chosen per layer."""

    PANEL: ClassVar[str] = "Bits chosen layer by layer"

    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Choose weight bits per layer: the smallest network whose top-1 agreement with the float network, on "
            "held synthetic images and before fine-tuning, stays within so much of all weights at the widest.",
        ),
    ] = None
    max_size: Annotated[
        float | None,
        typer.Option(
            metavar="MIB",
            help="Choose weight bits per layer: codes (of up to 4 bits two to a byte), scales and biases of all layers "
            "in so many MiB.",
        ),
    ] = None
    average_bits: Annotated[
        float | None,
        typer.Option(metavar="BITS", help="Choose weight bits per layer: so many per weight at most."),
    ] = None
    widths: Annotated[
        str | None,
        typer.Option(metavar="A,B,..", help="The bits to choose from, 2 to 8 each. Default: 4,8."),
    ] = None

    def options(self, weight_bits: int | None) -> "MixedOptions | None":
        """Returns the pipeline's value, None without a budget. Raises UsageError for options that exclude each other.

        weight_bits: the option --weight-bits, which is one of them.
        """
        from intraq_deploy.pipeline.options import MixedOptions

        budgets = {"--max-drop": self.max_drop, "--max-size": self.max_size, "--average-bits": self.average_bits}
        given = [f"{option} {value:g}" for option, value in budgets.items() if value is not None]
        if not given:
            if self.widths is not None:
                raise UsageError(
                    f"--widths is {self.widths!r} without a budget: add --max-drop, --max-size or --average-bits."
                )
            return None
        given += [] if weight_bits is None else [f"--weight-bits {weight_bits}"]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other: give one of them.")
        chosen = {} if self.widths is None else {"widths": parse_bits("--widths", self.widths)}
        return MixedOptions(max_drop=self.max_drop, max_size=self.max_size, average_bits=self.average_bits, **chosen)


def parse_bits(option: str, text: str) -> tuple[int, ...]:
    """Returns "4,8" as integers. Raises UsageError for other text."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"{option} is {text!r}: give bits separated by commas, as in 4,8.")
    return tuple(int(part) for part in parts)


def _parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Returns "0.485,0.456,0.406" as numbers. Raises UsageError for other text."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}: give numbers separated by commas, as in 0.485,0.456,0.406.") from error


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Returns "224" or "224x192" as height and width. Raises UsageError for other text."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--input-size is {text!r}: give pixels, as in 224 or 224x192.")
    return int(parts[0]), int(parts[-1])
