"""intraq-deploy bundle: everything that a device needs, in one archive."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def bundle(
    run: o.RunArgument,
    target: o.BundleTarget,
    out: o.BundleOut = None,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Pack a finished run for a device that has no intraq-deploy.

    The bundle holds the network for each of the device's runtimes, and run.py, which builds, checks, times and runs it
    there with Python 3.8 and numpy: the integers that must come out travel with it.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_bundle
    from intraq_deploy.pipeline.bundle import bundle_run
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.targets import find_for

    asked = find_for(run, target)
    with make_progress() as progress:
        report = bundle_run(Opening(run, trust_pickle), asked, out, progress)
    if json:
        print_json(report.to_json())
    else:
        render_bundle(report)
