"""timm's networks: their names, building them, and what their pretrained configurations say.

timm is optional, and is imported at use.
"""

import importlib
import math
import socket
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from intraq_deploy.errors import ArchitectureError
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.wording import nearest


def names() -> list[str]:
    """The names of all architectures of the installed timm. Raises ArchitectureError without timm."""
    return list(_timm().list_models())


def build(name: str, classes: int, channels: int) -> nn.Module:
    """The network with random weights.

    name: "resnet18", or with a weights tag, which only chooses the preprocessing: "resnet18.a1_in1k".
    Raises ArchitectureError for an unknown name or tag, or without timm.
    """
    _configuration(name)
    # Not every network takes in_chans, and those that do take 3 as their default.
    options: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
    module: nn.Module = _timm().create_model(name, pretrained=False, num_classes=classes, **options)
    return module


def preprocessing(name: str) -> Preprocessing | None:
    """The preprocessing of the pretrained configuration, of the default tag where `name` has none.

    Returns None for a way of resizing that is not supported ("border").
    Raises ArchitectureError for an unknown name or tag, or without timm.
    """
    config = _configuration(name)
    if config.crop_mode == "border":
        return None
    _, height, width = config.input_size
    tag = f".{config.tag}" if config.tag else ""
    origin = "" if config.has_weights else " (default configuration, no published weights)"
    return Preprocessing(
        input_size=(height, width),
        mean=tuple(config.mean),
        std=tuple(config.std),
        resize=math.floor(min(height, width) / config.crop_pct),
        squash=config.crop_mode == "squash",
        interpolation=config.interpolation,
        source=f"timm {name.partition('.')[0]}{tag}{origin}",
    )


def pretrained(name: str) -> nn.Module:
    """The network with the library's weights, downloaded through the library if they are not in its cache.

    Raises ArchitectureError for an unknown name or tag, or without timm; ConnectionError where neither the hub nor the
    cache has them; what the download raises.
    """
    _configuration(name)
    away = _host_that_is_away()
    try:
        module: nn.Module = _timm().create_model(name, pretrained=True)
    except Exception as error:
        if away is None:
            raise
        raise ConnectionError(f"{away} is not reached, and its cache here has them not") from error
    return module


def _host_that_is_away() -> str | None:
    """Returns the hub's host if its name is not found here. Then the hub's library looks into its cache alone: it would
    try again for a minute."""
    hub: Any = importlib.import_module("huggingface_hub.constants")
    host: str | None = urlsplit(hub.ENDPOINT).hostname
    if getproxies():  # which find it
        return None
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = True
        return host
    return None


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ArchitectureError("timm is not installed: install it with: pip install timm.") from error


def _configuration(name: str) -> Any:
    """The pretrained configuration that `name` chooses, checked."""
    models = _timm().models
    base, _, tag = name.partition(".")
    if not models.is_model(base):
        raise ArchitectureError(f"timm has no network {base!r}; {nearest(base, names())}.")
    try:
        return models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = models.list_pretrained(f"{base}.*")
        raise ArchitectureError(f"timm:{base} has no weights {tag!r}; {nearest(name, tags)}.") from error
