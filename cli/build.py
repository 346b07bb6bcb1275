"""The command `intraq-deploy build`: engines."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.cli.summary import SHOWN_FAILURES
from intraq_deploy.errors import GateError
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.report import EngineRecord, RunReport

Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        autocompletion=targets,
        help="What to compile for: a target, a device for those of its targets that compile here, or the path of your "
        "own; repeatable. Default: tensorrt-rtx.",
    ),
]
_SHOWN_LAYERS = 8


@command
def build(
    *, run: o.RunArgument, target: Target = None, trust_pickle: o.TrustPickle = False, progress: Progress
) -> Outcome:
    """Compile a finished run's integers into an engine.

    TensorRT for RTX compiles without a GPU, ahead of time, and says in which type each layer multiplies. TensorRT
    builds for the GPU that is here, by itself or as ONNX Runtime's provider; its engine's integers are compared with
    the reference, and it is timed beside the float network in float16. Exits 3 if they differ.
    """
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.targets import choose_for

    chosen = choose_for(run, target or ("tensorrt-rtx",))
    opening = Opening(run, trust_pickle, own_targets=chosen.own)
    begin(progress, opening)
    from intraq_deploy.pipeline.build import build_run, built_here

    targets = built_here(chosen, progress)
    report = build_run(opening, targets, progress)
    failed = any(report.engines[name].failures for name in targets)
    return Outcome(report.to_json, lambda: _show(report, targets, str(run)), GateError.exit_code if failed else 0)


def _show(report: "RunReport", targets: Iterable[str], directory: str) -> None:
    """Prints what the compiler made of the layers, and what was found where the engine could be run."""
    from intraq_deploy.pipeline.sentences import failure_sentence, parity_sentence

    for target in targets:
        engine = report.engines[target]
        kinds = Counter(engine.layers.values())
        found = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common())
        sentence = f"of {len(engine.layers)} convolutions and linear layers {found}."
        show(f"{target}: {sentence if engine.layers else f'built for {engine.gpu}.'}")
        others = [f"{name} ({kind})" for name, kind in engine.layers.items() if kind != "INT8"]
        if others:
            more = f" and {len(others) - _SHOWN_LAYERS} more" if len(others) > _SHOWN_LAYERS else ""
            show(f"  Not INT8: {', '.join(others[:_SHOWN_LAYERS])}{more}.")
        if min(report.bits.weights, report.bits.activations) < 8:
            show("  Values of fewer than 8 bits run in INT8 kernels: no faster than INT8.")
        show(
            f"  {directory}/{engine.path}, {engine.bytes / MIB:.2f} MiB, by {engine.compiler} for compute capability "
            f"{engine.compute_capability} in {engine.seconds:.1f} s.{_timing_sentence(engine)}",
            wrap=False,
        )
        parity = report.parity.get(target)
        if parity is not None and parity.ran_by is not None:
            show(f"  {parity_sentence(target, parity)}")
        for failure in engine.failures[:SHOWN_FAILURES]:
            show(f"  Gate failed: {failure_sentence(failure)}", "red")


def _timing_sentence(engine: "EngineRecord") -> str:
    if engine.milliseconds is None or engine.float16_milliseconds is None:
        return " It has not been timed." if engine.gpu else " It has not been run."
    return (
        f" On {engine.gpu}, batch 1: {engine.milliseconds:.3f} ms; the float network in float16 "
        f"{engine.float16_milliseconds:.3f} ms (medians of CUDA graphs, transfers apart)."
    )
