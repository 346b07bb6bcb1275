"""The command `intraq-deploy quantize`: the main job."""

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.completion import one_of, targets
from intraq_deploy.cli.processes import OUTCOME, rank
from intraq_deploy.cli.summary import say_warnings, show_closing, show_images, show_report
from intraq_deploy.errors import GateError, IntraqError
from intraq_deploy.pipeline.progress import Progress

if TYPE_CHECKING:
    from intraq_deploy.pipeline.options import QuantizeOptions
    from intraq_deploy.pipeline.report import RunReport

Method = Annotated[
    str,
    typer.Option(
        metavar="qat|ptq",
        autocompletion=one_of("qat", "ptq"),
        help="qat: as the preset says; ptq: no fine-tuning, and rounding in closed form alone.",
    ),
]
Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct",
        help="Before fine-tuning, round each block's weights to what its output needs; slower. Default: the recipe's.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Your own images in place of synthetic ones: a folder, or an .npz with images. For networks without "
        "batch norm. No label is read. Default: images are made from MODEL.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        autocompletion=targets,
        help="What to ship for: a target, a device for all of its targets, or the path of your own; repeatable. "
        "`intraq-deploy targets` lists them. Default: a file for onnxruntime, with integers that TensorRT takes too; "
        "`--target onnxruntime` is for CPUs alone, and uses more of 8-bit activations.",
    ),
]
Steps = Annotated[int | None, typer.Option(help="Fine-tuning steps; 0: none. Default: the recipe's.")]
InputType = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="float|uint8",
        autocompletion=one_of("float", "uint8"),
        help="What the model takes. float: normalised images; uint8: pixels, mean and std in the graph.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Share the work among so many processes, one for each CUDA device, or the cores among them. The result is "
        "the same for every N. Default: one process that shares nothing.",
    ),
]


@command
def quantize(
    *,
    bits: o.BitsGroup,
    mixed: o.MixedGroup,
    scheme: o.SchemeName = "integer",
    recipe: o.RecipeGroup,
    method: Method = "qat",
    reconstruct: Reconstruct = False,
    calibration: Calibration = None,
    images: o.ImagesGroup,
    steps: Steps = None,
    target: Targets = None,
    evaluate: o.Eval = None,
    input_type: InputType = "float",
    processes: Processes = None,
    place: o.PlaceGroup,
    model: o.ModelGroup,
    session: o.SessionGroup,
    progress: Progress,
) -> Outcome:
    """The main job: a checkpoint in, a checked low-bit runtime out.

    Makes images from MODEL alone (or takes yours, with --calibration), fine-tunes a low-bit copy on them, freezes it
    into integers, exports it for the targets, and compares what they compute with what was trained. Exits 3 if that
    gate fails.
    """
    start = time.perf_counter()
    from intraq_deploy.pipeline.options import DEFAULT_TARGETS, MADE_FOR, make_options
    from intraq_deploy.pipeline.targets import choose

    chosen = choose(target or DEFAULT_TARGETS)
    budget = mixed.options(bits.weight_bits)
    options = make_options(
        model.options(),
        weight_bits=min(budget.widths) if budget else bits.weights,
        depthwise_bits=bits.depthwise_bits,
        activation_bits=bits.activations,
        mixed=budget,
        scheme=scheme,
        **recipe.options(),
        method=method,
        reconstruct=reconstruct,
        calibration=calibration,
        **asdict(images),
        steps=steps,
        targets=chosen.targets,
        made_for=chosen.targets if target else MADE_FOR,
        own_targets=chosen.own,
        eval=evaluate,
        input=input_type,
        **asdict(session),
    )
    if processes is not None:
        options.check()
        raise typer.Exit(_started(processes))
    if rank():
        return _helped(options)
    begin(progress, options)
    from intraq_deploy.pipeline.quantize import quantize_run
    from intraq_deploy.team import join

    team = join()
    try:
        report, directory = quantize_run(options, place.out, progress, overwrite=place.overwrite, team=team)
    finally:
        team.end()
    say_warnings(report, progress)
    failed, seconds = report.status == "failed", time.perf_counter() - start
    return Outcome(report.to_json, lambda: _show(report, str(directory), seconds), GateError.exit_code if failed else 0)


def _started(processes: int) -> int:
    """Runs this command line in so many processes. Returns the exit code."""
    from intraq_deploy.pipeline.processes import start

    words = iter(sys.argv[1:])
    kept = [
        word for word in words if not word.startswith("--processes=") and (word != "--processes" or not next(words))
    ]
    return start(processes, kept, OUTCOME)


def _helped(options: "QuantizeOptions") -> Outcome:
    """Takes part in a run that another process leads, and shows nothing. What cannot be, the leader says."""
    from intraq_deploy.pipeline.processes import help_with
    from intraq_deploy.team import join

    code = 0
    try:
        options.check()
        help_with(options, join())
    except IntraqError as error:
        code = error.exit_code
    return Outcome(str, lambda: None, code)


def _show(report: "RunReport", directory: str, seconds: float) -> None:
    show_images(report, directory)
    show_report(report, directory)
    show_closing(report, directory, seconds)
