"""The command line: one file per command, each parse -> call -> return, its renderer beside it."""

from typing import Annotated

import typer

from intraq_deploy.cli.bench import bench
from intraq_deploy.cli.build import build
from intraq_deploy.cli.bundle import bundle
from intraq_deploy.cli.classify import classify
from intraq_deploy.cli.clean import clean
from intraq_deploy.cli.doctor import doctor
from intraq_deploy.cli.export import export
from intraq_deploy.cli.inspect import inspect
from intraq_deploy.cli.lint import lint
from intraq_deploy.cli.quantize import quantize
from intraq_deploy.cli.recipes import recipes
from intraq_deploy.cli.report import report
from intraq_deploy.cli.runs import runs
from intraq_deploy.cli.sensitivity import sensitivity
from intraq_deploy.cli.ship import ship
from intraq_deploy.cli.synthesize import synthesize
from intraq_deploy.cli.targets import targets
from intraq_deploy.cli.validate import validate
from intraq_deploy.version import __version__

_EXAMPLES = {
    "quantize": """Examples:

    intraq-deploy quantize builtin:resnet20-cifar10 --eval builtin:cifar10-sample

    intraq-deploy quantize model.pth --arch torchvision:resnet18 --bits 4 --eval photos/

    intraq-deploy quantize net.onnx --weight-bits 4 --activation-bits 8 --calibration unlabelled/

    intraq-deploy quantize model.pth --target jetson-orin-nano""",
    "inspect": """Examples:

    intraq-deploy inspect model.pth

    intraq-deploy inspect torchvision:mobilenet_v2 --bits 8 --layers""",
    "report": """Examples:

    intraq-deploy report runs/model-w4a4 --open

    intraq-deploy report runs/model-w4a4 runs/model-w8a8 --out compared.html""",
    "classify": """Examples:

    intraq-deploy classify runs/model-w4a4 photo.jpg

    intraq-deploy classify model.onnx photos/ --top 1 --json""",
    "bundle": """Examples:

    intraq-deploy bundle runs/model-w4a4 --target jetson-orin-nano

    intraq-deploy bundle runs/model-w4a4 --triton --out models/""",
    "ship": """Examples:

    intraq-deploy ship runs/model-w4a4 --to me@jetson

    intraq-deploy ship runs/model-w4a4 --fleet hosts.toml --eval photos/""",
}
"""Examples that end the help of a command, by its name."""

app = typer.Typer(
    name="intraq-deploy",
    help="Data-free low-bit quantization of image classifiers: "
    "what was trained is what is shipped, integer for integer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # panels of options
)
for command in (
    quantize, synthesize, sensitivity, export, validate, report, runs, classify, build, bundle, bench, ship, doctor,
    lint, inspect, targets, clean,
):  # fmt: skip
    app.command(epilog=_EXAMPLES.get(command.__name__))(command)
app.add_typer(recipes, name="recipes")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
