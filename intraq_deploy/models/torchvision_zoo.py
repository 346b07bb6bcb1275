"""torchvision's classification networks: their names, building them, and what their weights entries say.

torchvision takes seconds to import, so it is imported in the functions.
"""

from typing import Any

from torch import nn

from intraq_deploy.errors import ArchitectureError
from intraq_deploy.models.convolutions import with_input_channels
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.wording import listing, nearest

TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Networks whose pretrained form re-normalises its input from ImageNet's mean and std to 0.5 and 0.5 inside forward.
Here the same function is written as mean and std 0.5 with that step off, so the network starts with its first
convolution."""


def names() -> list[str]:
    """The names of the classification networks of the installed torchvision."""
    from torchvision import models  # noqa: PLC0415

    return list(models.list_models(module=models))


def build(name: str, classes: int, channels: int) -> nn.Module:
    """The network with random weights and without auxiliary heads.

    name: "resnet18", or with a weights tag, which only chooses the preprocessing: "resnet50.IMAGENET1K_V1".
    Raises ArchitectureError for an unknown name.
    """
    from torchvision import models  # noqa: PLC0415

    base = _base(name)
    options: dict[str, Any] = {}
    if base in TRANSFORM_INPUT:
        options = {"aux_logits": False, "init_weights": False}
    module: nn.Module = models.get_model(base, weights=None, num_classes=classes, **options)
    return with_input_channels(module, channels)


def preprocessing(name: str) -> Preprocessing:
    """The preprocessing of the weights entry, of the default one where `name` has no tag.

    Raises ArchitectureError for an unknown name or tag.
    """
    weights = _weights(name)
    transforms = weights.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if _base(name) in TRANSFORM_INPUT:
        mean = std = (0.5, 0.5, 0.5)
    crop = int(transforms.crop_size[0])
    return Preprocessing(
        input_size=(crop, crop),
        mean=mean,
        std=std,
        resize=int(transforms.resize_size[0]),
        interpolation=str(transforms.interpolation.value),
        source=f"torchvision {weights}",
    )


def class_names(name: str) -> tuple[str, ...]:
    """The class names of the weights entry. Raises ArchitectureError for an unknown name or tag."""
    return tuple(_weights(name).meta["categories"])


def pretrained(name: str) -> nn.Module:
    """The network with the library's weights, downloaded through the library if they are not in its cache.

    Raises ArchitectureError for an unknown name; what the download raises.
    """
    from torchvision import models  # noqa: PLC0415

    module: nn.Module = models.get_model(_base(name), weights=_weights(name))
    if _base(name) in TRANSFORM_INPUT:
        module.transform_input = False  # type: ignore[assignment]  # mean and std say it: TRANSFORM_INPUT
    return module


def _base(name: str) -> str:
    """The name without its weights tag, checked."""
    base = name.partition(".")[0]
    known = names()
    if base not in known:
        raise ArchitectureError(f"torchvision has no classifier {base!r}; {nearest(base, known)}.")
    return base


def _weights(name: str) -> Any:
    """The weights entry that `name` chooses."""
    from torchvision import models  # noqa: PLC0415

    base, tag = _base(name), name.partition(".")[2]
    entries = models.get_model_weights(base)
    if not tag:
        return entries.DEFAULT
    if tag not in entries.__members__:
        tags = [entry.name for entry in entries]
        raise ArchitectureError(f"torchvision:{base} has no weights {tag!r}; it has {listing(tags)}.")
    return entries[tag]
