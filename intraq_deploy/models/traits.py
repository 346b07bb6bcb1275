"""Traits of a network that its tensors do not show, in a few words: they tell networks with equal tensors apart."""

from collections import Counter

from torch import nn

from intraq_deploy.models.model import Preprocessing

ACTIVATION_MODULES = ("torch.nn.modules.activation", "timm.layers.activations")

WHOLE_IMAGE = (
    "Adaptive",
    "FastAdaptive",
    "SelectAdaptive",
    "Global",
    "AttentionPool",
    "Attentional",
    "RotAtt",
)
"""Beginnings of the types of pooling that libraries name differently and that all networks end with."""


def describe(module: nn.Module, preprocessing: Preprocessing | None) -> dict[str, str]:
    """Describes a network by its traits: words by title, for the titles that apply.

    The titles: "input", "normalisation", "resizing", "weights" from the preprocessing; "BatchNorm eps",
    "activation", "pooling", "padding" from the module.
    """
    traits = _of_module(module)
    if preprocessing is not None:
        height, width = preprocessing.input_size
        traits["input"] = f"{height}x{width}"
        traits["normalisation"] = f"mean {_numbers(preprocessing.mean)}, std {_numbers(preprocessing.std)}"
        if preprocessing.resize is not None:
            squash = ", squashed" if preprocessing.squash else ""
            traits["resizing"] = f"{preprocessing.resize} {preprocessing.interpolation}{squash}"
        traits["weights"] = preprocessing.source
    return traits


def tell_apart(described: dict[str, dict[str, str]]) -> dict[str, str]:
    """Keeps the traits that differ between several networks.

    described: traits by specification. Returns "input 224x224, padding SAME", or "" if nothing differs, by
    specification.
    """
    # A title may be missing where a network calls functions instead of modules: that tells nothing.
    common = set.intersection(*(set(traits) for traits in described.values())) - {"weights"}
    differing = [title for title in sorted(common) if len({traits[title] for traits in described.values()}) > 1]
    return {spec: ", ".join(f"{title} {traits[title]}" for title in differing) for spec, traits in described.items()}


def _of_module(module: nn.Module) -> dict[str, str]:
    traits: dict[str, str] = {}
    epsilons = {f"{child.eps:g}" for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)}
    if epsilons:
        traits["BatchNorm eps"] = " and ".join(sorted(epsilons))

    kinds = Counter(type(child).__name__ for child in module.modules() if type(child).__module__ in ACTIVATION_MODULES)
    if kinds:
        traits["activation"] = min(kinds, key=lambda name: (-kinds[name], name))

    pooling = {name for name in map(_type_name, module.modules()) if "Pool" in name}
    local = sorted(name for name in pooling if not name.startswith(WHOLE_IMAGE))
    if local:
        traits["pooling"] = " and ".join(local)

    same = any("Same" in type(child).__name__ for child in module.modules())
    traits["padding"] = "SAME, as TensorFlow" if same else "symmetric"
    return traits


def _type_name(module: nn.Module) -> str:
    return type(module).__name__


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
