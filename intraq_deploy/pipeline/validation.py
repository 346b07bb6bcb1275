"""One artifact against the Program: integers, kernels, and whether looking changed anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from intraq_deploy.evaluation.parity import Parity, agreement, compare
from intraq_deploy.pipeline.image_size import enlarged
from intraq_deploy.program.program import IntegerWeights, Program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.lower import stored_zero_points
from intraq_deploy.targets.onnxruntime.opening import is_rehearsed, loaded_provider, open_instrumented, open_shipped
from intraq_deploy.targets.tensorrt.engine import EngineSessions
from intraq_deploy.targets.tensorrt.host import Runs
from intraq_deploy.targets.tensorrt.rehearsal import engine_program, rehearsed

_INTEGERS = 60_000_000
"""About how many integers are compared: enough to see a mismatch of one in ten million several times."""
_LEAST_IMAGES, _MOST_IMAGES = 8, 256
_EFFECTS = 2
"""Two engines may each have the other code at every near tie of an image: how far their logits may be apart, in
multiples of what that moves them by (`Parity.rounding_effect`)."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The comparison of one artifact with the Program."""

    parity: Parity
    logits: Tensor = field(repr=False)
    """The artifact's logits, float32 [N, classes]."""
    top1_agreement: float
    """Percent of the compared images on which the artifact and the Program predict one class."""
    logits_equal: bool
    """Whether the artifact's logits are the reference's, bit for bit."""
    instrumented_equal: bool
    """Whether the instrumented model's logits are the shipped one's: byte for byte, or of engines within rounding."""
    integer_kernels: dict[str, int]
    float_kernels: dict[str, int]
    """Kernels of the shipped model by operator, as the runtime optimised it; those of `integer_kernels` alike."""
    layers_left_in_float: int
    """Convolutions and linear layers that the program computes on integers, and the runtime does not."""
    rehearsed: bool
    """Whether another runtime stood in for the target's, which is not here: it then has no kernels of its own to show,
    and the tolerances are those of the other one."""
    ran_by: str | None = None
    """The name of what ran the model on a GPU: its engine, or ONNX Runtime's provider. Neither lists kernels."""

    def __repr__(self) -> str:
        verdict = "passes" if self.passes else "fails"
        return (
            f"Validation({verdict}: {self.parity.mismatched:,} of {self.parity.compared:,} integers differ, top-1 "
            f"agreement {self.top1_agreement:.2f} %)"
        )

    def _repr_html_(self) -> str:
        """The verdict and its figures as a table, for notebooks."""
        rows = {
            "verdict": "passes" if self.passes else "fails",
            "integers compared": f"{self.parity.compared:,}",
            "integers that differ": f"{self.parity.mismatched:,}",
            "top-1 agreement": f"{self.top1_agreement:.2f} %",
            "integer kernels": ", ".join(f"{count} {name}" for name, count in self.integer_kernels.items()) or "none",
            "float kernels": ", ".join(f"{count} {name}" for name, count in self.float_kernels.items()) or "none",
        }
        return f"<table>{''.join(f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in rows.items())}</table>"

    @property
    def passes(self) -> bool:
        """Whether nothing differs more than the program declares."""
        return not self.parity.failures and self.parity.logits_pass and self.instrumented_equal


def _ignore(images: int) -> None: ...


def validate(
    artifact: Artifact,
    program: Program,
    images: Tensor,
    engine: EngineSessions | None = None,
    compared: Callable[[int], None] = _ignore,
) -> Validation:
    """Compares every quantized tensor of the artifact with the program's, on `images`.

    images: as the program takes them, float32 or uint8 [N, C, H, W]. engine: the artifact's, on this machine's GPU;
    without one ONNX Runtime runs the artifact. compared: called with the number of images of each batch.
    """
    count = parity_count(program, len(images))
    images = images[:count]
    batch = max(1, _INTEGERS // 8 // _integers_per_image(program))
    if engine is not None:
        program = engine_program(artifact, program)
        return _on_gpu("its engine", program, engine.shipped, engine.instrumented, images, batch)
    rehearsal, provider = is_rehearsed(artifact), loaded_provider(artifact)
    if provider is not None:
        program = engine_program(artifact, program)
        shipped, instrumented = open_shipped(artifact), open_instrumented(artifact, program)
        return _on_gpu(provider.name, program, shipped, instrumented, images, batch)
    program = rehearsed(artifact, program) if rehearsal else program
    shipped, instrumented = open_shipped(artifact), open_instrumented(artifact, program)
    zero_points = stored_zero_points(program)

    def observed(part: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        found = instrumented.run_instrumented(part, zero_points)
        compared(len(part))
        return found

    parity = compare(program, observed, images, batch)
    logits = torch.cat([shipped.run(part) for part in images.split(batch)])
    layers = sum(not isinstance(weights, IntegerWeights) for weights in program.layers.values())
    return Validation(
        parity=parity,
        logits=logits,
        top1_agreement=agreement(logits, parity.expected),
        logits_equal=torch.equal(logits, parity.expected),
        instrumented_equal=torch.equal(logits, parity.found),
        integer_kernels={} if rehearsal else shipped.integer_kernels(),
        float_kernels={} if rehearsal else shipped.float_kernels(),
        layers_left_in_float=0 if rehearsal else shipped.float_layers() - layers,
        rehearsed=rehearsal,
    )


def _on_gpu(ran_by: str, program: Program, shipped: Runs, instrumented: Runs, images: Tensor, batch: int) -> Validation:
    """program: with an engine's tolerances."""
    zero_points = dict.fromkeys(program.grids, 0)
    parity = compare(
        program, lambda part: instrumented.run_instrumented(part, zero_points), images, batch, own_rounding=True
    )
    logits = torch.cat([shipped.run(part) for part in images.split(batch)])
    apart = (logits - parity.found).abs().amax(1) / parity.found.abs().max()
    # With further outputs an engine may fuse and round otherwise: a code near a tie, and what follows from it.
    allowed = _EFFECTS * parity.rounding_effect + (parity.logits_tolerance or 0.0)
    return Validation(
        parity=parity,
        logits=logits,
        top1_agreement=agreement(logits, parity.expected),
        logits_equal=torch.equal(logits, parity.expected),
        instrumented_equal=bool((apart <= allowed).all()),
        integer_kernels={},
        float_kernels={},
        layers_left_in_float=0,
        rehearsed=False,
        ran_by=ran_by,
    )


def _integers_per_image(program: Program) -> int:
    return max(1, sum(torch.Size(program.graph[name].shape).numel() for name in program.grids))


def parity_count(program: Program, available: int) -> int:
    """Returns over how many of the available images integers are compared."""
    wanted = max(_LEAST_IMAGES, min(_MOST_IMAGES, _INTEGERS // _integers_per_image(program)))
    return min(available, wanted)


def normalised(program: Program, images: Tensor) -> Tensor:
    """Returns images as the float network takes them, float32 [N, C, H, W], normalised.

    images: as the program takes them, float32 or uint8 [N, C, H, W].
    """
    return images if program.normalization is None else program.normalization.apply(images)


def program_input(program: Program, images: Tensor) -> Tensor:
    """Returns normalised images, float32 [N, C, H, W], as the program takes them: of its size, smaller ones continued
    by reflection; themselves, or the nearest uint8 pixels [N, C, H, W]."""
    images = enlarged(images, *program.graph.input.shape[1:])
    return images if program.normalization is None else program.normalization.invert(images)
