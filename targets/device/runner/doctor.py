"""The command `doctor`: what is here, what is missing, and the remedy."""

import os
import platform
import re
import shutil
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from .arrays import HAS_NUMPY, np
from .base import Problem
from .choosing import RUNTIMES, backend_of
from .machine import ROOT, gpu_name, output_of, power_mode, read
from .manifest import MANIFEST, Bundle, model_for, open_bundle

_GIB = 1 << 30


class DoctorFinding(NamedTuple):
    """One line of `doctor`."""

    what: str
    found: str
    remedy: Optional[str] = None
    """The remedy; None where nothing is wrong."""
    needed: bool = False
    """Whether nothing runs without it."""


def doctor(folder: Path, cache: Path) -> List[DoctorFinding]:
    """Finds what is here and what is missing, with the standard library alone."""
    findings, bundle = [], None
    try:
        bundle = open_bundle(folder)
        findings.append(
            DoctorFinding("bundle", f"{len(bundle.manifest['files'])} files, all as {MANIFEST} describes them")
        )
    except Problem as problem:
        findings.append(DoctorFinding("bundle", problem.found, problem.remedy, needed=True))
    findings.append(DoctorFinding("Python", platform.python_version()))
    findings.append(_numpy())
    findings.append(_machine(bundle))
    findings += _jetson()
    gpu = gpu_name()
    findings.append(_gpu(bundle, gpu))
    runtimes, usable = _runtimes(bundle, gpu)
    findings += [*runtimes, usable, _disk(cache)]
    return findings


def _numpy() -> DoctorFinding:
    if not HAS_NUMPY:
        return DoctorFinding("numpy", "missing", "sudo apt install python3-numpy, or pip install numpy", needed=True)
    return DoctorFinding("numpy", str(np.__version__))


def _machine(bundle: Optional[Bundle]) -> DoctorFinding:
    model = read(ROOT / "proc/device-tree/model").strip("\0 ")
    memory = re.search(r"MemTotal: *(\d+) kB", read(ROOT / "proc/meminfo"))
    said = ", ".join(
        [
            platform.machine(),
            *([model] if model else []),
            *([f"{int(memory.group(1)) / (1 << 20):.1f} GiB"] if memory else []),
        ]
    )
    wanted = None if bundle is None else bundle.manifest["device"].get("machine")
    if wanted is not None and wanted != platform.machine():
        name = bundle.manifest["device"]["name"] if bundle is not None else ""
        return DoctorFinding("machine", said, f"the bundle is for {name} ({wanted}): make one for this machine")
    return DoctorFinding("machine", said)


def _jetson() -> List[DoctorFinding]:
    release = read(ROOT / "etc/nv_tegra_release").splitlines()
    if not release:
        return []
    number = re.search(r"# R(\d+) .*REVISION: ([\d.]+)", release[0])
    said = f"L4T {number.group(1)}.{number.group(2)}" if number else release[0]
    jetpack = output_of("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack")
    mode = power_mode()
    findings = [
        DoctorFinding("JetPack", f"{jetpack}, {said}" if jetpack else f"{said}, nvidia-jetpack is not installed")
    ]
    return findings + ([] if mode is None else [DoctorFinding("power mode", mode)])


def _gpu(bundle: Optional[Bundle], name: Optional[str]) -> DoctorFinding:
    wanted = bundle is not None and any(model["runtime"] == "tensorrt" for model in bundle.manifest["models"])
    if name is not None:
        return DoctorFinding("GPU", name)
    remedy = "install NVIDIA's driver; without one only ONNX Runtime's CPU provider runs" if wanted else None
    return DoctorFinding("GPU", "none found", remedy)


def _runtimes(bundle: Optional[Bundle], gpu: Optional[str]) -> Tuple[List[DoctorFinding], DoctorFinding]:
    """A finding for each runtime, and which one would be taken."""
    names = {"tensorrt": "TensorRT", "trtexec": "trtexec", "onnxruntime": "ONNX Runtime"}
    findings, taken = [], None
    kinds = {model["runtime"] for model in bundle.manifest["models"]} if bundle is not None else set()
    for runtime, name in names.items():
        try:
            backend = backend_of(runtime)
            model = None if bundle is None else model_for(bundle, backend.kind, backend.version)
        except Problem as problem:
            if bundle is not None and RUNTIMES[runtime].kind not in kinds:
                remedy: Optional[str] = "none is needed: the bundle has no file for it"
            elif bundle is None and runtime != "onnxruntime" and gpu is None:
                remedy = "none is needed: there is no GPU"
            else:
                remedy = problem.remedy
            findings.append(DoctorFinding(name, problem.found, remedy))
            continue
        findings.append(DoctorFinding(name, backend.version + (f", runs {model['file']}" if model else "")))
        taken = taken or name
    if taken is None:
        which = "this bundle" if bundle else "a bundle"
        return findings, DoctorFinding(
            "runtime", f"none that can run {which}", "install one of those above", needed=True
        )
    return findings, DoctorFinding("runtime", f"{taken} would be taken")


def _disk(cache: Path) -> DoctorFinding:
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(str(place)).free
    remedy = None if free > _GIB else "free some: engines, their building and the system need room"
    writable = os.access(str(place), os.W_OK)
    if not writable:
        remedy = "engines are kept there: choose another folder with --cache"
    return DoctorFinding(
        "disk", f"{free / _GIB:.1f} GiB free in {place}" + ("" if writable else ", not writable"), remedy
    )


def doctor_lines(findings: List[DoctorFinding], ready: bool) -> List[str]:
    """The lines that `doctor` prints for a person."""
    width = max(len(finding.what) for finding in findings)
    marks = [("ok" if f.remedy is None else "NO" if f.needed else "--", f) for f in findings]
    text = [
        f"{mark}  {f.what:{width}}  {f.found}" + ("" if f.remedy is None else f"\n    {'':{width}}  remedy: {f.remedy}")
        for mark, f in marks
    ]
    return [*text, "Ready: now `python3 run.py check`." if ready else "Not ready: see the lines marked NO."]
