"""The forms in which images may be given, and what can be said of them before they are read. Imports no torch."""

from collections.abc import Iterator
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
    return sorted(_found(folder))


def class_folders(path: Path) -> list[Path]:
    """Returns the folders in a folder, one of each class, in the order of their names. Raises DataError for none."""
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        raise DataError(f"{path} contains no folders; give a folder with one folder of images per class.")
    return folders


def check_labelled(path: str | Path) -> None:
    """Checks the form of labelled images. Raises DataError for what holds none, whatever the network."""
    if str(path) == SAMPLE:
        return
    if str(path).startswith("builtin:"):
        raise DataError(f"there are no built-in images {str(path)!r}; give {LABELLED}.")
    place = Path(path)
    _check_place(place, LABELLED)
    if place.is_dir():
        folders = class_folders(place)
        if not any(True for folder in folders for _ in _found(folder)):
            raise DataError(
                f"{place} contains no images in its {len(folders)} folders; known are {' '.join(SUFFIXES)}."
            )


def check_unlabelled(path: str | Path) -> None:
    """Checks the form of images without labels. Raises DataError for what is neither a folder nor an .npz."""
    _check_place(Path(path), UNLABELLED)


def _check_place(path: Path, forms: str) -> None:
    if not path.exists():
        raise DataError(f"{path} does not exist; give {forms}.")
    if not path.is_dir() and path.suffix != ".npz":
        raise DataError(f"{path} is no folder and no .npz; give {forms}.")


def _found(folder: Path) -> Iterator[Path]:
    """Yields the image files under a folder, in no order."""
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() in SUFFIXES and not hidden and file.is_file():
            yield file
