"""Reading a checkpoint file into float32 tensors, without running anything in it.

The only place where `torch.load` is called: always with `weights_only=True`, and without it only for a file
that needs more and that the user trusts by name (`--trust-pickle`).
"""

import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from intraq_deploy.errors import CheckpointError
from intraq_deploy.files import sha256_of
from intraq_deploy.models.exported import read_exported
from intraq_deploy.models.file_kind import FileKind, file_kind
from intraq_deploy.models.wrappers import AVERAGED, strip_prefixes, unwrap, unwrap_module
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)

CONVERTED = (torch.float16, torch.bfloat16, torch.float64)
"""Float types that become float32; others come with scales that a state_dict does not explain."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    sha256: str
    """The SHA-256 of the file's bytes, in hex."""
    tensors: dict[str, Tensor]
    """The state_dict: on the CPU, floats as float32 and finite, names without prefixes and up to date."""
    original: dict[str, Tensor]
    """The tensors under the names that they have in the file."""
    module: nn.Module | None = None
    """The whole network, where the file held one and the user trusts it."""


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Reads a .pth/.pt (torch.save), .safetensors or .pt2 (torch.export) file.

    trust_pickle: unpickle it even if it needs more than tensors and containers, which can run any code.
    Raises CheckpointError, with the remedy, for anything that is no complete, finite, float state_dict.
    """
    content = _content(path, file_kind(path), trust_pickle)
    if isinstance(content, Mapping) and any(name in content for name in AVERAGED):
        logger.info("%s also holds averaged (EMA) weights; they are not used", path)

    unwrapped = unwrap(path, content)
    module = unwrap_module(unwrapped) if isinstance(unwrapped, nn.Module) else None
    raw = module.state_dict() if module is not None else unwrapped
    assert isinstance(raw, Mapping)

    original = {key: _usable(path, key, tensor) for key, tensor in raw.items()}
    if not original:
        raise CheckpointError(f"{path} holds a network without weights; save a trained one.")
    return Checkpoint(path, sha256_of(path), strip_prefixes(original), original, module)


def _content(path: Path, kind: FileKind, trust_pickle: bool) -> Any:
    if kind is FileKind.EXPORTED:
        return read_exported(path)
    if kind is FileKind.TORCH:
        return _load_torch(path, trust_pickle)
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy or save it again.") from error


def _load_torch(path: Path, trust_pickle: bool) -> Any:
    """Reads a file of torch.save. Raises CheckpointError for a damaged one, and for one that needs trust not given."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = _globals_needed(path, error)
        if not needed:
            raise CheckpointError(
                f"{path} cannot be read: it is damaged, or was not written by torch.save; save "
                "model.state_dict() with torch.save."
            ) from error
        if not trust_pickle:
            raise CheckpointError(
                f"{path} is a pickle that would run code when it is read: it needs {', '.join(needed)}; save "
                "model.state_dict() alone and give --arch, or, if you trust its author as you would a "
                "program's, --trust-pickle."
            ) from error
    except Exception as error:  # damaged bytes may trip the reader anywhere
        raise CheckpointError(f"{path} is cut off or damaged ({reason(error)}); copy or save it again.") from error
    return _load_trusted(path)


def _load_trusted(path: Path) -> Any:
    logger.warning("%s: running the code in this pickle, as --trust-pickle asks", path)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs what it likes, and may fail in any way
        raise CheckpointError(
            f"{path} cannot be unpickled ({reason(error)}); make the code that it needs importable, or "
            "save model.state_dict() alone and give --arch."
        ) from error


def _globals_needed(path: Path, error: Exception) -> list[str]:
    """The names beyond tensors and plain containers that a pickle would import; empty if it needs none."""
    try:
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # damaged, or in the format of before PyTorch 1.6: the error names the first
        found = []
    return found or sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))


def _usable(path: Path, key: str, tensor: Tensor) -> Tensor:
    """The tensor, dense and on the CPU; a float one as float32. Raises CheckpointError."""
    tensor = tensor.detach()
    strange = _strangeness(tensor)
    if strange:
        raise CheckpointError(
            f"{path}: the tensor {key} is {strange}; give the weights of the float network that was trained."
        )
    if not tensor.is_floating_point():
        return tensor

    tensor = tensor.to(torch.float32)
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise CheckpointError(
            f"{path}: {bad} of {tensor.numel()} values of {key} are NaN or infinite; give a checkpoint from "
            "before the training diverged."
        )
    return tensor


def _strangeness(tensor: Tensor) -> str | None:
    """The reason why a tensor cannot be used as a float weight or an integer buffer; None if it can."""
    if tensor.is_meta:
        return "on the meta device and has no values"
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if tensor.is_complex():
        return f"complex ({tensor.dtype})"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, *CONVERTED):
        return f"{tensor.dtype}, which needs scales"
    return None
