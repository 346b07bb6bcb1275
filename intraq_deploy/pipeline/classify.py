"""The likeliest classes of photos, by a file that is shipped: as run.py finds them on a device. Imports no torch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intraq_deploy.data.forms import SUFFIXES, image_files
from intraq_deploy.errors import DataError, RunError, TargetError, UsageError
from intraq_deploy.pipeline.options import kept_config
from intraq_deploy.pipeline.report import read_report
from intraq_deploy.pipeline.rundir import REPORT
from intraq_deploy.pipeline.targets import choose_for
from intraq_deploy.targets.artifact import MANIFEST, read_manifest
from intraq_deploy.targets.device.runner.base import Problem
from intraq_deploy.targets.device.runner.commands import LIKELIEST, classified, classify_lines
from intraq_deploy.targets.device.runner.manifest import model_for, open_bundle
from intraq_deploy.targets.onnxruntime.described import open_described
from intraq_deploy.targets.onnxruntime.imports import onnxruntime

_RUNTIME, _MODEL = "onnxruntime", "model.onnx"


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest classes of images, by one model in ONNX Runtime."""

    version: str
    """The version of ONNX Runtime."""
    model: str
    """The path of the model file."""
    images: list[dict[str, Any]]
    """The images, as run.py's JSON has them: each has `image`, and `top`, a list of `class`, `name` and `share`, which
    is the probability; or `error`, why it cannot be read."""

    @property
    def errors(self) -> list[str]:
        """The reasons why files cannot be read, one sentence each."""
        return [image["error"] for image in self.images if "error" in image]

    @property
    def lines(self) -> list[str]:
        """The lines that show them to a person."""
        return classify_lines(self.images)

    def to_json(self) -> str:
        """Returns the result as JSON."""
        values = {"runtime": _RUNTIME, "version": self.version, "model": self.model, "images": self.images}
        return json.dumps(values, indent=1)


def classify(source: Path, images: Sequence[Path], target: str | None = None, most: int = LIKELIEST) -> Classification:
    """Classifies images with a run's file, with an exported file or its folder, or with a bundle's.

    images: files, and folders, which are searched through. target: which of a run's files; None: the first that ONNX
    Runtime runs. most: classes for each image. A file that is no image is a result too.
    Raises RunError for a run without such a file, DataError for a file that does not say how it is fed and for a folder
    without images, TargetError for what ONNX Runtime cannot run, UsageError for a target of what is no run.
    """
    path = _model_file(source, target)
    files = [str(file) for each in images for file in _files(each)]
    model = open_described(path)
    found = classified(files, model.session, model.input, model.preprocessing, model.classes, most)
    return Classification(onnxruntime().__version__, str(path), found)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = image_files(path)
    if not found:
        raise DataError(f"{path} has no images (known are {' '.join(SUFFIXES)}): give a photo, or a folder of photos.")
    yield from found


def _model_file(source: Path, target: str | None) -> Path:
    """Returns the path of the file that ONNX Runtime is to run."""
    if not source.is_file() and not (source / MANIFEST).exists():
        return _of_run(source, target)
    if target is not None:
        raise UsageError(f"--target is {target!r}, and {source} is no run directory: leave the option out.")
    if source.is_file():
        return source
    return _verified(source) if (source / _MODEL).exists() else _of_bundle(source)


def _of_run(run: Path, target: str | None) -> Path:
    kept_config(run)
    has = read_report(run / REPORT).artifacts
    asked = sorted(has, key=lambda name: name != _RUNTIME) if target is None else choose_for(run, (target,)).targets
    folders = [(run / has[name].path).parent for name in asked if name in has]
    found = next((folder for folder in folders if read_manifest(folder).runtime == _RUNTIME), None)
    if found is None:
        which, files = "" if target is None else f" for {target}", f"its files are for {', '.join(has) or 'nothing'}"
        remedy = f"give --target {_RUNTIME}" if _RUNTIME in has else f"run export {run} --target {_RUNTIME} first"
        raise RunError(f"{run} has no file{which} that ONNX Runtime runs ({files}): {remedy}.")
    return _verified(found)


def _verified(folder: Path) -> Path:
    artifact = read_manifest(folder)
    artifact.verify()
    return artifact.path


def _of_bundle(folder: Path) -> Path:
    try:
        bundle = open_bundle(folder)
        return bundle.path(model_for(bundle, _RUNTIME, str(onnxruntime().__version__))["file"])
    except Problem as problem:
        raise TargetError(f"{folder}: {problem}") from problem
