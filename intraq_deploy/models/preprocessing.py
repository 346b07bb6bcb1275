"""The preprocessing that a model gets: its weights entry's, with what the user gave in its place."""

import math
from collections.abc import Sequence

from intraq_deploy.errors import UsageError
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.wording import listing


def resolve_preprocessing(
    entry: Preprocessing | None,
    channels: int,
    *,
    spec: str,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """Combines the architecture's entry with the user's values.

    entry: None where the architecture has no weights entry: then all three values are required.
    input_size: pixels, one number for a square or (height, width). `resize` follows in proportion, so that
        the same part of an image is seen: 256 and a crop of 224 become 219 and a crop of 192.
    mean, std: one value per channel, or one for all, for images scaled to [0, 1].
    Raises UsageError for missing values, a wrong number of them, or values out of range.
    """
    given = {"--input-size": input_size, "--mean": mean, "--std": std}
    missing = [option for option, value in given.items() if value is None]
    if entry is None and missing:
        raise UsageError(
            f"{spec} comes without preprocessing; give {listing(missing)} as it was trained with "
            "(mean and std for images scaled to 0..1)."
        )

    size = _size(input_size) if input_size is not None else _entry(entry).input_size
    means = _per_channel("--mean", mean, channels) if mean is not None else _entry(entry).mean
    stds = _per_channel("--std", std, channels) if std is not None else _entry(entry).std
    if len(means) != channels or len(stds) != channels:
        wanting = [option for option, values in (("--mean", means), ("--std", stds)) if len(values) != channels]
        raise UsageError(
            f"{spec} reads images of {_channels(channels)} here, and the preprocessing of "
            f"{_entry(entry).source} has mean {_words(_entry(entry).mean)}; give {listing(wanting)}."
        )
    _check_ranges(means, stds)

    options = [option for option, value in given.items() if value is not None]
    if entry is None:
        return Preprocessing(size, means, stds, source=listing(options))
    resize = entry.resize
    if resize is not None and size != entry.input_size:
        resize = max(min(size), round(resize * min(size) / min(entry.input_size)))
    source = f"{entry.source}, with {listing(options)}" if options else entry.source
    return Preprocessing(size, means, stds, resize, entry.interpolation, source, entry.squash)


def _size(input_size: int | tuple[int, int]) -> tuple[int, int]:
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise UsageError(f"--input-size is {input_size}; give one or two positive numbers of pixels.")
    return size


def _per_channel(option: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value is for every channel."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 1:
        numbers *= channels
    if len(numbers) != channels:
        raise UsageError(
            f"{option} has {len(numbers)} values, and the network reads {_channels(channels)}; give one per "
            "channel, or one for all."
        )
    return numbers


def _check_ranges(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if not all(math.isfinite(value) and value > 0 for value in std):
        raise UsageError(f"--std is {_words(std)}; it must be positive in every channel.")
    if not all(math.isfinite(value) and -1 <= value <= 1 for value in mean):
        raise UsageError(
            f"--mean is {_words(mean)}; it is for images scaled to 0..1: divide values of 0..255 by 255, std too."
        )


def _words(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _channels(count: int) -> str:
    return f"{count} channel" if count == 1 else f"{count} channels"


def _entry(entry: Preprocessing | None) -> Preprocessing:
    assert entry is not None  # checked first: without an entry every value was given
    return entry
