"""Which run is opened, and with what. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from intraq_deploy.pipeline.options import kept_config
from intraq_deploy.targets.profile import TargetProfile


@dataclass(frozen=True, slots=True)
class Opening:
    """Which run is opened, and what it is opened with besides its own configuration."""

    path: Path
    """The run directory."""
    trust_pickle: bool = False
    device: str = "cpu"
    own_targets: tuple[TargetProfile, ...] = ()
    """A person's own targets, beside those that the run knows."""

    def check(self) -> None:
        """Checks that there is a run. Raises RunError where there is none."""
        kept_config(self.path)
