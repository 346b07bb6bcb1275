"""The command `intraq-deploy clean`: what runs share, removed. It imports no torch."""

from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UsageError
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.cache import Pruned

OlderThan = Annotated[
    float, typer.Option(metavar="DAYS", help="Only what was not used for so many days. Default: everything.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing. Default: off.")]


@command
def clean(*, older_than: OlderThan = 0.0, dry_run: DryRun = False) -> Outcome:
    """Empty the cache of stages, from which new runs take images and students that earlier ones made.

    Run directories keep their own files. The cache is ~/.cache/intraq-deploy/stages, or the folder that the environment
    variable INTRAQ_DEPLOY_CACHE names ("off": there is none); it removes by itself what was used longest ago, above 10
    GiB.
    """
    from intraq_deploy.pipeline.cache import stage_cache

    if older_than < 0:
        raise UsageError(f"--older-than is {older_than:g}: give a number of days from 0 on.")
    cache = stage_cache()
    if cache is None:
        raise UsageError("There is no cache: INTRAQ_DEPLOY_CACHE is off, or you have no home directory.")
    pruned = cache.prune(older_than, dry=dry_run)
    return Outcome(pruned.to_json, lambda: _show(pruned, dry=dry_run))


def _show(pruned: "Pruned", *, dry: bool) -> None:
    stages = "1 stage" if pruned.removed == 1 else f"{pruned.removed} stages"
    show(
        f"{stages} ({pruned.bytes / MIB:.1f} MiB) {'would be' if dry else 'removed'}"
        f"{' removed' if dry else ''} from {pruned.folder}; {pruned.kept} stay."
    )
