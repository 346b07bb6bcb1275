"""A bundle's manifest: what stands in it, and whether every file is the one that it describes."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, TypedDict

from .base import Problem, one_line, sha256_of
from .versions import version_of

MANIFEST, FORMAT = "manifest.json", 1
UNPACK = "unpack the bundle again"


class ModelEntry(TypedDict):
    """One model: the network for a runtime of some versions."""

    target: str
    runtime: str
    since: str
    before: Optional[str]
    file: str
    outputs: str
    """The file whose bytes, appended to the model's, make the codes of all quantized tensors outputs."""
    own_rounding: bool
    """Whether the runtime rounds in another order than the program."""
    zero_points: bool
    """Whether codes are stored with their zero-point added."""
    logits_share: Optional[float]
    """How far logits may be off, as a share of the largest; None: not at all."""


class InputEntry(TypedDict):
    """The network's input."""

    name: str
    type: str
    shape: List[int]


class PreprocessingEntry(TypedDict):
    """How images are resized and normalised."""

    input_size: List[int]
    mean: List[float]
    std: List[float]
    resize: Optional[int]
    interpolation: str
    squash: bool


class TensorEntry(TypedDict):
    """One quantized tensor of the network."""

    name: str
    value: str
    """The name of its codes in the ONNX file."""
    zero_point: int
    inputs: List[str]
    """The quantized tensors that it is computed from."""
    share: Optional[float]
    """How many of its codes may differ by one, computed from equal ones; None: none."""


class CheckEntry(TypedDict):
    """The images and codes that `check` compares."""

    images: str
    images_are: str
    expected: str
    images_with_codes: int
    tensors: List[TensorEntry]


class FileEntry(TypedDict):
    """One file of the bundle."""

    sha256: str
    bytes: int


class Manifest(TypedDict):
    """The whole manifest."""

    format: int
    name: str
    network: Dict[str, Any]
    device: Dict[str, Any]
    needs: List[str]
    made_with: Dict[str, str]
    models: List[ModelEntry]
    left_out: Dict[str, str]
    input: InputEntry
    preprocessing: PreprocessingEntry
    classes: Optional[str]
    check: CheckEntry
    files: Dict[str, FileEntry]


class Bundle(NamedTuple):
    """The folder, as its manifest describes it."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The path of a listed file."""
        return self.folder / name

    def classes(self) -> Optional[List[str]]:
        """Names of the classes; None where the bundle has none."""
        listed = self.manifest["classes"]
        names: Optional[List[str]] = None
        if listed is not None:
            names = json.loads(self.path(listed).read_text(encoding="utf-8"))
        return names


def open_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, every file verified. Raises Problem for one that is missing, changed, or outside it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"]
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
        wanted = ("models", "input", "preprocessing", "classes", "check", "network", "device")
        missing = [key for key in wanted if key not in manifest]
        named = [] if missing else _named(manifest)
    except OSError as error:
        raise Problem(f"{folder / MANIFEST} cannot be read ({error.strerror})", UNPACK) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Problem(f"{folder / MANIFEST} is no manifest ({one_line(error)})", UNPACK) from error
    if found != FORMAT:
        raise Problem(f"{MANIFEST} has format {found!r}, and this run.py reads {FORMAT}", UNPACK)
    if missing:
        raise Problem(f"{MANIFEST} says nothing of {', '.join(missing)}", UNPACK)
    for name, (sha256, size) in sorted(files.items()):
        _verify(folder, name, sha256, size)
    for name in named:
        if name not in files:
            raise Problem(f"{MANIFEST} names {name!r} and does not list it", UNPACK)
    return Bundle(folder, manifest)


def _named(manifest: Manifest) -> List[str]:
    """The files that commands read. Raises what Python raises where values are of another kind."""
    check, classes = manifest["check"], manifest["classes"]
    names = [name for model in manifest["models"] for name in (model["file"], model["outputs"])]
    manifest["device"].get("machine")
    return [str(name) for name in (*names, check["images"], check["expected"], *([] if classes is None else [classes]))]


def _verify(folder: Path, name: str, sha256: str, size: int) -> None:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise Problem(f"{MANIFEST} lists {name!r}, which is no path inside the bundle", "do not use this bundle")
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise Problem(f"{name} leads out of the bundle", "do not use this bundle")
    if not path.is_file():
        raise Problem(f"{name} is missing", UNPACK)
    if path.stat().st_size != size or sha256_of(path) != sha256:
        raise Problem(f"{name} is not the file that {MANIFEST} describes", UNPACK)


def model_for(bundle: Bundle, kind: str, version: str) -> ModelEntry:
    """The first model for a runtime ("tensorrt", "onnxruntime") of this version. Raises Problem where there is none."""
    models = [model for model in bundle.manifest["models"] if model["runtime"] == kind]
    for model in models:
        found = version_of(version)
        late = model["before"] is not None and found >= version_of(model["before"])
        if not late and found >= version_of(model["since"]):
            return model
    product = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}[kind]
    if not models:
        raise Problem(f"the bundle has no file for {product}")
    has = ", ".join(f"{m['since']}" + (f" to before {m['before']}" if m["before"] else " or newer") for m in models)
    raise Problem(
        f"{product} {version} is here, and the bundle's files are for {has}",
        "install a version that the bundle has a file for",
    )


def onnx_bytes(bundle: Bundle, model: ModelEntry, with_codes: bool) -> bytes:
    """The ONNX file as it is shipped; with_codes: with what makes the codes of all tensors outputs of it.

    Appending one protobuf message to another merges them: lists, such as a graph's outputs, become longer.
    """
    data = bundle.path(model["file"]).read_bytes()
    return data + bundle.path(model["outputs"]).read_bytes() if with_codes else data
