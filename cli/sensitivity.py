"""intraq-deploy sensitivity: what each layer's bits cost."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def sensitivity(
    run: o.RunArgument,
    bits: o.BitsToTry = "2,3,4,5,6,7,8",
    device: o.Device = "auto",
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """What each layer's weight bits cost, measured on a run's synthetic images.

    Quantizes one layer's weights at a time, everything else staying at 8 bits, and compares with the float network. RUN
    needs its images only.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_sensitivity
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.sensitivity import sensitivity_run

    with make_progress() as progress:
        report = sensitivity_run(Opening(run, trust_pickle, device), o.parse_bits("--bits", bits), progress)
    if json:
        print_json(report.to_json())
    else:
        render_sensitivity(report, str(run))
