"""The records of accuracy in detail: by class, and beside confidence."""

from pydantic import BaseModel, ConfigDict


class ClassesRecord(BaseModel):
    """Labelled images by class, and how many of them each network is right on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: list[str] | None
    images: list[int]
    right: dict[str, list[int]]
    """Number of images that each network is right on, by network: float, fake_quant and each target."""


class ReliabilityRecord(BaseModel):
    """A network's confidence on labelled images beside how often it is right (evaluation.reliability)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error: float
    """The expected calibration error, in percent."""
    images: list[int]
    """Number of images by confidence, in equal steps from 0 to 1."""
    confidence: list[float]
    """The mean confidence of these images, in percent; 0 without images."""
    right: list[float]
    """Percent of these images that the network is right on; 0 without images."""
