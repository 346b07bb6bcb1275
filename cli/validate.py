"""The command `intraq-deploy validate`: the gate, again."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.summary import say_warnings, show_report
from intraq_deploy.errors import GateError
from intraq_deploy.pipeline.progress import Progress


@command
def validate(
    *,
    run: o.RunArgument,
    target: o.Target = None,
    evaluate: o.Eval = None,
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Check a finished run's files again.

    Compares them with the integer reference, and measures accuracy with --eval. Exits 3 if the gate fails.
    """
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.targets import choose_for

    targets = choose_for(run, target or ()).targets
    opening = Opening(run, trust_pickle)
    begin(progress, opening)
    from intraq_deploy.pipeline.gate import validate_run

    report = validate_run(opening, targets, evaluate, progress)
    say_warnings(report, progress)
    failed = report.status == "failed"
    return Outcome(report.to_json, lambda: show_report(report, str(run)), GateError.exit_code if failed else 0)
