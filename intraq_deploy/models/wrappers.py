"""Unwrapping a state_dict from what training scripts put around it: dictionaries, name prefixes, old names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from intraq_deploy.errors import CheckpointError

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module")
AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")
"""Keys of averaged weights: these are another network, never taken in place of the trained one unasked."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of names, by DataParallel, torch.compile and Lightning."""

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
"""torchvision's published DenseNets still have the names of before 2018: norm.1 for norm1."""

DEEPEST = 4


def unwrap(path: Path, content: Any) -> dict[str, Tensor] | nn.Module:
    """Finds the state_dict, or whole module, in what a checkpoint file holds: tensors of any dtype and shape, by name.

    Raises CheckpointError if there is none, or more than one.
    """
    for _ in range(DEEPEST):
        if isinstance(content, nn.Module):
            return content
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a state_dict; save model.state_dict()."
            )
        inner = [name for name in WRAPPERS if name in content and _holds_weights(content[name])]
        if len(inner) > 1:
            raise CheckpointError(
                f"{path} holds weights in {' and in '.join(map(repr, inner))}; save the one to be used in a "
                "file of its own."
            )
        if not inner:
            break
        content = content[inner[0]]

    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(_no_tensors(path, content))
    return tensors


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off prefixes that every name has, and brings old names up to date. tensors: of any dtype and shape."""
    names = list(tensors)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    names = [OLD_DENSENET.sub(r"\1\2.", name) for name in names]
    return dict(zip(names, tensors.values(), strict=True))


def unwrap_module(module: nn.Module) -> nn.Module:
    """Takes a network out of DataParallel, DistributedDataParallel and torch.compile."""
    while inner := module._modules.get("_orig_mod") or (
        module._modules.get("module") if len(module._modules) == 1 else None
    ):
        module = inner
    return module


def _holds_weights(value: Any, depth: int = DEEPEST) -> bool:
    if isinstance(value, nn.Module):
        return True
    if not isinstance(value, Mapping) or depth == 0:
        return False
    return any(isinstance(item, Tensor) or _holds_weights(item, depth - 1) for item in value.values())


def _no_tensors(path: Path, content: Mapping[Any, Any]) -> str:
    if not content:
        return f"{path} holds an empty dictionary, not a state_dict; save model.state_dict()."
    averaged = [name for name in AVERAGED if name in content]
    if averaged:
        return (
            f"{path} holds only averaged weights ({averaged[0]!r}); save them as a state_dict of their own "
            "if they are to be used."
        )
    keys = ", ".join(repr(key) for key in list(content)[:8])
    return f"{path} holds no tensors where a state_dict is looked for (its keys: {keys}); save model.state_dict()."
