"""Bundles: a finished run's program for a device, with what checks it there."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import PIL
import torch
from torch import Tensor

from intraq_deploy.errors import GateError, RunError, TargetError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline import records
from intraq_deploy.pipeline.export import export_artifact
from intraq_deploy.pipeline.finished import KeptRun, opened_run
from intraq_deploy.pipeline.invocation import quantize_command
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import MADE_FOR
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.pipeline.validation import program_input
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.device.bundle import BundleDescription, archive, why_left_out, write_bundle
from intraq_deploy.targets.device.expected import integers_per_image, pick_images
from intraq_deploy.targets.device.profile import DeviceProfile, device_names
from intraq_deploy.targets.device.runner.manifest import FORMAT, MANIFEST
from intraq_deploy.targets.profile import TargetProfile, load_profile, profile_names

FOLDER = "bundles"
_NOISE = 64
"""Images of noise to choose from, where a run's own images are a person's."""


@dataclass(frozen=True, slots=True)
class BundleReport:
    """A bundle that was written."""

    folder: str
    archive: str
    bytes: int
    """Bytes of the archive."""
    sha256: str
    """The hash of the archive."""
    targets: list[str]
    left_out: dict[str, str]
    """The reason why a target has no file, by target."""
    images: int
    integers: int
    """Integers that `check` compares on the device."""
    missing: str | None = None
    """The target that is the best for the device, if its file is not there."""
    remedy: str | None = None
    """The command that makes a run with that file, if one does."""

    def __repr__(self) -> str:
        missing = "" if self.missing is None else f", without {self.missing}"
        return f"BundleReport({self.archive}: {self.bytes:,} bytes, for {', '.join(self.targets)}{missing})"

    @property
    def exit_code(self) -> int:
        """The exit code: 3 where the device's best file is missing, else 0."""
        return 0 if self.missing is None else GateError.exit_code

    @property
    def shortfall(self) -> str | None:
        """A sentence about the best file, where it is missing."""
        if self.missing is None:
            return None
        what = f"{self.missing}, the device's best file, is missing: {self.left_out[self.missing].rstrip('.')}."
        if self.remedy is None:
            return f"{what} To do without it, name one target: --target {self.targets[0]}."
        return f"{what} The command that makes it: {self.remedy}"

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps(asdict(self), indent=1)


def bundle_run(
    opening: Opening, target: TargetProfile | DeviceProfile, out: Path | None, progress: Progress
) -> BundleReport:
    """Writes a bundle for a device, or one target, into the folder `out`, by default one in the run directory, and
    beside it as .tar.gz.

    Raises RunError for a run whose gate failed or a folder that holds something else, TargetError where no target takes
    the program, UsageError for a person's own target that is not what the run was made for.
    """
    profiles = (target,) if isinstance(target, TargetProfile) else tuple(map(load_profile, target.targets))
    path = opening.path
    folder = path / FOLDER / target.name if out is None else out.resolve()
    packed = folder.with_name(f"{folder.name}.tar.gz")
    with passed_run(opening, profiles, progress) as finished:
        program = finished.program
        finished.keep_targets()
        artifacts, left_out = _exported(finished, profiles)
        made = {name: records.artifact_record(finished.run, each, program) for name, each in artifacts.items()}
        finished.keep(finished.report.changed(artifacts={**finished.report.artifacts, **made}))
        description = _description(finished, target, left_out)
        packable = [(profile, artifacts[profile.name]) for profile in profiles if profile.name in artifacts]
        own_rounding = any(profile.runtime == "tensorrt" for profile, _ in packable)
        images = pick_images(program, _images(finished), own_rounding=own_rounding)
        with replaced(folder, _is_bundle, "no bundle") as scratch:
            manifest = write_bundle(scratch, program, packable, images, description)
        best = next((profile.name for profile in profiles if why_left_out(profile) is None), None)
        missing = best if best in left_out else None
        data = archive(folder, description.name)
        write_atomically(packed, data)
    return BundleReport(
        folder=str(folder),
        archive=str(packed),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        targets=list(artifacts),
        left_out=left_out,
        images=len(images),
        integers=manifest["check"]["images_with_codes"] * integers_per_image(program),
        missing=missing,
        remedy=None if missing is None else _remedy(finished.run, target, missing),
    )


@contextmanager
def passed_run(opening: Opening, profiles: tuple[TargetProfile, ...], progress: Progress) -> Iterator[KeptRun]:
    """A finished run that may be shipped for `profiles`, a person's own among them, as `opened_run` opens it.

    Raises RunError for a run whose gate failed.
    """
    own = tuple(profile for profile in profiles if profile.name not in profile_names())
    with opened_run(replace(opening, own_targets=(*opening.own_targets, *own)), progress) as finished:
        if finished.report.status == "failed":
            first = finished.report.failures[0]
            raise RunError(
                f"{opening.path} failed its gate ({first.target}: {first.kind}; run.json has the figures): a bundle "
                "would ship that."
            )
        yield finished


def stem_of(finished: KeptRun) -> str:
    """The name of the file, or of the network of a zoo, that a run was made from, without its ending."""
    location = finished.run.model.source.location
    return Path(location.partition(":")[2] or location).name.partition(".")[0]


def _remedy(run: Run, target: TargetProfile | DeviceProfile, missing: str) -> str | None:
    """Returns the command of a run for the device; None where the program is made for the missing target already, so
    that another one would be refused too, and for a person's own device, whose file has a path of its own."""
    options = run.options
    own = options.own_targets
    now, then = (constraints_of(targets, own) for targets in (options.made_for, (*options.made_for, missing)))
    if now == then or target.name not in {*profile_names(), *device_names()}:
        return None
    return quantize_command(
        options.model_copy(update={"made_for": MADE_FOR, "device": "auto"}), "--target", target.name
    )


def _exported(finished: KeptRun, profiles: tuple[TargetProfile, ...]) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Returns the artifacts by target, kept or made, and the reasons why others are left out."""
    artifacts, left_out = {}, {}
    for profile in profiles:
        reason = why_left_out(profile)
        if reason is None:
            try:
                label = finished.report.label
                artifacts[profile.name] = export_artifact(finished.run, profile.name, finished.program, label)
                continue
            except TargetError as error:
                reason = str(error)
        left_out[profile.name] = reason
        finished.run.progress.warn(f"{profile.name} is left out: {reason}")
    return artifacts, left_out


def _images(finished: KeptRun) -> Tensor:
    """Returns images as the program takes them; noise where the run's images are a person's own, which are not to be
    sent around."""
    run, program = finished.run, finished.program
    if run.options.calibration is None:
        return program_input(program, finished.images.images)
    generator = torch.Generator().manual_seed(0)
    return program_input(program, torch.randn(_NOISE, *run.model.input_shape, generator=generator))


def _description(
    finished: KeptRun, target: TargetProfile | DeviceProfile, left_out: dict[str, str]
) -> BundleDescription:
    run, report, model = finished.run, finished.report, finished.run.model
    preprocessing = asdict(model.preprocessing)
    return BundleDescription(
        name=f"{stem_of(finished)}-{report.label.lower().replace('/', '-')}-{target.name}",
        device=target if isinstance(target, DeviceProfile) else None,
        network={
            "architecture": model.architecture.rpartition("/")[2],  # where a person keeps files is theirs to tell
            "bits": report.label,
            "scheme": run.options.scheme,
            "classes": model.classes,
            "program_sha256": finished.program.sha256,
        },
        preprocessing={key: preprocessing[key] for key in sorted(preprocessing)},
        classes=model.class_names,
        versions={**report.versions, "pillow": PIL.__version__},
        images="synthetic" if run.options.calibration is None else "noise",
        left_out=left_out,
    )


@contextmanager
def replaced(folder: Path, is_ours: Callable[[Path], bool], otherwise: str) -> Iterator[Path]:
    """A folder beside `folder` that takes its place if the block ends well.

    is_ours: says whether an existing folder may be replaced. Raises RunError where it may not, which calls the folder's
    content `otherwise`.
    """
    if folder.exists() and not is_ours(folder):
        raise RunError(f"{folder} holds something that is {otherwise}: choose another place with --out.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield scratch
        scratch.chmod(0o755)
        if folder.exists():  # moved away in one step, since somebody may be reading it
            before = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            folder.rename(before)
            scratch.rename(folder)
            shutil.rmtree(before, ignore_errors=True)
        else:
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_bundle(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        values = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT and "models" in values
