"""A bundle: what a device needs to build, check, time and run a network, in one folder without this package.

run.py                      the commands, joined from `runner`; Python 3.8 and numpy
manifest.json               what every file is, with its SHA-256, and for which runtimes and versions the models are
targets/NAME/model.onnx     the network for one runtime
targets/NAME/outputs.bin    appended to the model's bytes it makes the codes of all quantized tensors outputs
parity/images.npy           what integers are compared on
parity/expected.npz         what must come out: codes, logits, and where another order of rounding gives the next code
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.device.expected import expected, further_outputs, integers_per_image, tensors_of
from intraq_deploy.targets.device.join import runner
from intraq_deploy.targets.device.profile import DeviceProfile
from intraq_deploy.targets.device.runner.arrays import Array
from intraq_deploy.targets.device.runner.base import INPUT
from intraq_deploy.targets.device.runner.manifest import FORMAT, MANIFEST, Manifest, ModelEntry, PreprocessingEntry
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.rehearsal import engine_program

_RUN, _README, _CLASSES = "run.py", "README.md", "classes.json"
_IMAGES, _EXPECTED = "parity/images.npy", "parity/expected.npz"
_MOST_CODES = 4_000_000
"""The most expected codes that a bundle holds."""
_RUNTIMES = ("onnxruntime", "tensorrt")
"""The runtimes that run.py knows."""
_READS_OPSET_21, _CASTS_INT4 = "1.18", "1.23"
"""The first versions of ONNX Runtime that can."""


@dataclass(frozen=True, slots=True)
class BundleDescription:
    """The parts of a manifest that the program does not tell."""

    name: str
    """The name of the bundle, and of the folder in its archive."""
    device: DeviceProfile | None
    network: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    classes: tuple[str, ...] | None
    versions: Mapping[str, str]
    """Versions of the packages that made it."""
    images: str
    """The source of the images: "synthetic" or "noise"."""
    left_out: Mapping[str, str]
    """Targets without a file, with the reason."""


def why_left_out(profile: TargetProfile) -> str | None:
    """Why a bundle cannot hold a target's file; None if it can."""
    if profile.runtime not in _RUNTIMES:
        return f"run.py does not run {profile.runtime}."
    if "int4-gemms" in profile.passes:
        return "its linear layers multiply in float16, and a bundle compares integers."
    return None


def write_bundle(
    folder: Path,
    program: Program,
    artifacts: Sequence[tuple[TargetProfile, Artifact]],
    images: Tensor,
    description: BundleDescription,
) -> Manifest:
    """Fills `folder`, which exists and is empty, and gives its manifest.

    artifacts: the files of `program`, one for each target, the best first. images: what `pick_images` gives,
    float32 or uint8 [N, C, H, W]. Raises TargetError where there is no artifact.
    """
    if not artifacts:
        reasons = "; ".join(f"{target}: {reason.rstrip('.')}" for target, reason in description.left_out.items())
        raise TargetError(
            f"No target of {description.name} can take this program ({reasons}): nothing is left to bundle."
        )
    files = {_RUN: runner().encode()}
    models = [_model(files, profile, artifact, program) for profile, artifact in artifacts]
    with_codes = max(1, min(len(images), _MOST_CODES // integers_per_image(program)))
    files[_IMAGES], files[_EXPECTED] = _npy(images.numpy()), _npz(expected(program, images, with_codes))
    if description.classes is not None:
        files[_CLASSES] = json.dumps(description.classes, indent=0, ensure_ascii=False).encode()
    manifest = _manifest(program, models, with_codes, description)
    files[_README] = _readme(manifest).encode()
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())
    }
    files[MANIFEST] = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(_mode(name))
    return manifest


def _manifest(program: Program, models: list[ModelEntry], with_codes: int, description: BundleDescription) -> Manifest:
    """The manifest, but for its files."""
    return {
        "format": FORMAT,
        "name": description.name,
        "network": dict(description.network),
        "device": _device(description.device, description.name),
        "needs": _needs(models),
        "made_with": dict(description.versions),
        "models": models,
        "left_out": dict(description.left_out),
        "input": {
            "name": INPUT,
            "type": "float32" if program.normalization is None else "uint8",
            "shape": list(program.graph.input.shape),
        },
        "preprocessing": cast(PreprocessingEntry, dict(description.preprocessing)),
        "classes": None if description.classes is None else _CLASSES,
        "check": {
            "images": _IMAGES,
            "images_are": description.images,
            "expected": _EXPECTED,
            "images_with_codes": with_codes,
            "tensors": tensors_of(program),
        },
        "files": {},
    }


def archive(folder: Path, name: str) -> bytes:
    """A folder as .tar.gz, `name` being its folder's; the same files give the same bytes."""
    data = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=data, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_file():
                inside = path.relative_to(folder).as_posix()
                entry = tarfile.TarInfo(f"{name}/{inside}")
                entry.size, entry.mode = path.stat().st_size, _mode(inside)
                with path.open("rb") as file:
                    tar.addfile(entry, file)
    return data.getvalue()


def _mode(name: str) -> int:
    return 0o755 if name == _RUN else 0o644


def _model(files: dict[str, bytes], profile: TargetProfile, artifact: Artifact, program: Program) -> ModelEntry:
    """Adds a target's files to `files`, and says what they are."""
    artifact.verify()
    target, data = profile.name, artifact.path.read_bytes()
    model, outputs = f"targets/{target}/model.onnx", f"targets/{target}/outputs.bin"
    files[model], files[outputs] = data, further_outputs(artifact.model, program)
    own_rounding = profile.runtime == "tensorrt"
    as_run = engine_program(artifact, program) if own_rounding else program
    logits = as_run.tolerances.get(program.graph.output)
    since, before = versions_of(profile, artifact)
    return {
        "target": target,
        "runtime": profile.runtime,
        "since": since,
        "before": before,
        "file": model,
        "outputs": outputs,
        "own_rounding": own_rounding,
        "zero_points": _unsigned(files[outputs]),
        "logits_share": None if logits is None else logits.bound,
    }


def versions_of(profile: TargetProfile, artifact: Artifact) -> tuple[str, str | None]:
    """The first version of its runtime that reads a file, and the first that does not any more; None: no such is
    known."""
    return profile.versions or (_CASTS_INT4 if "weights int4" in artifact.items else _READS_OPSET_21, None)


def _unsigned(outputs: bytes) -> bool:
    """Whether codes are stored as UINT8, as the passes of ONNX Runtime's targets store all of them."""
    values = onnx.ModelProto.FromString(outputs).graph.output
    return any(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for value in values)


def _npy(array: Array) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """An .npz file; numpy dates every entry 1980, so the same arrays give the same bytes."""
    data = io.BytesIO()
    # numpy 1.26 would take allow_pickle for an array's name.
    np.savez_compressed(data, **dict(arrays))  # type: ignore[arg-type]
    return data.getvalue()


def _device(device: DeviceProfile | None, name: str) -> dict[str, Any]:
    if device is None:
        return {"name": name, "description": "any", "machine": None, "releases": []}
    keys = {"name", "description", "machine", "compute_capability"}
    return device.model_dump(include=keys) | {"releases": [release.name for release in device.releases]}


def _needs(models: Iterable[ModelEntry]) -> list[str]:
    """Phrases for all that a device must have."""
    names = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT with its Python bindings or trtexec"}
    runtimes = [
        f"{names[model['runtime']]}, {model['since']}" + (f" to before {model['before']}" if model["before"] else " on")
        for model in models
    ]
    return ["Python 3.8 or newer", "numpy", "; or ".join(runtimes)]


def _readme(manifest: Manifest) -> str:
    network, device = manifest["network"], manifest["device"]
    files = [f"* `{m['file']}`: {_needs([m])[-1]}" for m in manifest["models"]]
    absent = [f"* {target} has no file here: {reason}" for target, reason in manifest["left_out"].items()]
    lines = [
        f"# {manifest['name']}",
        "",
        f"{network['architecture']}, {network['bits']}, {network['classes']} classes, for {device['description']}.",
        "",
        "```sh",
        "python3 run.py doctor               # what is here, what is missing, and the remedy",
        "python3 run.py check                # are the integers that come out here those that must?",
        "python3 run.py classify photo.jpg   # the five likeliest classes; `bench` says how long a batch takes",
        "```",
        "",
        f"It needs {', '.join(manifest['needs'][:-1])}, and {manifest['needs'][-1]}.",
        "`classify` reads PNG and JPEG with PIL or OpenCV, and .ppm, .pgm and .npy without. Nothing is downloaded.",
        "The first `build` or `check` with TensorRT makes engines for this GPU in `cache/`, which takes minutes on a",
        "Jetson. Each command takes `--json`.",
        "Exit codes: 0 done, 1 error, 2 usage, 3 the check found a difference that may not be.",
        "",
        *files,
        *absent,
        "",
    ]
    return "\n".join(lines)
