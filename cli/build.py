"""intraq-deploy build: engines."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


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
    builds for the GPU that is here. The engine is not run.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_engines

    from intraq_deploy.pipeline.build import build_run

    targets = tuple(target or ("tensorrt-rtx",))
    with make_progress() as progress:
        report = build_run(run, targets, trust_pickle, progress)
    if json:
        print_json(report.to_json())
    else:
        render_engines(report, targets, str(run))
