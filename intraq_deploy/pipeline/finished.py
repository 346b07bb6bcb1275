"""Finished runs, opened again: as they were, from what lies in their directories."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import QuantizeOptions, kept_config, make_options, read_config
from intraq_deploy.pipeline.page.writing import write_page
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import RunReport, read_report
from intraq_deploy.pipeline.run import Run, prepared
from intraq_deploy.pipeline.rundir import CONFIG, REPORT, RunDirectory
from intraq_deploy.program.program import Program
from intraq_deploy.program.storage import load_program
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact, read_manifest
from intraq_deploy.targets.profile import TargetProfile


@dataclass(frozen=True)
class KeptRun:
    """A run in its directory, which has its images at least, and its report."""

    run: Run
    report: RunReport

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.directory.path

    @property
    def scheme(self) -> Scheme:
        """The scheme of the student."""
        return self.run.scheme(self.report.mixed)

    @cached_property
    def images(self) -> SyntheticSet:
        """The images that the run was made with. A person's own may be elsewhere by now: these are kept.

        Raises DataError or RunError for a damaged folder.
        """
        if self.run.options.calibration is None:
            return stages.kept_synthesis(self.path / stages.SYNTHESIS).images
        return stages.kept_calibration(self.path / stages.CALIBRATION)

    @property
    def run_images(self) -> stages.RunImages:
        """The images of the run with their key."""
        return stages.RunImages(self.images, stages.images_key(self.run, self.images))

    @cached_property
    def student(self) -> FakeQuantNetwork:
        """The settled student, on the CPU. Raises RunError for a damaged folder."""
        return stages.kept_student(self.run, self.scheme, self.path / stages.FINE_TUNING).network

    @cached_property
    def program(self) -> Program:
        """The run's program. Raises RunError for a damaged folder."""
        return load_program(self.path / stages.FREEZING)

    def artifacts(self, targets: tuple[str, ...]) -> dict[str, Artifact]:
        """Returns the artifacts for `targets` by name; empty: for all that the run has. Raises RunError for one that it
        has not."""
        for target in targets:
            if target not in self.report.artifacts:
                raise RunError(
                    f"{self.path} has no artifact for {target}: run export {self.path} --target {target} first."
                )
        names = targets or tuple(self.report.artifacts)
        return {name: read_manifest((self.path / self.report.artifacts[name].path).parent) for name in names}

    def keep_targets(self) -> None:
        """Writes the person's own targets into the run's configuration. The directory is open."""
        config, own = read_config(self.path / CONFIG), self.run.options.own_targets
        if config.options.own_targets != own:
            options = config.options.model_copy(update={"own_targets": own})
            self.run.directory.write(CONFIG, config.model_copy(update={"options": options}).to_json())

    def keep(self, report: RunReport) -> RunReport:
        """Writes `report` in place of the run's, and its page, and returns it."""
        self.run.directory.write(REPORT, report.to_json())
        write_page(self.path)
        return report


@contextmanager
def opened_run(opening: Opening, progress: Progress) -> Iterator[KeptRun]:
    """A finished run that no other process changes until the block ends: what is read here is what is written on.

    Raises RunError for what is none, where nothing is made then, and for one that is in use.
    """
    kept_config(opening.path)
    with RunDirectory(opening.path).opened():
        yield finished_run(opening, progress)


def finished_run(opening: Opening, progress: Progress) -> KeptRun:
    """Returns a run that has its program. Raises RunError for what is none."""
    finished = kept_run(opening, progress)
    if finished.report.status == "synthesized":
        raise RunError(f"{opening.path} holds images only: run quantize with --out {opening.path} first.")
    return finished


def kept_run(opening: Opening, progress: Progress) -> KeptRun:
    """Returns a run that has its images at least.

    Raises RunError for what is none, and for a network that has changed; UsageError for options that cannot be.
    """
    path = opening.path
    config, report = kept_config(path), read_report(path / REPORT)
    run = prepared(_options(config.options, Path(config.folder), opening), lambda _: RunDirectory(path), progress)
    if run.weights_sha256 != config.weights_sha256:
        raise RunError(
            f"{run.options.model.source} is not the network that {path} was made from: put that one back, or run "
            "quantize again into another directory."
        )
    return KeptRun(run, report)


def _options(kept: QuantizeOptions, folder: Path, opening: Opening) -> QuantizeOptions:
    """Returns the kept options as they hold here. folder: where the command was given, in which relative paths
    start."""
    labelled = kept.eval
    if labelled is not None and (folder / labelled).exists():
        labelled = str(folder / labelled)
    changes = {
        "model": kept.model.located(folder).model_copy(update={"trust_pickle": opening.trust_pickle}),
        "eval": labelled,
        "calibration": None if kept.calibration is None else str(folder / kept.calibration),
        "device": opening.device,
        "own_targets": _known_targets(kept, opening),
    }
    return make_options(**dict(kept) | changes)


def _known_targets(kept: QuantizeOptions, opening: Opening) -> tuple[TargetProfile, ...]:
    """Returns the run's own targets and the opening's. Raises UsageError where one has changed that the program was
    made for."""
    known = {profile.name: profile for profile in kept.own_targets}
    for profile in opening.own_targets:
        if profile.name in kept.targets and known.get(profile.name) != profile:
            raise UsageError(
                f"The target {profile.name} is not what it was when {opening.path} was quantized for it: run "
                "quantize again, or give the changed one another name."
            )
        known[profile.name] = profile
    return tuple(known.values())
