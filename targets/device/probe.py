"""What another machine is, and which device profile that makes it: asked with its own Python's standard library."""

import json
import re
import shlex
from dataclasses import dataclass

from intraq_deploy.targets.device.profile import DeviceProfile
from intraq_deploy.targets.device.ssh import Remote

from intraq_deploy.errors import TargetError

OLDEST = (3, 8)
"""Python that the runner needs."""
_SCRIPT = """
import json, os, platform, subprocess, sys
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
flags = read("/proc/cpuinfo").split("\\nflags", 1)[-1].split("\\n", 1)[0].split()
try:
    gpu = subprocess.check_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], stderr=subprocess.STDOUT)
    gpu = gpu.decode(errors="replace").strip().split("\\n")[0]
except Exception:
    gpu = ""
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "machine": platform.machine(),
    "model": read("/proc/device-tree/model").strip("\\0 \\n"),
    "vnni": any("vnni" in flag for flag in flags),
    "gpu": gpu,
    "home": os.path.expanduser("~"),
}))
"""
_JETSONS = (
    ("thor", "jetson-agx-thor"),
    ("agx orin", "jetson-agx-orin"),
    ("orin nx", "jetson-orin-nx"),
    ("orin nano", "jetson-orin-nano"),
    ("xavier", "jetson-xavier"),
)
"""What /proc/device-tree/model contains, in lower case, by device; developer kits call themselves so too."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one host."""

    python: tuple[int, int, int]
    machine: str
    model: str
    """Of a board; empty on a PC."""
    vnni: bool
    gpu: str
    """NVIDIA's name of it; empty without."""
    home: str


def probe(remote: Remote, python: str) -> Facts:
    """Raises TargetError for a host that is not reached, or has no Python that is new enough."""
    answer = remote.run(f"{shlex.quote(python)} -c {shlex.quote(_SCRIPT)}", codes=(0, 126, 127))
    if answer.code:
        raise TargetError(
            f"{remote.host}: there is no {python}: install Python {_text(OLDEST)} or newer, or give --python."
        )
    try:
        values = json.loads(answer.output)
        facts = Facts(**values | {"python": tuple(values["python"])})
    except (ValueError, TypeError, KeyError) as error:
        raise TargetError(f"{remote.host}: {python} does not answer as Python does: give --python.") from error
    if facts.python < OLDEST:
        raise TargetError(
            f"{remote.host}: {python} is {_text(facts.python)}: install {_text(OLDEST)} or newer, or give --python."
        )
    return facts


def device_of(facts: Facts) -> str:
    """The name of the device profile that fits best."""
    if facts.machine == "aarch64":
        model = facts.model.lower()
        return next((device for words, device in _JETSONS if words in model), "arm64-cpu")
    if facts.gpu and not re.search("failed|error|not found", facts.gpu, re.IGNORECASE):
        return "nvidia-gpu"
    return "x86-cpu" if facts.vnni else "x86-cpu-avx2"


def check_fits(host: str, device: DeviceProfile, facts: Facts) -> None:
    """Raises TargetError for a device of another kind."""
    if device.machine != facts.machine:
        raise TargetError(
            f"{host}: it is {facts.machine}, and {device.name} is {device.machine}: give --target {device_of(facts)}, "
            "or none, to let it be found."
        )


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
