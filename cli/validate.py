"""intraq-deploy validate: the gate, again."""

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import GateError


@reports_errors
def validate(
    run: o.RunArgument,
    target: o.Target = None,
    evaluate: o.Eval = None,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Check a finished run's files again.

    Compares them with the integer reference, and measures accuracy with --eval. Exits 3 if the gate fails.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_report
    from intraq_deploy.cli.wording import warning_sentence
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.gate import validate_run
    from intraq_deploy.pipeline.targets import choose_for

    targets = choose_for(run, target or ()).targets
    with make_progress() as progress:
        report = validate_run(Opening(run, trust_pickle), targets, evaluate, progress)
        for warning in report.warnings:
            progress.warn(warning_sentence(warning))
    if json:
        print_json(report.to_json())
    else:
        render_report(report, str(run))
    if report.status == "failed":
        raise typer.Exit(GateError.exit_code)
