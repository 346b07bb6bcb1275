"""The forms in which images may be given, and whether they are there. Imports no torch."""

from pathlib import Path

from intraq_deploy.errors import DataError

SAMPLE = "builtin:cifar10-sample"
LABELLED = f"a folder with one folder of images per class, an .npz with images and labels, or {SAMPLE}"
UNLABELLED = "a folder of images, or an .npz with images"


def check_there(path: str | Path, forms: str) -> None:
    """Checks that a file or folder is there. forms: what may be given. Raises DataError where it is not."""
    if not str(path).startswith("builtin:") and not Path(path).exists():
        raise DataError(f"{path} does not exist; give {forms}.")
