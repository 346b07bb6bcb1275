"""Unwrapping a state_dict from what training scripts put around it: dictionaries, name prefixes, old names."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from intraq_deploy.errors import CheckpointError

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module")
"""Keys that are taken where weights are behind others too, of a loss or a discriminator."""
AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema")
"""Keys of averaged weights: another network than the trained one, and often the better; nobody else can say which."""
COUNTERS = ("total_ops", "total_params")
"""The ends of names of what profilers count in every module."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of names, by DataParallel, torch.compile and Lightning."""

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
"""torchvision's published DenseNets still have the names of before 2018: norm.1 for norm1."""

DEEPEST = 4
_HEAD_PARTS, _HEAD_SHARE = 2, 0.1
"""A network that is a part of what was saved has a prefix of so many parts at most, and that share of the tensors."""


def unwrap(path: Path, content: Any, chosen: str | None = None) -> dict[str, Tensor] | nn.Module:
    """Finds the state_dict, or whole module, in what a checkpoint file holds: tensors of any dtype and shape, by name.

    chosen: which one, where there are several: a key, or a prefix of names. Raises CheckpointError if there is none, or
    more than one.
    """
    for _ in range(DEEPEST):
        if isinstance(content, nn.Module):
            return content
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a state_dict; save model.state_dict()."
            )
        inner = [name for name, value in content.items() if _holds_weights(value)]
        if not inner:
            break
        if chosen in inner:
            content, chosen = content[chosen], None
        elif chosen is not None and len(inner) > 1:
            raise CheckpointError(_not_chosen(path, chosen, content))
        else:
            content = content[_only_set(path, inner)]

    tensors = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Tensor) and str(key).rpartition(".")[2] not in COUNTERS
    }
    if chosen is not None:
        prefix = f"{chosen.rstrip('.')}."
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if not tensors:
            raise CheckpointError(_not_chosen(path, chosen, content))
    if not tensors:
        raise CheckpointError(_no_tensors(path, content))
    return tensors


def _only_set(path: Path, names: Sequence[str]) -> str:
    """The one of several keys of weights that is meant. Raises CheckpointError if any could be."""
    trained = [name for name in names if name not in AVERAGED]
    averaged = [name for name in names if name in AVERAGED]
    known = [name for name in trained if name in WRAPPERS]
    chosen = (known if len(known) == 1 else trained) + averaged
    if len(chosen) > 1:
        where = " and in ".join(f"{name!r}{' (averaged ones)' if name in averaged else ''}" for name in chosen)
        choices = " or ".join(f"--weights {name}" for name in chosen)
        raise CheckpointError(f"{path} holds weights in {where}; choose with {choices}.")
    if others := [name for name in names if name != chosen[0]]:
        logger.warning(
            "%s: the weights in %r are taken, and not those in %s (--weights %s takes the others)",
            path,
            chosen[0],
            " or ".join(map(repr, others)),
            others[0],
        )
    elif chosen[0] in AVERAGED:
        logger.warning("%s holds only averaged weights (%r), and these are taken", path, chosen[0])
    return chosen[0]


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off prefixes that every name has but those of loose scalars, and brings old names up to date. tensors: of
    any dtype and shape."""
    names = {name: name for name, tensor in tensors.items() if not is_loose(name, tensor)}
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names.values())), None):
        names = {old: name.removeprefix(prefix) for old, name in names.items()}
    return {OLD_DENSENET.sub(r"\1\2.", names.get(name, name)): tensor for name, tensor in tensors.items()}


def is_loose(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of any dtype is a single number [] beside the network: `epoch`, AveragedModel's `n_averaged`."""
    return "." not in name and tensor.dim() == 0


def heads(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors behind each prefix of one or two parts that a good share of the names have, under names without it.
    Where a network is one part of what was saved, it is one of these. tensors: of any dtype and shape."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for depth in range(1, min(_HEAD_PARTS, len(parts) - 1) + 1):
            prefix = ".".join(parts[:depth]) + "."
            found.setdefault(prefix, {})[name.removeprefix(prefix)] = tensor
    least = _HEAD_SHARE * len(tensors)
    return {prefix: part for prefix, part in found.items() if len(part) >= least}


def unwrap_module(module: nn.Module) -> nn.Module:
    """Takes a network out of DataParallel, DistributedDataParallel and torch.compile."""
    while inner := module._modules.get("_orig_mod") or (
        module._modules.get("module") if len(module._modules) == 1 else None
    ):
        module = inner
    return module


def _holds_weights(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value of a checkpoint is a network's weights, or has them inside; an optimizer's state is not."""
    if isinstance(value, nn.Module):
        return True
    if not isinstance(value, Mapping) or depth == 0:
        return False
    return any(
        isinstance(key, str) and ("weight" in key if isinstance(item, Tensor) else _holds_weights(item, depth - 1))
        for key, item in value.items()
    )


def _no_tensors(path: Path, content: Mapping[Any, Any]) -> str:
    if not content:
        return f"{path} holds an empty dictionary, not a state_dict; save model.state_dict()."
    return (
        f"{path} holds no tensors where a state_dict is looked for (its keys: {_keys(content)}); save "
        "model.state_dict()."
    )


def _not_chosen(path: Path, chosen: str, content: Mapping[Any, Any]) -> str:
    return f"{path} has no weights of the key or prefix {chosen!r}, which --weights names; it has {_keys(content)}."


def _keys(content: Mapping[Any, Any]) -> str:
    return ", ".join(repr(key) for key in list(content)[:8])
