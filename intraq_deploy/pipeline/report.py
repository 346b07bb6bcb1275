"""The report that a run leaves for machines and people: `RUN/run.json`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from intraq_deploy.errors import RunError
from intraq_deploy.pipeline.advice import Advice
from intraq_deploy.pipeline.comparison import ComparisonRow
from intraq_deploy.pipeline.details import ClassesRecord, ReliabilityRecord
from intraq_deploy.pipeline.findings import Failure, GateWarning
from intraq_deploy.pipeline.options import MixedOptions


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """The network, and where its weights and preprocessing came from."""

    architecture: str
    source: str
    source_sha256: str | None
    weights_sha256: str
    """The hash of the loaded tensors."""
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing_source: str


class Bits(_Record):
    """The bits that were asked for."""

    weights: int
    """Bits of every layer's weights, but for depthwise ones; in mixed precision the fewest that a layer may have."""
    activations: int
    depthwise: int | None = None
    """Bits of depthwise layers' weights; None: as those of other layers."""

    def label(self, mixed: "MixedRecord | None") -> str:
        """Returns "W4A4", or "W4/8A4" where layers' weights have several numbers of bits."""
        return f"{self.weights_label(mixed)}A{self.activations}"

    def weights_label(self, mixed: "MixedRecord | None") -> str:
        """Returns "W4", or "W4/8" where layers' weights have several numbers of bits."""
        if mixed is not None:
            return f"W{mixed.widths_label}"
        return f"W{self.weights}" if self.depthwise in (None, self.weights) else f"W{self.weights}/{self.depthwise}"


class MixedRecord(_Record):
    """Weight bits by layer, and what was asked for. The two agreements are percent of held synthetic images on which a
    network with its ranges only, before fine-tuning, has the float network's answer."""

    asked: MixedOptions
    layers: dict[str, int]
    average_bits: float
    """Bits per weight."""
    stored_bytes: int
    """Bytes of the layers, codes of up to 4 bits two to a byte (quantization.allocation.stored_bytes)."""
    images: int
    """Number of held images, which the layers were not measured on."""
    agreement: float
    widest_agreement: float
    """The agreement with all weights at the most bits that could be chosen."""

    @property
    def widths_label(self) -> str:
        """The chosen bits as "4/8", or for more than three different ones "3-8"."""
        found = sorted(set(self.layers.values()))
        return "/".join(map(str, found)) if len(found) <= 3 else f"{found[0]}-{found[-1]}"


class QualityRecord(_Record):
    """The quality of images (synthesis.quality)."""

    bn_distance: float
    confidence: float
    agreement: float
    intra_class_distance: float | None


class ImagesRecord(QualityRecord):
    """The synthetic images and their quality."""

    count: int
    iterations: int
    noise: QualityRecord | None = None
    """The quality of noise, from which images start: what a network says of nothing."""


class CalibrationRecord(_Record):
    """A person's own images, which stood in for synthetic ones."""

    calibration: str
    """The path of the images."""
    count: int
    found: int
    """Number of images that `count` were drawn from."""
    confidence: float
    """Mean probability of the pseudo-labels."""
    classes: int
    """Number of different pseudo-labels."""


class TolerancedRecord(_Record):
    """A tensor that need not be equal."""

    tensor: str
    reason: str
    allowed_share: float
    mismatched: int
    compared: int


class ParityRecord(_Record):
    """One target against the Program, on the images of the run."""

    images: int
    tensors: int
    integers_compared: int
    integers_mismatched: int
    exact_mismatched: int
    """Mismatches in tensors that must be equal, where no other order of rounding explains them."""
    toleranced: list[TolerancedRecord]
    near_ties: int = 0
    """Integers that may differ from the reference because an engine rounds in another order; none in ONNX Runtime."""
    mismatched_tensors: dict[str, int]
    """Mismatches by tensor, where there are any."""
    underused_tensors: list[str]
    """Tensors of which less than half of the codes occurred."""
    top1_agreement: float
    fake_quant_agreement: float
    """Percent of images on which the fake-quant module and the Program have one answer."""
    float_agreement: float | None = None
    """Percent of images on which the float network and the target's file have one answer."""
    logits_equal: bool
    instrumented_equal: bool
    integer_kernels: dict[str, int]
    float_kernels: dict[str, int]
    rehearsed: bool = False
    """Whether ONNX Runtime ran the file in place of the target's runtime, in float32 and without optimisations."""
    ran_by: str | None = None
    """The name of what ran the file on a GPU: its engine, or ONNX Runtime's provider."""


class LayerRecord(_Record):
    """One node of the network, in execution order: in what it computes, and why."""

    name: str
    operator: str
    output: str
    """How its output is quantized: "4 bits asymmetric", "as conv1" for moved data, or "float"."""
    weight: str
    """How its weight is quantized; empty without a weight."""
    integer: bool
    """Whether it computes on integers."""
    reason: str
    weights: int = 0
    """Number of weights."""
    scale: float | None = None
    """The value of one step of its output; None for one in float."""
    headroom_bits: float | None = None
    """How many times an integer layer's accumulator could double, for any input, before it leaves int32."""
    signal_to_noise: float | None = None
    """The ratio of signal to quantization noise of its output on synthetic images, in decibels, with the noise of the
    layers before it; None where there is no noise."""

    @property
    def in_float(self) -> bool:
        """Whether it computes in float."""
        return not self.integer and self.operator != "Input"


class AccumulatorRecord(_Record):
    """The integer layer whose accumulator can grow largest, for any input."""

    layer: str
    largest: int
    headroom_bits: float
    """How many times it could double before it leaves int32."""


class AccountingRecord(_Record):
    """The gain of low bits in one target's file. No runtime has 4-bit convolutions: layers compute in what it has."""

    weights: int
    """Number of weights."""
    stored_bits: float
    """Bits that a weight takes in the file, on average, scales and biases apart."""
    computed_in: str
    """The type that convolutions and linear layers multiply in."""
    smaller: float
    """How many times the file is smaller than the weights and biases in float32."""


class ArtifactRecord(_Record):
    path: str
    """Relative to the run directory."""
    bytes: int
    items: dict[str, int]
    """Bytes by item, `bytes` in all."""
    sha256: str
    accounting: AccountingRecord
    companions: dict[str, str] = {}
    """Further files beside it, by name: their SHA-256."""


class EngineRecord(_Record):
    """An engine that a compiler made of a target's file, and the findings where it could be run on its GPU."""

    path: str
    """Relative to the run directory."""
    bytes: int
    sha256: str
    compiler: str
    compute_capability: str
    gpu: str | None
    """The GPU that it was built on, and for; None where it was compiled ahead of time."""
    seconds: float
    layers: dict[str, str]
    """The type in which each convolution and linear layer multiplies: INT8, INT4 (weights only), or a float one."""
    milliseconds: float | None = None
    """Median of a CUDA graph's replays at batch 1, transfers apart; None where it was not run."""
    float16_milliseconds: float | None = None
    """Median of the float network, built in float16, timed alike."""
    failures: list[Failure] = []
    """The reasons why its gate failed."""


class RunReport(_Record):
    """The whole run. `accuracy` and `accuracy_top5` are percent by stage: float, fake_quant, program and each target,
    beside `images`."""

    format: Literal[2] = 2
    status: Literal["synthesized", "quantized", "passed", "failed"] = "synthesized"
    failures: list[Failure] = []
    """The reasons why the gate failed."""
    warnings: list[GateWarning] = []
    model: ModelRecord
    bits: Bits
    mixed: MixedRecord | None = None
    scheme: str
    preset: str
    """The built-in recipe's name, or the path of the user's own."""
    seed: int
    device: str
    versions: dict[str, str]
    machine: str
    """The CPU of the validation."""
    input: str
    """The type of image that the artifacts take: "float" or "uint8"."""
    made_for: tuple[str, ...] = ()
    """The targets that all take the program."""
    images: ImagesRecord | CalibrationRecord
    reconstructed: bool = False
    """Whether the student was reconstructed block by block before fine-tuning."""
    steps: int
    """Number of fine-tuning steps."""
    layers: list[LayerRecord] = []
    accumulator: AccumulatorRecord | None = None
    settled: list[str] = []
    """Adjustments before freezing, as "layer: adjustment"."""
    seconds: dict[str, float] = {}
    """Seconds by stage, over all sessions that worked on it."""
    parity: dict[str, ParityRecord] = {}
    eval: str | None = None
    """The labelled images behind `accuracy`."""
    accuracy: dict[str, int | float] | None = None
    accuracy_top5: dict[str, int | float] | None = None
    classes: ClassesRecord | None = None
    reliability: dict[str, ReliabilityRecord] = {}
    """The calibration of confidence by network: float, fake_quant and each target."""
    labelled_quality: QualityRecord | None = None
    """The figures of `images` for labelled ones, which they are to be like."""
    comparison: list[ComparisonRow] = []
    advice: Advice | None = None
    artifacts: dict[str, ArtifactRecord] = {}
    engines: dict[str, EngineRecord] = {}
    """Engines by target."""

    @property
    def target(self) -> str | None:
        """The first target whose accuracy was measured, that was compared, or that has a file; None without any."""
        measured = [name for name in self.artifacts if name in (self.accuracy or {})]
        return next(iter(measured or self.parity or self.artifacts), None)

    @property
    def compared(self) -> int:
        """Number of integers that were compared, over all targets."""
        return sum(parity.integers_compared for parity in self.parity.values())

    @property
    def mismatched(self) -> int:
        """Number of integers that differ, over all targets."""
        return sum(parity.integers_mismatched for parity in self.parity.values())

    @property
    def label(self) -> str:
        """The bits as "W4A4" or "W4/8A4"."""
        return self.bits.label(self.mixed)

    @property
    def is_w8a8(self) -> bool:
        """Whether all weights and activations have 8 bits."""
        weights = {self.bits.weights} if self.mixed is None else set(self.mixed.layers.values())
        return weights | {self.bits.activations} == {8}

    def changed(self, **changes: Any) -> "RunReport":
        """Returns the report with other values in some fields, checked like those of any report."""
        return RunReport(**dict(self) | changes)

    def to_json(self) -> str:
        """Returns the text of `run.json`."""
        return self.model_dump_json(indent=2)


def read_report(path: Path) -> RunReport:
    """Returns the report that a run left. Raises RunError for a missing or foreign file."""
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} is no report of a run ({error.strerror}): run quantize first.") from error
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{path} is no report of a run, or one of another version ({reason}): run the same quantize again, which "
            "keeps the stages."
        ) from error
