"""Findings of the gate as data: what, of which target, with which figures. The command line words them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Finding(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str


class TensorDiffers(_Finding):
    """A failure: a quantized tensor has other integers than the program, more than it declares."""

    kind: Literal["tensor-differs"] = "tensor-differs"
    tensor: str
    mismatched: int
    compared: int
    largest_difference: int
    beyond_rounding: int
    """Mismatches that no other order of rounding explains."""
    allowed_share: float | None
    """The share of codes that may differ by 1; None: none may."""


class LogitsDiffer(_Finding):
    """A failure: the logits are further from the reference's than the program declares."""

    kind: Literal["logits-differ"] = "logits-differ"
    difference: float
    """The largest difference, relative to the largest logit."""
    allowed: float | None
    """The bound of `difference`; None: they must be equal."""


class InstrumentsDisturb(_Finding):
    """A failure: the model with its integers in view has other logits than the shipped one."""

    kind: Literal["instruments-disturb"] = "instruments-disturb"


class LayersNotInt8(_Finding):
    """A failure: layers that the file has as integers do not multiply INT8 in the engine, or it does not say."""

    kind: Literal["layers-not-int8"] = "layers-not-int8"
    layers: dict[str, str]
    """The type in which each of them multiplies, by name."""
    of: int
    """The number of all layers."""


class AccuracyLost(_Finding):
    """A failure: the deployed network is less accurate than the fake-quant module, by more than chance does."""

    kind: Literal["accuracy-lost"] = "accuracy-lost"
    top1: float
    """Top-1 of the deployed network, in percent."""
    fake_quant_top1: float
    images: int
    became_wrong: int
    """Images that only the fake-quant module classifies right."""
    became_right: int
    """Images that only the deployed network classifies right."""
    allowed: float
    """How many more images may become wrong than right."""


Failure = Annotated[
    TensorDiffers | LogitsDiffer | InstrumentsDisturb | LayersNotInt8 | AccuracyLost, Field(discriminator="kind")
]
"""A reason not to ship."""


class NotOnProvider(_Finding):
    """A warning: ONNX Runtime's CPU provider stood in for the target's own."""

    kind: Literal["not-on-provider"] = "not-on-provider"
    reason: str
    """Why the provider does not load, as a sentence."""


class FloatKernels(_Finding):
    """A warning: convolutions or linear layers run in float."""

    kind: Literal["float-kernels"] = "float-kernels"
    kernels: dict[str, int]
    """The number of kernels by operator."""


class LayersLeftInFloat(_Finding):
    """A warning: layers that could run on integers run in float, which is right and slower."""

    kind: Literal["layers-left-in-float"] = "layers-left-in-float"
    layers: int


class UnderusedTensors(_Finding):
    """A warning: less than half of the codes of these tensors occurred."""

    kind: Literal["underused-tensors"] = "underused-tensors"
    tensors: list[str]


class LargerThanAsked(_Finding):
    """A warning: the file is larger than --max-size, which counts codes, scales and biases alone."""

    kind: Literal["larger-than-asked"] = "larger-than-asked"
    bytes: int
    stored_bytes: int
    """Codes, scales and biases."""
    max_size: float
    """The limit that was asked for, in MiB."""


class SlowerThanFloat(_Finding):
    """A warning: the file takes longer than float32, both timed in turn here, at batch 1 on one thread."""

    kind: Literal["slower-than-float"] = "slower-than-float"
    milliseconds: float
    float_milliseconds: float


class NumberedFolders(_Finding):
    """A warning: numbered class folders were taken by number, and as text they have another order."""

    kind: Literal["numbered-folders"] = "numbered-folders"
    top1: float
    """Top-1 of the float network, in percent."""
    sorted_top1: float
    """Top-1 of the float network with folders in the order of their names as text, in percent."""


class EmptyClassFolders(_Finding):
    """A warning: there are class folders without an image of a known format."""

    kind: Literal["empty-class-folders"] = "empty-class-folders"
    folders: list[str]


class FloatInaccurate(_Finding):
    """A warning: the float network is right far less often than it is sure: labels or preprocessing may be wrong."""

    kind: Literal["float-inaccurate"] = "float-inaccurate"
    top1: float
    """Top-1 of the float network, in percent."""
    confidence: float
    """The mean probability of its most likely class, in percent."""
    chance: float
    """The share of the most frequent class, in percent: what one answer for all images gets."""


GateWarning = Annotated[
    NotOnProvider
    | FloatKernels
    | LayersLeftInFloat
    | UnderusedTensors
    | LargerThanAsked
    | SlowerThanFloat
    | NumberedFolders
    | EmptyClassFolders
    | FloatInaccurate,
    Field(discriminator="kind"),
]
"""A thing that a person should know although the gate passes."""
