"""Asks another machine what it is, with its own Python's standard library, and finds its device profile.

The script runs on Pythons that are too old for the runner too, so that their version can be told.
"""

import json
import re
import shlex
from dataclasses import dataclass

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.device.profile import DeviceProfile
from intraq_deploy.targets.device.ssh import Remote, quoted

OLDEST = (3, 8)
"""The oldest Python that the runner needs."""
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
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    gpu = subprocess.check_output(query, stderr=subprocess.STDOUT, timeout=10)
    gpu = gpu.decode(errors="replace").strip().split("\\n")[0]
except Exception:
    gpu = ""
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "machine": platform.machine(),
    "model": read("/proc/device-tree/model").strip("\\0 \\n"),
    "vnni": any("vnni" in flag for flag in flags),
    "gpu": gpu,
    "place": [read("/proc/sys/kernel/random/boot_id").strip(), platform.node(), os.path.expanduser("~")],
}))
"""
_JETSONS = (
    ("thor", "jetson-agx-thor"),
    ("agx orin", "jetson-agx-orin"),
    ("orin nx", "jetson-orin-nx"),
    ("orin nano", "jetson-orin-nano"),
    ("xavier", "jetson-xavier"),
)
"""Words in /proc/device-tree/model, in lower case, and the device that they mean; developer kits have them too."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Facts that a host tells of itself."""

    python: tuple[int, int, int]
    machine: str
    model: str
    """The board's name; empty on a PC."""
    vnni: bool
    gpu: str
    """The GPU's name by NVIDIA's driver; empty without."""
    place: tuple[str, ...] = ()
    """The machine and the account: equal where two names mean the same."""


def probe(remote: Remote, python: str) -> HostFacts:
    """Asks a host what it is. Raises TargetError where it is not reached, or has no Python that is new enough."""
    done = remote.run(f"{quoted(python)} -c {shlex.quote(_SCRIPT)}", codes=range(128))
    if done.code in (126, 127):
        raise TargetError(
            f"{remote.host}: there is no {python}: install Python {_text(OLDEST)} or newer, or give --python."
        )
    try:
        values = json.loads(done.output)
        facts = HostFacts(**values | {name: tuple(values[name]) for name in ("python", "place")})
    except (ValueError, TypeError, KeyError) as error:
        raise TargetError(
            f"{remote.host}: {python} does not answer as Python does: give --python, or see that a shell there prints "
            "nothing when it starts."
        ) from error
    if facts.python < OLDEST:
        raise TargetError(
            f"{remote.host}: {python} is {_text(facts.python)}: install {_text(OLDEST)} or newer, or give --python."
        )
    return facts


def device_of(host: str, facts: HostFacts) -> str:
    """The name of the device profile that fits best. Raises TargetError where none does."""
    if facts.machine == "aarch64":
        return _jetson(facts) or "arm64-cpu"
    if facts.machine != "x86_64":
        raise TargetError(
            f"{host}: it is {facts.machine}, and the devices here are x86_64 and aarch64: give --target with a profile "
            "of your own."
        )
    if _has_gpu(facts):
        return "nvidia-gpu"
    return "x86-cpu" if facts.vnni else "x86-cpu-avx2"


def _jetson(facts: HostFacts) -> str | None:
    model = facts.model.lower()
    return next((device for words, device in _JETSONS if words in model), None)


def _has_gpu(facts: HostFacts) -> bool:
    return bool(facts.gpu) and not re.search("failed|error|not found", facts.gpu, re.IGNORECASE)


def check_fits(host: str, device: DeviceProfile, facts: HostFacts) -> None:
    """Compares a device with a host: a board that does not say what it is may be any Jetson.

    Raises TargetError for a device of another kind.
    """
    found, wrong = _jetson(facts), ""
    if device.machine != facts.machine:
        wrong = f"it is {facts.machine}, and {device.name} is {device.machine}"
    elif device.name == "nvidia-gpu" and not _has_gpu(facts):
        wrong = f"no NVIDIA GPU answers there ({facts.gpu or 'no nvidia-smi'}), and {device.name} needs one"
    elif found is not None and device.name != found and device.name in dict(_JETSONS).values():
        wrong = f"it is a {facts.model}, which is no {device.name}"
    if wrong:
        raise TargetError(f"{host}: {wrong}: give --target {device_of(host, facts)}, or none, to let it be found.")


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
