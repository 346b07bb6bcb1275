"""The command `intraq-deploy export`: a finished run for more targets."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.report import show_artifacts
from intraq_deploy.pipeline.progress import Progress


@command
def export(
    *, run: o.RunArgument, target: o.Target = None, trust_pickle: o.TrustPickle = False, progress: Progress
) -> Outcome:
    """Write a finished run's integers for a target."""
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.targets import choose_for
    from intraq_deploy.targets.profile import DEFAULT_TARGETS

    chosen = choose_for(run, target or DEFAULT_TARGETS)
    opening = Opening(run, trust_pickle, own_targets=chosen.own)
    opening.check()
    begin(progress)
    from intraq_deploy.pipeline.export import export_run

    report = export_run(opening, chosen.targets, progress)
    return Outcome(report.to_json, lambda: show_artifacts(report, str(run)))
