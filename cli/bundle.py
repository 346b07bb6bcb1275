"""The command `intraq-deploy bundle`: everything that a device or a server needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UsageError
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.bundle import BundleReport
    from intraq_deploy.pipeline.triton import TritonReport

Target = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=targets,
        help="The device, or one target, to pack for. Default: none; with --triton: onnxruntime.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The bundle's folder; its archive is written beside. With --triton: the model repository. Default: "
        "bundles/NAME, or bundles/triton, in the run directory.",
    ),
]
Triton = Annotated[
    bool,
    typer.Option(
        "--triton", help="Write a model repository for Triton Inference Server instead. Default: a bundle for a device."
    ),
]


@command
def bundle(
    *,
    run: o.RunArgument,
    target: Target = None,
    out: Out = None,
    triton: Triton = False,
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Pack a finished run for a device that has no intraq-deploy.

    The bundle holds the network for each of the device's runtimes, and run.py, which builds, checks, times and runs it
    there with Python 3.8 and numpy: the integers that must come out travel with it. Exits 3 where the file is missing
    that would be the device's best.

    With --triton, the network is written as a model of Triton Inference Server's ONNX Runtime backend, with its
    config.pbtxt. Other models in that repository stay as they are.
    """
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.options import DEFAULT_TARGETS
    from intraq_deploy.pipeline.targets import find_for

    if target is None and not triton:
        raise UsageError(
            "There is no --target: give a device or a target, as `intraq-deploy targets` lists them, or --triton."
        )
    device, opening = find_for(run, target or DEFAULT_TARGETS[0]), Opening(run, trust_pickle)
    begin(progress, opening)
    if triton:
        from intraq_deploy.pipeline.triton import triton_run

        model = triton_run(opening, device, out, progress)
        return Outcome(model.to_json, lambda: _show_model(model))
    from intraq_deploy.pipeline.bundle import bundle_run

    report = bundle_run(opening, device, out, progress)
    return Outcome(report.to_json, lambda: _show(report), report.exit_code)


def _show_model(report: "TritonReport") -> None:
    """Prints what was written for Triton, and how it is served."""
    show(
        f"{report.repository}/{report.model}: for {report.target}, batches of up to {report.max_batch_size}. It needs "
        f"a Triton with ONNX Runtime {report.onnxruntime} or newer.",
        wrap=False,
    )
    show(f"Serve it: tritonserver --model-repository={report.repository}", wrap=False)


def _show(report: "BundleReport") -> None:
    """Prints what was packed, and what to type on the device."""
    show(
        f"{report.archive}: {report.bytes / MIB:.2f} MiB, for {', '.join(report.targets)}. `check` compares "
        f"{report.integers:,} integers there."
    )
    for target, reason in report.left_out.items():
        show(f"{target} is left out: {reason}")
    if report.shortfall is not None:
        show(report.shortfall, "red", wrap=False)
    show("On the device, in the unpacked folder: python3 run.py doctor, then check.")
