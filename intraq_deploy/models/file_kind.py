"""The kind of a checkpoint file, told by its content: suffixes lie, and failed downloads keep theirs."""

import zipfile
from enum import Enum
from pathlib import Path

from intraq_deploy.errors import CheckpointError

REMEDY = "give a file written by torch.save, safetensors, torch.export or torch.onnx.export"


class FileKind(Enum):
    """The formats of checkpoints that can be read."""

    TORCH = "torch.save"
    SAFETENSORS = "safetensors"
    EXPORTED = "torch.export"
    SHARDED = "the index of several safetensors files"
    ONNX = "ONNX"


_HEAD, _SHOWN = 64, 40
"""Bytes of a file that are looked at, and characters of a text that are shown."""
_IR_VERSIONS = range(3, 64)
"""Versions of ONNX's format, which its files begin with."""

FOREIGN = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image or a sound",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with git lfs pull",
    b"<!doctype": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
}
"""Files that are often mistaken for checkpoints, by how they begin: in lower case where they are text."""


def file_kind(path: Path) -> FileKind:
    """Tells a file's format by its first bytes, and that of a zip archive by its members.

    Raises CheckpointError if `path` is missing, a directory, empty, unreadable, or of another format.
    """
    head, size = _head(path)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[:1] == b"\x80":
        return FileKind.TORCH
    if int.from_bytes(head[:8], "little") <= size and head[8:9] == b"{":
        return FileKind.SAFETENSORS

    if head[:1] == b"\x08" and head[1] in _IR_VERSIONS:
        return FileKind.ONNX
    if path.name.endswith(".safetensors.index.json"):
        return FileKind.SHARDED
    for start, description in FOREIGN.items():
        if head.startswith(start) or head.lower().startswith(start):
            raise CheckpointError(f"{path} is {description}; {REMEDY}.")
    if head[4:8] == b"TFL3":
        raise CheckpointError(f"{path} is a TensorFlow Lite model; {REMEDY}.")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is damaged: its header is cut off; copy or save it again.")
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path} is damaged: it does not begin as an ONNX file does; copy or export it again.")
    raise CheckpointError(f"{path} is no checkpoint: {_beginning(head)}; {REMEDY}.")


def _beginning(head: bytes) -> str:
    """How a file begins, for people: its first line where it is text, else its first bytes."""
    text = head.decode(errors="ignore")
    whole = len(text.encode()) > len(head) - 4  # the last character may be cut off
    line = text.strip().partition("\n")[0].strip()
    if whole and line and line.isprintable() and "\0" not in text:
        return f"it is a text file, which begins with {line[:_SHOWN]!r}"
    return f"it begins with the bytes {head[:8].hex(' ')}"


def _head(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    if path.is_dir():
        inside = sorted(
            child.name for child in path.iterdir() if child.suffix in (".pth", ".pt", ".safetensors", ".pt2", ".onnx")
        )
        found = f"; it contains {', '.join(inside[:5])}" if inside else ""
        raise CheckpointError(f"{path} is a directory{found}; give the checkpoint file itself.")
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a checkpoint file, or a name such as builtin:resnet20-cifar10, "
            "torchvision:resnet18 or timm:resnet18."
        )

    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); copy or save it again.")
    return head, size


def _kind_of_zip(path: Path) -> FileKind:
    """The kind of a zip archive: torch.save, torch.export and TorchScript all write one, with other members."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is cut off or damaged: the directory at the archive's end is missing "
            f"({path.stat().st_size} bytes are there); copy or save it again."
        ) from error

    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive, which holds compiled code; save the state_dict instead: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pth')."
        )
    if any(name.startswith("data/weights/") for name in names):
        return FileKind.EXPORTED
    if "data.pkl" in names:
        return FileKind.TORCH
    shown = ", ".join(names[:3]) or "nothing"
    raise CheckpointError(f"{path} is a zip archive, but no checkpoint (it holds {shown}); {REMEDY}.")
