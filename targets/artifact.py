"""What a target ships: a file, and a manifest beside it that says what it is."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.files import write_atomically
from intraq_deploy.targets.profile import load_profile

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file for one target."""

    target: str
    runtime: str
    """The profile's."""
    path: Path
    bytes: int
    items: dict[str, int]
    """What they are spent on, `bytes` in all."""
    sha256: str
    program_sha256: str
    companions: dict[str, str] = field(default_factory=dict)
    """Further files beside it, by name: their SHA-256."""

    def verify(self) -> None:
        """Raises RunError if a file is missing or not the one that the manifest describes."""
        for name, sha256 in {self.path.name: self.sha256, **self.companions}.items():
            path = self.path.with_name(name)
            if not path.is_file():
                raise RunError(f"{path} is missing: run export again.")
            if sha256_of(path) != sha256:
                raise RunError(f"{path} is not the file that its manifest describes: run export again.")


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(artifact: Artifact) -> None:
    """Beside the artifact's file."""
    values: dict[str, Any] = asdict(artifact) | {"path": artifact.path.name}
    write_atomically(artifact.path.parent / MANIFEST, json.dumps(values, indent=1))


def read_manifest(folder: Path) -> Artifact:
    """What `write_manifest` wrote. Raises RunError if there is none."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
        values["path"] = folder / values["path"]
        if "runtime" not in values:
            values["runtime"] = load_profile(values["target"]).runtime
        artifact = Artifact(**values)
        if not isinstance(artifact.companions, dict):
            raise TypeError("its companions are no table")
        return artifact
    except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
        raise RunError(f"{folder} holds no readable artifact ({error}): run export again.") from error
