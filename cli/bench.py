"""intraq-deploy bench: speed on this machine."""

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def bench(
    run: o.RunArgument,
    target: o.Target = None,
    batch: o.BatchSize = 1,
    threads: o.Threads = 1,
    seconds: o.Seconds = 20.0,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Time a finished run's files on this machine, beside float32 and ONNX Runtime's own INT8.

    All run in turn in one process, so that what slows the machine slows all of them; ratios are of the same rounds.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_bench
    from intraq_deploy.pipeline.bench import BenchOptions, bench_run
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.targets import choose_for

    targets = choose_for(run, target or ()).targets
    with make_progress() as progress:
        report = bench_run(Opening(run, trust_pickle), targets, BenchOptions(batch, threads, seconds), progress)
    if json:
        print_json(report.to_json())
    else:
        render_bench(report)
