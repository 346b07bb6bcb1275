"""The command `intraq-deploy classify`: the likeliest classes of photos."""

from pathlib import Path
from typing import Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.cli.errors import explain
from intraq_deploy.errors import DataError

Source = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory, a file that a run has exported, or a bundle's folder.")
]
Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE...", help="Image files, .npy files of uint8 pixels, or folders of images."),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=targets,
        help="Which of the run's files: one for ONNX Runtime. Default: onnxruntime, or the first that there is.",
    ),
]
Top = Annotated[int, typer.Option(min=1, metavar="K", help="How many classes of each image.")]


@command
def classify(*, source: Source, images: Images, target: Target = None, top: Top = 5) -> Outcome:
    """Name the likeliest classes of photos, with their probabilities.

    The shipped file runs in ONNX Runtime, and photos are prepared as on a device, so the answers are those of a
    bundle's run.py. Exits 1 if a file is no image; the others are classified all the same.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist: give a run directory, an exported .onnx file or a bundle.")
    from intraq_deploy.pipeline.classify import classify as classify_images

    found = classify_images(source, images, target, top)
    for error in found.errors:
        explain(error)
    return Outcome(found.to_json, lambda: show("\n".join(found.lines), wrap=False), 1 if found.errors else 0)
