"""A shipment: what goes to which hosts, and the commands that take it there. Imports no torch."""

import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from intraq_deploy.errors import UsageError
from intraq_deploy.pipeline.options import kept_config
from intraq_deploy.targets.device.profile import DeviceProfile
from intraq_deploy.targets.device.ssh import Remote, check_host, quoted
from intraq_deploy.targets.profile import TargetProfile

HOME = "intraq-deploy"
"""The folder of bundles in a device's home directory."""
STEPS = ("doctor", "build", "check", "bench")
"""The commands of run.py that a bundle's arrival is followed by, in order."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """The hosts that a run is shipped to, and how."""

    hosts: tuple[str, ...]
    port: int | None = None
    target: TargetProfile | DeviceProfile | None = None
    """The target or device; None: the device that each host is found to be."""
    asked: str | None = None
    """How it was named: a person's own is a file."""
    folder: str | None = None
    """The folder on the hosts; None: one in the home directory, named after the run."""
    python: str = "python3"

    def check(self, run: Path) -> None:
        """Checks the shipment. Raises UsageError for what cannot be meant, RunError where there is no run."""
        for host in self.hosts:
            check_host(host, self.port)
        if len(set(self.hosts)) < len(self.hosts):
            raise UsageError("A host is given twice: give each once.")
        if self.folder is not None and (self.folder.startswith("-") or self.folder.strip("/. ") in ("", "~")):
            raise UsageError(f"--dir is {self.folder!r}: give a folder of its own for the bundle.")
        kept_config(run)

    def folder_on(self, run: Path, device: str) -> str:
        """Returns the folder of the bundle on a host."""
        return self.folder or f"~/{HOME}/{run.resolve().name}-{device}"


def command_of(shipment: Shipment, folder: str, step: str) -> str:
    """Returns the command that takes a step on a host."""
    return f"{quoted(shipment.python)} {quoted(PurePosixPath(folder) / 'run.py')} {step} --json"


def dry_run(path: Path, shipment: Shipment, evaluate: str | None) -> Iterator[str]:
    """The commands, one per line. No host is asked, so where the device is to be found its name is missing."""
    shipment.check(path)
    device = "DEVICE" if shipment.target is None else shipment.target.name
    for host in shipment.hosts:
        remote, folder = Remote(host, shipment.port), shipment.folder_on(path, device)
        yield f"# {host}: asked what it is; then every file of the bundle that is not there, to {folder}"
        yield shlex.join(["intraq-deploy", "bundle", str(path), "--target", shipment.asked or device])
        yield shlex.join(remote.command(f"cat > {quoted(PurePosixPath(folder) / 'FILE.part')}"))
        for step in (*STEPS, *(["predict"] if evaluate else [])):
            yield shlex.join(remote.command(command_of(shipment, folder, step)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def fleet(file: Path) -> Sequence[str]:
    """Hosts from a TOML file: hosts = ["user@a", "b"]. Raises UsageError for a file that is none."""
    try:
        values = tomllib.loads(file.read_text())
        hosts = values["hosts"]
        if set(values) != {"hosts"} or not isinstance(hosts, list) or not hosts or not all(map(_is_text, hosts)):
            raise ValueError('it holds something else than hosts = ["user@a", "user@b"]')
    except UnicodeDecodeError as error:
        raise UsageError(f'--fleet {file} is no text: write hosts = ["user@a", "user@b"].') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "it has no hosts" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
        raise UsageError(f'--fleet {file} cannot be used ({reason}): write hosts = ["user@a", "user@b"].') from error
    return list(hosts)
