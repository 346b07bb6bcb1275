"""The machine: its files and tools, NVIDIA's driver, and a Jetson's name, sensors and power mode."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional

from .base import Absent, Problem

ROOT = Path("/")
"""The root of the system's files."""
_SECONDS = 10
"""How long a tool may take to answer."""


def read(path: Path) -> str:
    """A file's text without spaces around it; empty where there is no file."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def number_in(path: Path) -> Optional[float]:
    """The number that a file holds; None where there is none."""
    try:
        return float(read(path))
    except ValueError:
        return None


def output_of(*command: str) -> Optional[str]:
    """A command's standard output; None where it is not installed, fails or takes long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def nvidia_smi(fields: str) -> List[str]:
    """The values of `fields` ("name,memory.free"), a line for each GPU. Raises Problem where the driver gives none."""
    if shutil.which("nvidia-smi") is None:
        raise Absent("no nvidia-smi", "GPU targets need it: install the driver")
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Problem(f"no answer in {_SECONDS} s", "restart, or install it again") from error
    except OSError as error:
        raise Problem(f"nvidia-smi cannot be run ({error.strerror})", "install the driver again") from error
    lines, others = (text.decode(errors="replace").strip().splitlines() for text in (done.stdout, done.stderr))
    if done.returncode or not lines:
        raise Problem((lines or others or ["it says nothing"])[0], "install the driver again")
    return lines


def gpu_name() -> Optional[str]:
    """The GPU's name by NVIDIA's driver, or a Jetson's by its board; None without a GPU."""
    with contextlib.suppress(Problem):
        name = nvidia_smi("name")[0].strip()
        if "not" not in name.lower().split() and "failed" not in name:
            return name
    return board()


def board() -> Optional[str]:
    """A Jetson's name; None on another machine."""
    model = read(ROOT / "proc/device-tree/model").strip("\0 ")
    return model if "NVIDIA" in model or "Jetson" in model else None


def free_memory() -> Optional[int]:
    """Bytes of the GPU's memory that are free, on a Jetson of the system's; None where they are not known."""
    with contextlib.suppress(Problem):
        free = nvidia_smi("memory.free")[0].strip()
        if free.isdigit():
            return int(free) << 20
    available = re.search(r"MemAvailable: *(\d+) kB", read(ROOT / "proc/meminfo"))
    return int(available.group(1)) << 10 if available and board() else None


def watts() -> Dict[str, float]:
    """Watts by rail of a Jetson's INA3221 sensors, now; empty without sensors."""
    found = {}
    for chip in sorted(ROOT.glob("sys/class/hwmon/hwmon*")):
        if read(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in*_label")):
            number = label.name[2 : -len("_label")]
            volts, amperes = number_in(chip / f"in{number}_input"), number_in(chip / f"curr{number}_input")
            if volts is not None and amperes is not None:
                found[read(label) or label.name] = volts * amperes / 1e6
    return found


def temperatures() -> Dict[str, float]:
    """Degrees Celsius by thermal zone; zones that are switched off are left out."""
    found = {}
    for zone in sorted(ROOT.glob("sys/class/thermal/thermal_zone*")):
        value = number_in(zone / "temp")
        if value is not None:
            found[read(zone / "type") or zone.name] = round(value / 1000, 1)
    return found


def power_mode() -> Optional[str]:
    """A Jetson's power mode, as nvpmodel says it; None on another machine."""
    said = output_of("nvpmodel", "-q")
    name = re.search(r"NV Power Mode: *(\S+)", said or "")
    if name:
        return name.group(1)
    status = read(ROOT / "var/lib/nvpmodel/status")
    return status or None
