"""The options of a run, checked and kept: `RUN/config.json`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from intraq_deploy.data.forms import check_labelled, check_unlabelled
from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.models.file_kind import file_kind
from intraq_deploy.pipeline.rundir import CONFIG, UNFINISHED, recover
from intraq_deploy.quantization.scheme import SCHEMES
from intraq_deploy.quantization.spec import MAX_BITS, MIN_BITS
from intraq_deploy.recipes import builtin, read
from intraq_deploy.targets.profile import TargetProfile

if TYPE_CHECKING:
    from intraq_deploy.models.model import Model

DEFAULT_TARGETS = ("onnxruntime",)
"""The targets that files are written for where nothing else is said."""
MADE_FOR = ("onnxruntime", "tensorrt-int8")
"""The targets that a network is quantized for where nothing else is said: one program for CPUs and for Jetsons."""
_MOST_TIMED = 1024
_LIBRARIES = ("builtin", "torchvision", "timm")
"""The libraries that a network's name begins with, before a colon."""


class ModelOptions(BaseModel):
    """Which network, and what its checkpoint does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    arch: str | None = None
    input_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: str | None = None
    output: str | None = None
    weights: str | None = None
    trust_pickle: bool = False

    def located(self, folder: Path) -> "ModelOptions":
        """Returns the options with whole paths for the files that were named relative to `folder`."""

        def under(name: str) -> str:
            return str(folder / name) if (folder / name).exists() else name

        file, colon, attribute = (self.arch or "").rpartition(":")
        changes = {
            "source": under(self.source),
            "arch": f"{under(file)}{colon}{attribute}" if file else self.arch,
            "classes": None if self.classes is None else under(self.classes),
        }
        return self.model_copy(update=changes)

    def check(self) -> None:
        """Checks that the source is a file of a known kind, or the name of a network. Raises CheckpointError for
        neither."""
        library, colon, _ = self.source.partition(":")
        if not colon or library not in _LIBRARIES:
            file_kind(Path(self.source))

    def load(self) -> "Model":
        """Returns the model. Raises what `load_model` raises."""
        from intraq_deploy.models.loading import load_model  # noqa: PLC0415  it comes with torch

        return load_model(
            self.source,
            arch=self.arch,
            input_size=self.input_size,
            mean=self.mean,
            std=self.std,
            classes=None if self.classes is None else Path(self.classes),
            output=self.output,
            weights=self.weights,
            trust_pickle=self.trust_pickle,
        )


class MixedOptions(BaseModel):
    """Weight bits chosen per layer, within one budget: exactly one of the three is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop: float | None = None
    """Points of top-1 agreement with the float network, against all weights at the most of `widths`."""
    max_size: float | None = None
    """MiB of the layers as stored (quantization.allocation.stored_bytes)."""
    average_bits: float | None = None
    """Bits per weight."""
    widths: tuple[int, ...] = (4, 8)
    """The bits to choose from."""

    @property
    def budget(self) -> tuple[str, float]:
        """Which of the three, as an option's name, and its value."""
        given = {name: value for name, value in self.model_dump(exclude={"widths"}).items() if value is not None}
        ((name, value),) = given.items()
        return f"--{name.replace('_', '-')}", value

    def check(self) -> None:
        """Checks the budget. Raises UsageError for what no network could make right."""
        check_widths("--widths", self.widths)
        if len(self.widths) < 2:
            raise UsageError(
                f"--widths is {self.widths[0]}: give two or more to choose from, or --weight-bits {self.widths[0]}."
            )
        option, value = self.budget
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"{option} is {value:g}: give a number from 0 on.")
        least, most = min(self.widths), max(self.widths)
        if option == "--average-bits" and not least <= value <= most:
            raise UsageError(f"{option} is {value:g}: with --widths {text_of(self.widths)}, give {least} to {most}.")


def check_bits(option: str, bits: int) -> None:
    """Checks bits. Raises UsageError, naming the option, for bits that are not supported."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(f"{option} is {bits}: {MIN_BITS} to {MAX_BITS} are supported.")


def check_widths(option: str, widths: tuple[int, ...]) -> None:
    """Checks bits. Raises UsageError, naming the option, for bits that are not supported or given twice."""
    for bits in widths:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise UsageError(f"{option} has {bits}: {MIN_BITS} to {MAX_BITS} are supported.")
    if len(set(widths)) < len(widths):
        raise UsageError(f"{option} is {text_of(widths)}: give every number of bits once.")


def text_of(widths: tuple[int, ...]) -> str:
    """Returns bits as on the command line: "4,8"."""
    return ",".join(map(str, widths))


class OwnRecipe(BaseModel):
    """A recipe of the user's own, as it was read: the file may change or go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The path of the file."""
    values: dict[str, Any]


def own_recipe(path: Path) -> OwnRecipe:
    """Reads a recipe. Raises UsageError for a file that cannot be read or is no recipe."""
    file = read(path)
    return OwnRecipe(name=file.name, values=dict(file.values))


class QuantizeOptions(BaseModel):
    """Everything that decides what a run computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelOptions
    weight_bits: int = 4
    """Bits of every layer's weights; with `mixed`, the fewest that a layer may get."""
    depthwise_bits: int | None = None
    """Bits of depthwise layers' weights; None: `weight_bits`."""
    mixed: MixedOptions | None = None
    activation_bits: int = 4
    scheme: str = "integer"
    preset: str = "quick"
    recipe: OwnRecipe | None = None
    """A recipe in place of the preset."""
    method: Literal["qat", "ptq"] = "qat"
    """The method. "ptq": no fine-tuning and no reconstruction of the recipe's own, as with 0 steps."""
    reconstruct: bool = False
    """Whether the recipe's reconstruction is switched on where the recipe itself does not, or would with more steps."""
    calibration: str | None = None
    images: int | None = None
    iterations: int | None = None
    steps: int | None = None
    targets: tuple[str, ...] = DEFAULT_TARGETS
    """The targets that files are written for."""
    made_for: tuple[str, ...] = MADE_FOR
    """The targets that all take the program: those above, unless none were named."""
    own_targets: tuple[TargetProfile, ...] = ()
    """A person's own, as their files were read: those of `targets`, and those that were exported for since."""
    eval: str | None = None
    input: Literal["float", "uint8"] = "float"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    @property
    def recipe_name(self) -> str:
        """A built-in recipe's name, or the path of the user's own."""
        return self.preset if self.recipe is None else self.recipe.name

    def check(self) -> None:
        """Checks what can be checked without the network. Raises UsageError, CheckpointError or DataError for what no
        network could make right."""
        self.model.check()
        if self.mixed is not None:
            self.mixed.check()
        asked = {
            "--weight-bits": self.weight_bits,
            "--activation-bits": self.activation_bits,
            "--depthwise-bits": self.depthwise_bits,
        }
        for option, bits in asked.items():
            if bits is not None:
                check_bits(option, bits)
        if self.scheme not in SCHEMES:
            raise UsageError(f"The scheme {self.scheme!r} is unknown: choose one of {', '.join(SCHEMES)}.")
        if self.method == "ptq" and self.steps:
            raise UsageError(f"--steps is {self.steps}, and --method ptq takes none: leave one of them out.")
        if self.calibration is not None and self.iterations is not None:
            raise UsageError(
                f"--iterations is {self.iterations}, and --calibration takes the place of the images that they make: "
                "leave one of them out."
            )
        if self.recipe is None:
            builtin(self.preset)
        check_apart(self.calibration, self.eval)
        if self.calibration is not None:
            check_unlabelled(self.calibration)
        if self.eval is not None:
            check_labelled(self.eval)


def check_apart(calibration: str | None, evaluate: str | None) -> None:
    """Checks that images apart calibrate and measure. Raises UsageError where they do not."""
    if calibration is None or evaluate is None:
        return
    one, other = Path(calibration).resolve(), Path(evaluate).resolve()
    nested = one.is_dir() and other.is_dir() and (one in other.parents or other in one.parents)
    if one == other or nested:
        raise UsageError(
            f"--calibration {calibration} and --eval {evaluate} share images: what calibrates must not measure; give "
            "folders that lie apart."
        )


def make_options(model: ModelOptions, **values: Any) -> QuantizeOptions:
    """Returns the options. Raises UsageError, naming the option, for a value of the wrong kind."""
    try:
        return QuantizeOptions(model=model, **values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
        raise UsageError(f"{option} is {first['input']!r}: {first['msg'].lower()}.") from error


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How a run's files are timed."""

    batch: int = 1
    """Images at a time."""
    threads: int = 1
    seconds: float = 20.0
    """Time for all models together."""

    def check(self) -> None:
        """Checks the values. Raises UsageError for numbers that cannot be."""
        for name, value in (("--batch", self.batch), ("--threads", self.threads)):
            if not 1 <= value <= _MOST_TIMED:
                raise UsageError(f"{name} is {value}: give a number from 1 to {_MOST_TIMED}.")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"--seconds is {self.seconds:g}: give a number above 0, up to 3600.")


class RunConfig(BaseModel):
    """The record in a run directory with which the run can be opened again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_sha256: str
    """The hash of the network's weights."""
    folder: str
    """The folder in which the command was given: relative paths start there."""
    options: QuantizeOptions
    images: str
    """The hash of everything that decides the images."""
    configuration: str | None
    """The hash of everything that decides the program and its files; None where nothing but images was asked for."""

    def to_json(self) -> str:
        """Returns the text of `config.json`, without the consent to run a pickle's code, which is given per command."""
        return self.model_dump_json(indent=2, exclude={"options": {"model": {"trust_pickle"}}})


def read_config(path: Path) -> RunConfig:
    """Returns the record of a run directory. Raises RunError for a missing or foreign file."""
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if (path.parent / UNFINISHED).is_dir():
            raise RunError(
                f"{path.parent} holds an unfinished run: give the same quantize again, which continues."
            ) from error
        raise RunError(f"{path.parent} is no run directory (it has no {path.name}): run quantize first.") from error
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise RunError(
            f"{path} is damaged or of another version ({reason}): choose another directory with --out, or replace "
            "what it holds with --overwrite."
        ) from error


def kept_config(path: Path) -> RunConfig:
    """Returns the configuration of the run in a directory. Raises RunError for what is none."""
    recover(path)
    return read_config(path / CONFIG)
