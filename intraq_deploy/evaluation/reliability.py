"""Calibration of confidence: how sure a network is, beside how often it is right."""

from dataclasses import dataclass

from torch import Tensor

BINS = 15


@dataclass(frozen=True, slots=True)
class Reliability:
    """Images by the confidence that a network has in its answer, in `BINS` equal steps from 0 to 1."""

    error: float
    """The expected calibration error, in percent: the mean distance of confidence and accuracy of a bin, weighted by
    its images (Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3)."""
    images: Tensor
    """Number of images of each bin, int64 [BINS]."""
    confidence: Tensor
    """The mean confidence of these images, in percent, float64 [BINS]; 0 for an empty bin."""
    right: Tensor
    """Percent of these images that are answered rightly, float64 [BINS]; 0 for an empty bin."""


def reliability(probability: Tensor, right: Tensor) -> Reliability:
    """Returns the calibration of a network's confidence.

    probability: of the most likely class of each image, float32 [N], from 0 to 1. right: whether that is its label,
    bool [N].
    """
    # A bin holds its upper bound, as in the paper; a probability of 0 cannot be.
    probability = probability.double().nan_to_num(0)
    index = (probability * BINS).ceil().long().clamp(1, BINS) - 1
    images = index.bincount(minlength=BINS)
    some = images.clamp(min=1)
    confidence = 100 * index.bincount(probability, BINS) / some
    accuracy = 100 * index.bincount(right.double(), BINS) / some
    error = ((confidence - accuracy).abs() * images).sum() / images.sum()
    return Reliability(float(error), images, confidence, accuracy)
