"""A student that nobody has trained, frozen and lowered: what would go wrong behind the training is said before it."""

import torch

from intraq_deploy.errors import FreezeError
from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.run import Run
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Program
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.targets.onnx.export import lowered

_IMAGES = 2


def dry_run(run: Run, scheme: Scheme) -> Program | None:
    """Freezes a student with ranges of a little noise, lowers it for every target of the run, and returns its program.

    Returns None where the run has its student already, and where these ranges do not settle. Raises TargetError for a
    program that a target would refuse. What no scales near by settle depends on the scales, and may be otherwise behind
    the training.
    """
    key = stages.student_key(run, scheme, stages.images_key(run))
    if run.directory.finished(stages.FINE_TUNING, key):
        return None
    noise = torch.randn(_IMAGES, *run.model.input_shape, generator=torch.Generator().manual_seed(0))
    student = build_network(run.graph, scheme, noise, run.options.seed)
    try:
        settle(student)
        program = freeze(student, run.normalization)
    except FreezeError:
        return None
    for target in run.options.targets:
        lowered(program, run.profile(target), {})
    return program
