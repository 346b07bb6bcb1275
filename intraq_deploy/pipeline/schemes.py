"""The scheme of a network that is quantized for some targets: the only place that makes one."""

from collections.abc import Iterable

from intraq_deploy.quantization.scheme import TargetConstraints
from intraq_deploy.targets.profile import TargetProfile, load_profile


def constraints_of(targets: tuple[str, ...], own: Iterable[TargetProfile] = ()) -> TargetConstraints:
    """What all of the targets allow, and the strictest that one of them asks for. own: a person's own among them."""
    profiles = [load_profile(target, own) for target in targets]
    limits = [profile.largest_weight for profile in profiles if profile.largest_weight is not None]
    unsigned = all(profile.unsigned_activations for profile in profiles)
    return TargetConstraints(unsigned_activations=unsigned, largest_weight=min(limits, default=None))
