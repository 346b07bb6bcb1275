"""intraq-deploy export: a finished run for more targets."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def export(
    run: o.RunArgument,
    target: o.Target = None,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write a finished run's integers for a target."""
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_artifacts
    from intraq_deploy.pipeline.export import export_run
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.targets import choose_for

    chosen = choose_for(run, target or ("onnxruntime",))
    with make_progress() as progress:
        report = export_run(Opening(run, trust_pickle, own_targets=chosen.own), chosen.targets, progress)
    if json:
        print_json(report.to_json())
    else:
        render_artifacts(report, str(run))
