"""What a run leaves for machines and people: `RUN/run.json`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from intraq_deploy.errors import RunError
from intraq_deploy.pipeline.options import MixedOptions


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelRecord(_Record):
    """Which network, and where its weights and preprocessing came from."""

    architecture: str
    source: str
    source_sha256: str | None
    weights_sha256: str
    """Of the loaded tensors."""
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing_source: str


class Bits(_Record):
    weights: int
    """Of every layer; in mixed precision the fewest that a layer may have."""
    activations: int


class MixedRecord(_Record):
    """Weight bits by layer, and what was asked for. The two agreements are percent of held synthetic images on which a
    network with its ranges only, before fine-tuning, has the float network's answer."""

    asked: MixedOptions
    layers: dict[str, int]
    average_bits: float
    """Per weight."""
    stored_bytes: int
    """Of the layers, codes of up to 4 bits two to a byte (quantization.allocation.stored_bytes)."""
    images: int
    """Held: not those that the layers were measured on."""
    agreement: float
    widest_agreement: float
    """With all weights at the most bits that could be chosen."""

    @property
    def weights(self) -> str:
        """ "4/8", or for more than three different ones "3-8"."""
        found = sorted(set(self.layers.values()))
        return "/".join(map(str, found)) if len(found) <= 3 else f"{found[0]}-{found[-1]}"


def bits_label(weights: int, activations: int, mixed: MixedRecord | None) -> str:
    """ "W4A4", or with the weight bits that were chosen "W4/8A4"."""
    return f"W{weights if mixed is None else mixed.weights}A{activations}"


class ImagesRecord(_Record):
    """The synthetic images and their quality (synthesis.quality)."""

    count: int
    iterations: int
    bn_distance: float
    confidence: float
    agreement: float
    intra_class_distance: float | None


class CalibrationRecord(_Record):
    """A person's own images, which stood in for synthetic ones."""

    calibration: str
    """Where they are."""
    count: int
    found: int
    """How many there were to draw `count` from."""
    confidence: float
    """Mean probability of the network's answers."""
    classes: int
    """How many different answers it gives."""


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
    """Of them in tensors that must be equal, and where no other order of rounding explains it."""
    toleranced: list[TolerancedRecord]
    near_ties: int = 0
    """Integers that may differ from the reference because an engine rounds in another order; none in ONNX Runtime."""
    mismatched_tensors: dict[str, int]
    """Mismatches by tensor, where there are any."""
    underused_tensors: list[str]
    """Less than half of their codes occurred."""
    top1_agreement: float
    fake_quant_agreement: float
    """Percent of images on which the fake-quant module and the Program have one answer."""
    logits_equal: bool
    instrumented_equal: bool
    integer_kernels: dict[str, int]
    float_kernels: dict[str, int]
    rehearsed: bool = False
    """Whether ONNX Runtime ran the file in place of the target's runtime, in float32 and without optimisations."""
    ran_by: str | None = None
    """What ran the file on a GPU: its engine, or ONNX Runtime's provider."""


class AccumulatorRecord(_Record):
    """The integer layer whose accumulator can grow largest, for any input."""

    layer: str
    largest: int
    headroom_bits: float
    """How many times it could double before it leaves int32."""


class ComparisonRow(_Record):
    """One line of the table for people."""

    name: str
    top1: float
    top5: float
    bytes: int
    milliseconds: float | None
    """Median at batch 1 on one thread, all rows timed in turn; None where the runtime is on the device only. Of what
    runs on a GPU, copies to it and back included."""
    note: str | None = None
    """What has to be known of it."""


class AccountingRecord(_Record):
    """What low bits buy in one target's file. What computes is what its runtime has: nothing has 4-bit convolutions."""

    weights: int
    """Their number."""
    stored_bits: float
    """That a weight takes in the file, on average, scales and biases apart."""
    computed_in: str
    """The type that convolutions and linear layers multiply in."""
    smaller: float
    """How many times the file is smaller than the weights and biases in float32."""


class ArtifactRecord(_Record):
    path: str
    """Relative to the run directory."""
    bytes: int
    items: dict[str, int]
    """What they are spent on, `bytes` in all."""
    sha256: str
    accounting: AccountingRecord
    companions: dict[str, str] = {}
    """Further files beside it, by name: their SHA-256."""


class EngineRecord(_Record):
    """What a compiler made of a target's file, and what was found where it was built on its GPU and could be run."""

    path: str
    """Relative to the run directory."""
    bytes: int
    sha256: str
    compiler: str
    compute_capability: str
    gpu: str | None
    """That it was built on, and for; None where it was compiled ahead of time."""
    seconds: float
    layers: dict[str, str]
    """In which type each convolution and linear layer multiplies: INT8, INT4 (weights only), or a float one."""
    milliseconds: float | None = None
    """Median of a CUDA graph's replays at batch 1, transfers apart; None where it was not run."""
    float16_milliseconds: float | None = None
    """The same of the float network, built in float16."""
    failures: list[str] = []
    """Why its gate failed, one sentence each."""


class RunReport(_Record):
    """The whole run. `accuracy` and `accuracy_top5` are percent by stage: float, fake_quant, program and each target,
    beside `images`."""

    format: Literal[1] = 1
    status: Literal["synthesized", "quantized", "passed", "failed"]
    failures: list[str] = []
    """Why the gate failed, one sentence each."""
    warnings: list[str] = []
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
    """What the artifacts take: "float" or "uint8"."""
    images: ImagesRecord | CalibrationRecord
    reconstructed: bool = False
    """Block by block, before fine-tuning."""
    steps: int
    """Of fine-tuning."""
    accumulator: AccumulatorRecord | None = None
    settled: list[str] = []
    """What was adjusted before freezing."""
    seconds: dict[str, float]
    """By stage, over all sessions that worked on it."""
    parity: dict[str, ParityRecord] = {}
    eval: str | None = None
    """The labelled images behind `accuracy`."""
    accuracy: dict[str, int | float] | None = None
    accuracy_top5: dict[str, int | float] | None = None
    comparison: list[ComparisonRow] = []
    advice: str | None = None
    artifacts: dict[str, ArtifactRecord] = {}
    engines: dict[str, EngineRecord] = {}
    """By target."""

    @property
    def label(self) -> str:
        """ "W4A4", "W4/8A4"."""
        return bits_label(self.bits.weights, self.bits.activations, self.mixed)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)


def read_report(path: Path) -> RunReport:
    """Raises RunError for a missing or foreign file."""
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason: Any = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise RunError(f"{path} is no report of a run ({reason}): run quantize first.") from error
