"""The forms in which images may be given, and whether they are there. Imports no torch."""

from pathlib import Path

from intraq_deploy.errors import DataError

SAMPLE = "builtin:cifar10-sample"
LABELLED = f"a folder with one folder of images per class, an .npz with images and labels, or {SAMPLE}"
UNLABELLED = "a folder of images, or an .npz with images"

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
"""The names of image files end so, in small or capital letters."""


def image_files(folder: Path) -> list[Path]:
    """Returns every image file under `folder`, in the order of the paths. Hidden files and what lies in hidden folders
    (thumbnails) are left alone."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def check_there(path: str | Path, forms: str) -> None:
    """Checks that a file or folder is there. forms: what may be given. Raises DataError where it is not."""
    if not str(path).startswith("builtin:") and not Path(path).exists():
        raise DataError(f"{path} does not exist; give {forms}.")
