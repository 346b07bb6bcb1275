"""The file that a target ships, and a manifest beside it that says what the file is."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.files import sha256_of, write_atomically
from intraq_deploy.targets.profile import load_profile

if TYPE_CHECKING:
    import onnx_ir as ir

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """An ONNX file for one target."""

    target: str
    runtime: str
    """The runtime that the target's profile names."""
    path: Path
    bytes: int
    items: dict[str, int]
    """Bytes by item, `bytes` in all."""
    sha256: str
    program_sha256: str
    companions: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of further files beside it, by file name."""

    @cached_property
    def model(self) -> "ir.Model":
        """The model in the file, read at most once. Nobody changes it."""
        import onnx_ir as ir  # noqa: PLC0415  manifests are read without it

        return ir.load(self.path)

    def with_model(self, model: "ir.Model") -> "Artifact":
        """A copy that knows its model, so that the file need not be read. model: the one that was written."""
        copy = replace(self)
        copy.__dict__["model"] = model  # where cached_property looks for it
        return copy

    def verify(self) -> None:
        """Compares the files with the manifest. Raises RunError for a file that is missing or changed."""
        for name, sha256 in {self.path.name: self.sha256, **self.companions}.items():
            path = self.path.with_name(name)
            if not path.is_file():
                raise RunError(f"{path} is missing: run export again.")
            if sha256_of(path) != sha256:
                raise RunError(f"{path} is not the file that its manifest describes: run export again.")


def write_manifest(artifact: Artifact) -> None:
    """Writes manifest.json beside the artifact's file."""
    values: dict[str, Any] = asdict(artifact) | {"path": artifact.path.name}
    write_atomically(artifact.path.parent / MANIFEST, json.dumps(values, indent=1))


def read_manifest(folder: Path) -> Artifact:
    """The artifact that a folder's manifest describes. Raises RunError where there is none, or no readable one."""
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
