"""The accuracy of any form of a network: in PyTorch, fake-quantized, as a Program, or as a file."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from intraq_deploy.data.iterables import labelled_batches
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import DataError, UsageError
from intraq_deploy.evaluation.accuracy import Accuracy, Predict
from intraq_deploy.evaluation.accuracy import evaluate as measure
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.display import shown_stage
from intraq_deploy.program.program import Normalization, Program
from intraq_deploy.program.reference import Reference
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.opening import open_shipped

_BATCH = 100


@dataclass(frozen=True, slots=True)
class _Network:
    """A form of a network, for measuring."""

    predict: Predict
    """A function from normalised images, float32 [N, C, H, W], to logits, float32 [N, classes]."""
    shape: tuple[int, ...]
    """The shape of one image, [C, H, W]."""
    classes: int


def evaluate(
    network: Model | FakeQuantNetwork | Program | Artifact, images: object, model: Model | None, *, progress: bool
) -> Accuracy:
    """Measures a network, as `intraq_deploy.evaluate` does. Raises UsageError for images that it cannot read or for a
    model that is missing or another one, DataError for images without labels or that do not fit."""
    model = network if isinstance(network, Model) else model
    form = _form(network, model)
    if model is not None and model.input_shape != form.shape:
        raise UsageError(
            f"The model reads images of {'x'.join(map(str, model.input_shape))}, and the network of "
            f"{'x'.join(map(str, form.shape))}: give the model that the network was made from."
        )
    batches, count = _batches(images, form, model)
    with shown_stage(progress, "accuracy", count, "batches") as display:

        def counted() -> Iterator[tuple[Tensor, Tensor]]:
            found = 0
            for number, (part, labels) in enumerate(batches):
                display.advance(number, f"{found:,} images")
                found += len(part)
                yield part, labels
            if not found:
                raise DataError("The images are none: give at least one, with its label.")

        return measure(form.predict, counted())


def _batches(images: object, form: _Network, model: Model | None) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Returns batches of normalised images and labels, and how many there are; 0 where that is not known."""
    if not isinstance(images, str | Path):
        preprocessing = None if model is None else model.preprocessing
        return labelled_batches(images, form.shape, form.classes, preprocessing), operator.length_hint(images, 0)
    if model is None:
        raise UsageError(
            f"The images {images} are files, and only a model says how they are prepared: give model=, which "
            "load_model makes."
        )
    labelled = load_labelled(images, model)
    return labelled.batches(_BATCH), -(-len(labelled) // _BATCH)


def _form(network: Model | FakeQuantNetwork | Program | Artifact, model: Model | None) -> _Network:
    if isinstance(network, Model):
        return _Network(network.module, network.input_shape, network.classes)
    if isinstance(network, FakeQuantNetwork):
        return _Network(network, network.graph.input.shape, network.graph[network.graph.output].shape[0])
    if isinstance(network, Program):
        run, graph = Reference(network).run, network.graph
        return _Network(_of_pixels(run, network.normalization), graph.input.shape, graph[graph.output].shape[0])
    if isinstance(network, Artifact):
        return _artifact(network, model)
    raise UsageError(
        f"The network is of type {type(network).__name__}: give what load_model, quantize, freeze or export makes."
    )


def _artifact(artifact: Artifact, model: Model | None) -> _Network:
    session = open_shipped(artifact)
    (given,), (logits,) = artifact.model.graph.inputs, artifact.model.graph.outputs
    assert given.shape is not None
    assert given.dtype is not None
    assert logits.shape is not None
    normalization = None
    if not given.dtype.is_floating_point():
        if model is None:
            raise UsageError(
                f"{artifact.path} takes pixels, and only a model says what normalised images were before: give "
                "model=, which load_model makes."
            )
        normalization = Normalization.of(model.preprocessing.mean, model.preprocessing.std)
    shape = tuple(size for size in given.shape[1:] if isinstance(size, int))
    classes = logits.shape[1]
    assert isinstance(classes, int)
    return _Network(_of_pixels(session.run, normalization), shape, classes)


def _of_pixels(predict: Predict, normalization: Normalization | None) -> Predict:
    """Returns a function of normalised images. normalization: of what takes pixels, which are found again exactly."""
    return predict if normalization is None else lambda images: predict(normalization.invert(images))
