"""The weights inside a torch.export archive (.pt2).

`torch.export.load` unpickles whatever the archive holds, so the weights are read here: a JSON table names
each tensor's type, shape, strides and file, and the files are raw little-endian values. The graph is not
used: exporting may have folded or renamed what the network's modules did.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intraq_deploy.errors import CheckpointError
from intraq_deploy.wording import reason

WEIGHTS = "data/weights/"

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""The types by their number in the archive."""


def read_exported(path: Path) -> dict[str, Tensor]:
    """Reads the exported program's state_dict: tensors of any dtype and shape, by name, on the CPU.

    Raises CheckpointError if the archive has no table of weights, more than one, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root, table = _table(path, archive)
            return {name: _tensor(path, archive, root, name, entry) for name, entry in table.items()}
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged or written by an unknown version of torch.export ({reason(error)}); "
            "give the state_dict itself, written by torch.save."
        ) from error


def _table(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, Any]]:
    """The folder of the weights, and tensor name -> its entry."""
    tables = [name for name in archive.namelist() if WEIGHTS in name and name.endswith("_weights_config.json")]
    if len(tables) != 1:
        raise CheckpointError(
            f"{path} holds the weights of {len(tables)} exported programs, not of one; export the classifier alone."
        )
    config: dict[str, Any] = json.loads(archive.read(tables[0]))["config"]
    return tables[0].rpartition("/")[0] + "/", config


def _tensor(path: Path, archive: zipfile.ZipFile, root: str, name: str, entry: dict[str, Any]) -> Tensor:
    if entry["use_pickle"]:
        raise CheckpointError(
            f"{path} keeps the tensor {name} as a pickle, which can run code; give the state_dict itself, "
            "written by torch.save."
        )
    meta = entry["tensor_meta"]
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{path} keeps the tensor {name} in a type that is not supported (number {meta['dtype']}); "
            "export the float32 network."
        )

    sizes = [size["as_int"] for size in meta["sizes"]]
    raw = archive.read(root + entry["path_name"])
    if not raw:
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype)
    strides = [stride["as_int"] for stride in meta["strides"]]
    return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).contiguous()
