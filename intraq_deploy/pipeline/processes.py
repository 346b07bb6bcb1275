"""Several processes for one run: how they are started, and what those do that do not lead."""

import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.pipeline.options import QuantizeOptions
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.run import prepared
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.stages import IMAGES_JOB
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.make import make_images
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.team import Team
from intraq_deploy.training.loop import TrainingState
from intraq_deploy.training.student import FINE_TUNING_JOB, FITTING_JOB, StudentTraining

_RESTARTS = 3
_MOST = 1024
_THREADS = "OMP_NUM_THREADS"


def start(processes: int, arguments: Sequence[str], variable: str) -> int:
    """Runs a command line in so many processes, and returns the exit code of the one that leads.

    If one is lost, all start again and go on from what is saved. They share the cores, unless OMP_NUM_THREADS says
    otherwise. arguments: of the command line. variable: the environment variable with the file that the leading process
    writes its exit code to. Raises UsageError for a number that cannot be, RunError where processes
    are lost time and again.
    """
    if not 1 <= processes <= _MOST:
        raise UsageError(f"--processes is {processes}: give 1 to {_MOST}.")
    os.environ.setdefault(_THREADS, str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=_RESTARTS,
        monitor_interval=0.5,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder, "exit-code")
        os.environ[variable] = str(outcome)
        try:
            elastic_launch(config, sys.executable)("-m", "intraq_deploy", *arguments)
        except SignalException as signal:
            return 128 + int(signal.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise RunError(
                f"Process {rank} of {processes} was lost {_RESTARTS + 1} times (exit code {failure.exitcode}; -9 is "
                "what the system does where memory runs out): run the same command again, which goes on from what is "
                "saved, with fewer --processes or --images."
            ) from error
        finally:
            del os.environ[variable]
        return int(outcome.read_text())


def help_with(options: QuantizeOptions, team: Team) -> None:
    """Does what the leader of the team calls for, until the run is over. Nothing is written or shown."""

    def no_directory(_: object) -> RunDirectory:
        raise AssertionError("Only the leader opens the run directory.")

    run = prepared(options, no_directory, Silent(), team)

    def images(done: dict[int, SyntheticSet]) -> None:
        make_images(run.image_model, run.probe, run.recipe.synthesis, options.seed, done=done, team=team)

    def mine(training: StudentTraining) -> StudentTraining:
        return replace(training, teacher=training.teacher.to(run.device), device=run.device, team=team)

    def fit(training: StudentTraining, student: FakeQuantNetwork, fitted: int) -> None:
        mine(training).fit_together(student, fitted)

    def fine_tune(training: StudentTraining, student: FakeQuantNetwork, state: TrainingState | None) -> None:
        trainer = mine(training).trainer(student)
        if state is not None:
            trainer.restore(state)
        trainer.run(training.recipe.training.steps)

    team.serve({IMAGES_JOB: images, FITTING_JOB: fit, FINE_TUNING_JOB: fine_tune})
