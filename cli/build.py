"""intraq-deploy build: engines."""

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import GateError


@reports_errors
def build(
    run: o.RunArgument,
    target: o.BuildTarget = None,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Compile a finished run's integers into an engine.

    TensorRT for RTX compiles without a GPU, ahead of time, and says in which type each layer multiplies. TensorRT
    builds for the GPU that is here, by itself or as ONNX Runtime's provider; its engine's integers are compared with
    the reference, and it is timed beside the float network in float16. Exits 3 if they differ.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_engines
    from intraq_deploy.pipeline.build import build_run, built_here
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.targets import choose_for

    chosen = choose_for(run, target or ("tensorrt-rtx",))
    with make_progress() as progress:
        targets = built_here(chosen, progress)
        report = build_run(Opening(run, trust_pickle, own_targets=chosen.own), targets, progress)
    if json:
        print_json(report.to_json())
    else:
        render_engines(report, targets, str(run))
    if any(report.engines[name].failures for name in targets):
        raise typer.Exit(GateError.exit_code)
