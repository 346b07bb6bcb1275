"""The value that goes through the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from intraq_deploy.pipeline.findings import Failure
from intraq_deploy.pipeline.report import MixedRecord
from intraq_deploy.program.program import Program
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.tensorrt.engine import EngineSessions


@dataclass(frozen=True, slots=True)
class GateCandidate:
    """A quantized network in all of its forms, and the images that they are compared on."""

    student: FakeQuantNetwork
    """The fake-quant module, settled, on the CPU."""
    program: Program
    artifacts: Mapping[str, Artifact]
    """The artifacts by target."""
    images: SyntheticSet
    engines: Mapping[str, EngineSessions] = field(default_factory=dict)
    """The engines by target, of those that run on this machine's GPU, in place of a rehearsal."""
    engine_failures: Mapping[str, Sequence[Failure]] = field(default_factory=dict)
    """Failures by target that were found earlier, of engines that cannot run here: they still hold."""
    mixed: MixedRecord | None = None
    """The weight bits that were chosen layer by layer."""
