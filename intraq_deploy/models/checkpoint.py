"""Reading a checkpoint file into float32 tensors, without running anything in it.

The only place where `torch.load` is called: always with `weights_only=True`, and without it only for a file
that needs more and that the user trusts by name (`--trust-pickle`).
"""

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from intraq_deploy.models.wrappers import heads, strip_prefixes, unwrap, unwrap_module
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)

CONVERTED = (torch.float16, torch.bfloat16, torch.float64)
"""Float types that become float32; others come with scales that a state_dict does not explain."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    sha256: str | None
    """The SHA-256 of the file's bytes, in hex; of a sharded one that of its shards'; None where there is no file."""
    tensors: dict[str, Tensor]
    """The state_dict: on the CPU, floats as float32 and finite, names without prefixes and up to date."""
    original: dict[str, Tensor]
    """The tensors under the names that they have in the file."""
    module: nn.Module | None = None
    """The whole network, where the file held one and the user trusts it."""

    def parts(self) -> dict[str, "Checkpoint"]:
        """Returns the tensors behind each prefix that a good share of the names have, by the prefix."""
        return {prefix: replace(self, tensors=part, original=part) for prefix, part in heads(self.original).items()}


def read_checkpoint(path: Path, *, trust_pickle: bool = False, weights: str | None = None) -> Checkpoint:
    """Reads a .pth/.pt (torch.save), .safetensors or .pt2 (torch.export) file, or a .safetensors.index.json and the
    files that it names.

    weights: which of several networks in the file: a key of its dictionary, or a prefix of names.
    trust_pickle: unpickle it even if it needs more than tensors and containers, which can run any code.
    Raises CheckpointError, with the remedy, for anything that is no complete, finite, float state_dict.
    """
    kind = file_kind(path)
    content = _content(path, kind, trust_pickle)
    unwrapped = unwrap(path, content, weights)
    module = unwrap_module(unwrapped) if isinstance(unwrapped, nn.Module) else None
    raw = module.state_dict() if module is not None else unwrapped
    assert isinstance(raw, Mapping)

    original = {key: _usable(path, key, tensor) for key, tensor in raw.items()}
    if not original:
        raise CheckpointError(f"{path} holds a network without weights; save a trained one.")
    return Checkpoint(path, _sha256(path, kind), strip_prefixes(original), original, module)


def checkpoint_of(tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Returns a state_dict in memory as a checkpoint, which is named "the state_dict" in messages.

    tensors: of any shapes [...], of any float type or integers, which become float32 on the CPU.

    Raises CheckpointError for what is no complete, finite, float state_dict.
    """
    path = Path("the state_dict")
    original = {key: _usable(path, key, tensor) for key, tensor in tensors.items()}
    if not original:
        raise CheckpointError(f"{path} is empty; give that of a trained network.")
    return Checkpoint(path, None, strip_prefixes(original), original)


def _sha256(path: Path, kind: FileKind) -> str:
    """The SHA-256 of the file, or of those of an index's shards, in hex."""
    if kind is not FileKind.SHARDED:
        return sha256_of(path)
    return hashlib.sha256("".join(sha256_of(shard) for shard in _shards(path)).encode()).hexdigest()


def _content(path: Path, kind: FileKind, trust_pickle: bool) -> Any:
    if kind is FileKind.EXPORTED:
        return read_exported(path)
    if kind is FileKind.TORCH:
        return _load_torch(path, trust_pickle)
    if kind is FileKind.SHARDED:
        return {name: tensor for shard in _shards(path) for name, tensor in _load_safetensors(shard).items()}
    return _load_safetensors(path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy or save it again.") from error


def _shards(path: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names, beside it. Raises CheckpointError for one that is not
    there, and for what is no index."""
    try:
        names = sorted({str(name) for name in json.loads(path.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no index of safetensors files (it has no weight_map); copy or save it again."
        ) from error
    missing = [name for name in names if Path(name).name != name or not (path.parent / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            f"{path} names {len(names)} files, of which {len(missing)} are not beside it (the first: "
            f"{missing[0] if missing else 'none'}); put them into its folder."
        )
    return [path.parent / name for name in names]


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
