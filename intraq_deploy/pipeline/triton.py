"""Models for Triton Inference Server: a finished run's program in a model repository."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from intraq_deploy.errors import UsageError
from intraq_deploy.files import sha256_of
from intraq_deploy.pipeline import records
from intraq_deploy.pipeline.bundle import FOLDER, passed_run, replaced, stem_of
from intraq_deploy.pipeline.export import export_artifact
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.targets.device.bundle import versions_of
from intraq_deploy.targets.device.profile import DeviceProfile
from intraq_deploy.targets.device.runner.base import LARGEST_BATCH
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.targets.triton import CONFIG, LABELS, NETWORK, RUNTIMES, write_model

TRITON = "triton"


@dataclass(frozen=True, slots=True)
class TritonReport:
    """A model that was written into a model repository."""

    repository: str
    """The folder that Triton is started with."""
    model: str
    """The name by which clients ask for it."""
    target: str
    max_batch_size: int
    onnxruntime: str
    """The first version of ONNX Runtime that can read the file."""
    files: dict[str, str]
    """The SHA-256 of every file, by its path in the repository."""

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps(asdict(self), indent=1)


def triton_run(
    opening: Opening, target: TargetProfile | DeviceProfile, out: Path | None, progress: Progress
) -> TritonReport:
    """Writes a run's program into the model repository `out`, by default one in the run directory. Other models there
    stay as they are. For a device, the first of its targets is taken that Triton can serve.

    Raises UsageError for a target that Triton's ONNX Runtime does not run, RunError for a run whose gate failed and
    for a model of that name that was not written here, TargetError for a target that refuses the program.
    """
    profile = _served(target)
    repository = opening.path / FOLDER / TRITON if out is None else out.resolve()
    with passed_run(opening, (profile,), progress) as finished:
        label = finished.report.label
        finished.keep_targets()
        artifact = export_artifact(finished.run, profile.name, finished.program, label)
        made = {profile.name: records.artifact_record(finished.run, artifact, finished.program)}
        finished.keep(finished.report.changed(artifacts={**finished.report.artifacts, **made}))
        # Clients have it in the addresses that they ask.
        name = re.sub(r"[^\w.-]", "-", f"{stem_of(finished)}-{label.lower()}")
        folder = repository / name
        with replaced(folder, _is_ours, "no model of this command") as scratch:
            write_model(scratch, name, profile, artifact, finished.run.model.class_names)
    since, _ = versions_of(profile, artifact)
    files = {f"{name}/{file}": sha256_of(folder / file) for file in _files(folder)}
    return TritonReport(str(repository), name, profile.name, LARGEST_BATCH, since, files)


def _served(target: TargetProfile | DeviceProfile) -> TargetProfile:
    profiles = (target,) if isinstance(target, TargetProfile) else tuple(map(load_profile, target.targets))
    served = next((profile for profile in profiles if profile.runtime in RUNTIMES), None)
    if served is None:
        raise UsageError(
            f"--triton cannot serve {target.name}, whose engine is built on the GPU that runs it: give --target "
            "onnxruntime-tensorrt for a GPU, or onnxruntime for a CPU."
        )
    return served


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _is_ours(folder: Path) -> bool:
    """Whether a folder has nothing else than `write_model` writes: no further version, say."""
    return folder.is_dir() and set(_files(folder)) <= {CONFIG, LABELS, NETWORK}
