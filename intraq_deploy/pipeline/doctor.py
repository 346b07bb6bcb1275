"""The state of a machine: what this package can use of it, and what is missing, with the remedy for each."""

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from intraq_deploy.errors import AbsentError, IntraqError, TargetError
from intraq_deploy.targets.device.join import runner
from intraq_deploy.targets.device.probe import OLDEST, probe
from intraq_deploy.targets.device.profile import DeviceProfile, Release, device_names, load_device
from intraq_deploy.targets.device.runner.base import Problem
from intraq_deploy.targets.device.runner.machine import gpu_name, nvidia_smi
from intraq_deploy.targets.device.ssh import Remote, check_host, quoted, values_of
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, Provider, absence
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.imports import tensorrt, tensorrt_rtx
from intraq_deploy.targets.tensorrt.versions import parsed, switches_of
from intraq_deploy.wording import listing

_GIB = 1 << 30
_LEAST_GIB = 2


class DoctorFinding(BaseModel):
    """One line of `doctor`."""

    what: str
    found: str
    remedy: str | None = None
    """The remedy; None where nothing is wrong."""
    needed: bool = False
    """Whether nothing works without it; the others are for some targets only."""


class DoctorReport(BaseModel):
    """The findings on one machine."""

    host: str | None
    """The host; None for this machine."""
    findings: list[DoctorFinding]

    @property
    def ready(self) -> bool:
        """Whether nothing is missing that everything needs."""
        return not any(finding.needed and finding.remedy for finding in self.findings)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return self.model_dump_json(indent=1)


def examine_here() -> DoctorReport:
    """Looks at this machine, for this package, and at whether what device profiles say fits together."""
    return DoctorReport(
        host=None,
        findings=[
            DoctorFinding(what="Python", found=platform.python_version()),
            _torch(),
            _onnxruntime(),
            *_gpu(),
            _optional("TensorRT for RTX", lambda: str(tensorrt_rtx().__version__)),
            _disk(Path.cwd()),
            _ssh(),
            *_devices(),
        ],
    )


def examine(host: str, port: int | None, python: str) -> DoctorReport:
    """Looks at another machine, for bundles, with the runner's own doctor. Nothing is left on it.

    Raises TargetError for a host that is not reached, or has no Python that is new enough.
    """
    check_host(host, port)
    remote = Remote(host, port)
    probe(remote, python)
    answer = remote.run(f"{quoted(python)} - doctor --json", given=runner().encode(), codes=(0, 1))
    values = values_of(host, python, answer.output, "findings")["findings"]
    findings = [DoctorFinding(**value) for value in values if value["what"] != "bundle"]  # there is none yet
    return DoctorReport(host=host, findings=findings)


def _torch() -> DoctorFinding:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        return DoctorFinding(what="torch", found=f"{torch.__version__}, CUDA {torch.version.cuda}, {gpu}")
    return DoctorFinding(what="torch", found=f"{torch.__version__}, on the CPU: it sees no GPU")


def _gpu() -> list[DoctorFinding]:
    """Returns what is here for NVIDIA's GPUs. Where there is none, what is missing for it is no finding of its own."""
    import torch  # noqa: PLC0415

    driver = _driver()
    found = [
        driver,
        _provider(CUDA),
        _provider(TENSORRT),
        _optional("TensorRT", _tensorrt_version),
        _optional("trtexec", _trtexec_version),
    ]
    if gpu_name() is not None or torch.cuda.is_available():
        return found
    return [driver, *(each for each in found[1:] if each.remedy is None)]


def _onnxruntime() -> DoctorFinding:
    try:
        return DoctorFinding(what="ONNX Runtime", found=str(onnxruntime().__version__))
    except AbsentError as error:
        return DoctorFinding(what="ONNX Runtime", found="missing", remedy=error.remedy, needed=True)


def _provider(provider: Provider) -> DoctorFinding:
    try:
        absent = absence(provider)
    except TargetError:
        return DoctorFinding(what=provider.name, found="no ONNX Runtime")
    if absent is None:
        return DoctorFinding(what=provider.name, found="loads")
    return DoctorFinding(what=provider.name, found=absent.found, remedy=absent.remedy)


def _optional(what: str, version: Callable[[], str]) -> DoctorFinding:
    try:
        return DoctorFinding(what=what, found=version())
    except AbsentError as error:
        return DoctorFinding(what=what, found="missing", remedy=error.remedy)
    except IntraqError as error:
        return DoctorFinding(what=what, found="cannot be used", remedy=str(error).rstrip("."))


def _tensorrt_version() -> str:
    version = str(tensorrt().__version__)
    switches_of(version)
    return version


def _trtexec_version() -> str:
    from intraq_deploy.targets.tensorrt.trtexec import find_trtexec  # noqa: PLC0415  it comes with torch

    found = find_trtexec()
    if found is None:
        raise AbsentError("trtexec is not here", "it comes with TensorRT's Debian packages and JetPack")
    return f"{found.version}, {found.path}"


def _driver() -> DoctorFinding:
    try:
        return DoctorFinding(what="NVIDIA's driver", found=nvidia_smi("name,driver_version")[0])
    except Problem as problem:
        return DoctorFinding(what="NVIDIA's driver", found=problem.found, remedy=problem.remedy)


def _disk(folder: Path) -> DoctorFinding:
    free = shutil.disk_usage(folder).free / _GIB
    remedy = None if free >= _LEAST_GIB else "free some: runs, engines and their building need room"
    return DoctorFinding(what="disk", found=f"{free:.1f} GiB free in {folder}", remedy=remedy)


def _ssh() -> DoctorFinding:
    program = shutil.which("ssh")
    if program is None:
        return DoctorFinding(what="ssh", found="missing", remedy="`ship` needs it: install OpenSSH's client")
    done = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    return DoctorFinding(what="ssh", found=(done.stderr or done.stdout).strip())


def _devices() -> Iterator[DoctorFinding]:
    """Yields one finding for each device: which of its targets each release can run, by its TensorRT, Python and ONNX
    Runtime."""
    for name in device_names():
        device = load_device(name)
        by_targets: dict[tuple[str, ...], list[str]] = {}
        for release in device.releases:
            by_targets.setdefault(tuple(_usable(device, release)), []).append(release.name)
        problems = [f"{release.name}: {each}" for release in device.releases for each in _problems(device, release)]
        if by_targets:
            found = "; ".join(
                f"{listing(releases)}: {', '.join(targets) or 'no target'}" for targets, releases in by_targets.items()
            )
            yield DoctorFinding(what=name, found=found, remedy="; ".join(problems) or None)


def _usable(device: DeviceProfile, release: Release) -> list[str]:
    """The device's targets that a release can run."""
    found = []
    for target in device.targets:
        profile = load_profile(target)
        if profile.runtime == "tensorrt":
            since, before = profile.versions or ("0.0", "99.0")
            if release.tensorrt is not None and parsed(since) <= parsed(release.tensorrt) < parsed(before):
                found.append(target)
        elif release.onnxruntime is not None:
            found.append(target)
    return found


def _problems(device: DeviceProfile, release: Release) -> list[str]:
    problems = []
    if not _usable(device, release):
        problems.append("no target of this device fits its versions: give --target with a profile of your own")
    if release.python is not None and parsed(release.python) < OLDEST:
        problems.append(f"bundles need Python 3.8, and it has {release.python}: install one, and give --python")
    return problems
