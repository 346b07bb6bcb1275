"""The scheme of a network that is quantized for some targets: the only place that makes one.

What is judged (sensitivity, budgets, baselines, inspection) thus has the quantizers of what is shipped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from intraq_deploy.errors import UsageError
from intraq_deploy.graph.graph import Graph
from intraq_deploy.pipeline.options import MADE_FOR
from intraq_deploy.quantization.placement import is_depthwise
from intraq_deploy.quantization.scheme import Scheme, TargetConstraints, make_scheme
from intraq_deploy.quantization.spec import MAX_BITS, weight_spec
from intraq_deploy.targets.profile import TargetProfile, load_profile


@dataclass(frozen=True, slots=True)
class SchemeChoice:
    """Which convention a network is quantized by, and for which targets; only the bits are left open."""

    name: str
    """One of `quantization.scheme.SCHEMES`."""
    targets: tuple[str, ...] = MADE_FOR
    own_targets: tuple[TargetProfile, ...] = ()
    """A person's own among the targets."""
    ranges: Literal["scheme", "learned", "min-max"] = "scheme"
    """How scales are found; "scheme": as the convention has it."""
    depthwise_bits: int | None = None
    """The fewest bits of depthwise layers' weights; None: as those of other layers."""

    def at(self, weight_bits: int, activation_bits: int, layer_bits: Mapping[str, int] | None = None) -> Scheme:
        """Returns the scheme at these bits. layer_bits: weight bits of single layers, by name.

        Raises UsageError for an unknown convention, an unknown target, or bits outside 2..8.
        """
        constraints = constraints_of(self.targets, self.own_targets)
        scheme = make_scheme(self.name, weight_bits, activation_bits, constraints).with_ranges(self.ranges)
        if self.depthwise_bits is not None and self.depthwise_bits > weight_bits:
            depthwise = weight_spec(
                self.depthwise_bits, symmetric=scheme.weight.symmetric, limit=constraints.largest_weight
            )
            scheme = replace(scheme, depthwise_weight=depthwise)
        return replace(scheme, layer_bits=dict(layer_bits or {}))


def check_depthwise(graph: Graph, depthwise_bits: int | None, weight_bits: int) -> None:
    """Checks the bits of depthwise layers, which may be none. weight_bits: of other layers.

    Raises UsageError for fewer than other layers have, and for a network without a depthwise layer.
    """
    if depthwise_bits is None:
        return
    if depthwise_bits < weight_bits:
        raise UsageError(
            f"--depthwise-bits is {depthwise_bits}, and other layers have {weight_bits}: depthwise layers hold few "
            f"weights, and need more bits; give {weight_bits} to {MAX_BITS}, or leave it out."
        )
    if not any(is_depthwise(graph, node) for node in graph.layers()):
        raise UsageError(f"--depthwise-bits is {depthwise_bits}, and the network has no depthwise layer: leave it out.")


def constraints_of(targets: tuple[str, ...], own: Iterable[TargetProfile] = ()) -> TargetConstraints:
    """Returns what all of the targets allow, and the strictest that one of them asks for.

    own: a person's own targets among them. Raises UsageError for an unknown target.
    """
    profiles = [load_profile(target, own) for target in targets]
    limits = [profile.largest_weight for profile in profiles if profile.largest_weight is not None]
    unsigned = all(profile.unsigned_activations for profile in profiles)
    return TargetConstraints(unsigned_activations=unsigned, largest_weight=min(limits, default=None))
