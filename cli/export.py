"""The command `intraq-deploy export`: a finished run for more targets."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.report import show_artifacts
from intraq_deploy.pipeline.progress import Progress


@command
def export(
    *, run: o.RunArgument, target: o.Target = None, trust_pickle: o.TrustPickle = False, progress: Progress
) -> Outcome:
    """Write a finished run's integers for a target."""
    from intraq_deploy.pipeline.export import export_run
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.schemes import DEFAULT_TARGETS
    from intraq_deploy.pipeline.targets import choose_for

    chosen = choose_for(run, target or DEFAULT_TARGETS)
    report = export_run(Opening(run, trust_pickle, own_targets=chosen.own), chosen.targets, progress)
    return Outcome(report.to_json, lambda: show_artifacts(report, str(run)))
