"""The logits of a network, whatever it returns, found by running it once."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraq_deploy.errors import UnsupportedModelError, UsageError
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)

_SMALLEST, _CLOSE = 1e-38, 1e-4
"""The least probability that has a logarithm here, and how near to 1 the sum of probabilities is."""
BATCH = 2
"""Images of the trial run: more than one, so that the batch dimension shows."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a tensor in a network's output: an attribute, or an item of a list or dictionary."""

    key: str | int
    attribute: bool = False

    def take(self, output: Any) -> Any:
        """The tensor at this place."""
        return getattr(output, str(self.key)) if self.attribute else output[self.key]


def return_logits(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    classes: int | None = None,
    output: str | int | None = None,
) -> int:
    """Runs a network once on random images, and makes it return its logits only and leave its images as they are.

    Hooks do so, and not networks around it: the names of its layers stay. A softmax becomes log-probabilities, which
    are the logits but for a number for each image.

    module: in eval mode; it gets the hooks. input_shape: channels, height, width.
    classes: the class count, where the checkpoint shows it: tells logits from features.
    output: the user's choice where there are several candidates: a key, an attribute's name or an index.
    Returns the network's class count.
    Raises UnsupportedModelError if it does not run at this size or has no logits; UsageError for a wrong
        or missing choice.
    """
    images = torch.randn(BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    given = images.clone()
    result = _run(module, given)
    if not torch.equal(given, images):
        module.register_forward_pre_hook(_copied)
    if isinstance(result, Tensor):
        if output is not None:
            raise UsageError(f"--output is {output}, but the network returns a single tensor; leave --output out.")
        logits = result
    else:
        places = _places(result)
        place = _only_candidate(places, classes) if output is None else _chosen(places, output)
        module.register_forward_hook(partial(_taken, place))
        logits = places[place]
    count = _classes_of(logits)
    if _are_probabilities(logits):
        logger.warning("The network ends in a softmax, which is left out: its logits are quantized.")
        module.register_forward_hook(_logarithm)
    return count


def _copied(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = arguments
    return (images.clone(), *others)


def _taken(place: Place, _: nn.Module, __: tuple[Any, ...], answer: Any) -> Any:
    return place.take(answer)


def _logarithm(_: nn.Module, __: tuple[Any, ...], answer: Tensor) -> Tensor:
    return F.threshold(answer, _SMALLEST, _SMALLEST).log()


def _are_probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all()) and bool((logits.sum(1) - 1).abs().max() < _CLOSE)


def _run(module: nn.Module, images: Tensor) -> Any:
    try:
        with torch.no_grad():
            return module(images)
    except UnsupportedModelError:  # of a node of an ONNX file, which says what to do
        raise
    except Exception as error:  # a network's forward may fail in any way
        _, channels, height, width = images.shape
        remedy = "give the --input-size that it was trained with"
        if isinstance(error, TypeError) and str(error).startswith(f"{type(module).__name__}.forward()"):
            remedy = "wrap it in a network whose forward takes the images alone"
        elif _runs(module, images.permute(0, 2, 3, 1)):
            remedy = "it takes [N, H, W, C]: wrap it in a network that gives it images.permute(0, 2, 3, 1)"
        raise UnsupportedModelError(
            f"the network does not run on images of {channels} channels and {height}x{width} pixels "
            f"({reason(error, length=240)}); {remedy}."
        ) from error


def _runs(module: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            module(images.clone())
    except Exception:  # in any way
        return False
    return True


def _places(result: Any) -> dict[Place, Any]:
    """Everything in a network's output, one level deep, in order."""
    if isinstance(result, Mapping):
        return {Place(key): value for key, value in result.items()}
    if isinstance(result, Sequence) and not isinstance(result, str) and not hasattr(result, "_fields"):
        return {Place(index): value for index, value in enumerate(result)}

    if hasattr(result, "_fields"):  # a named tuple
        names = list(result._fields)
    elif dataclasses.is_dataclass(result):
        names = [item.name for item in dataclasses.fields(result)]
    else:
        names = list(vars(result)) if hasattr(result, "__dict__") else []
    if hasattr(result, "logits") and "logits" not in names:
        names.append("logits")
    return {Place(name, attribute=True): getattr(result, name) for name in names}


def _only_candidate(places: dict[Place, Any], classes: int | None) -> Place:
    """The one place with logits' shape that is no softmax of another, or the one that is called "logits"."""
    like = [place for place, value in places.items() if _like_logits(value, classes)]
    made = {place for place in like for other in like if _is_softmax_of(places[place], places[other])}
    candidates = [place for place in like if place not in made]
    named = [place for place in candidates if place.key == "logits"]
    if len(named or candidates) == 1:
        return (named or candidates)[0]

    wanted = f"[N, {classes}]" if classes is not None else "[N, classes]"
    if not candidates:
        raise UnsupportedModelError(
            f"the network returns no tensor of shape {wanted}, only {_listed(places)}; wrap it in a network that "
            "returns the logits of a classifier."
        )
    raise UsageError(
        f"the network returns {len(candidates)} tensors that could be its logits; choose one with --output: "
        f"{_listed({place: places[place] for place in candidates})}."
    )


def _like_logits(value: Any, classes: int | None) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dim() == 2
        and value.shape[0] == BATCH
        and value.is_floating_point()
        and (value.shape[1] == classes if classes is not None else value.shape[1] > 1)
    )


def _is_softmax_of(value: Tensor, logits: Tensor) -> bool:
    """Whether a tensor is the probabilities, or their logarithms, that another of its shape stands for."""
    if value.shape != logits.shape or torch.allclose(value, logits):
        return False
    functions = F.softmax, F.log_softmax
    return any(bool((value - function(logits, 1)).abs().max() < _CLOSE) for function in functions)


def _chosen(places: dict[Place, Any], output: str | int) -> Place:
    """The place with that name, or at that position."""
    for index, (place, value) in enumerate(places.items()):
        if str(output) in (str(place.key), str(index)) and isinstance(value, Tensor):
            return place
    raise UsageError(f"--output is {output}, but the network returns {_listed(places)}; choose one of them.")


def _classes_of(logits: Tensor) -> int:
    shape = list(logits.shape)
    if logits.dim() != 2 or shape[0] != BATCH or not logits.is_floating_point():
        raise UnsupportedModelError(
            f"the network returns {logits.dtype} of shape {shape} for {BATCH} images, not logits of shape "
            f"[{BATCH}, classes]; wrap it so that it returns its logits."
        )
    if shape[1] < 2:
        raise UnsupportedModelError(
            "the network has 1 output per image, and a classifier needs at least 2 classes; turn a sigmoid "
            "output z into the two logits (0, z)."
        )
    if not bool(torch.isfinite(logits).all()):
        raise UnsupportedModelError(
            "the network's logits are NaN or infinite on random images of mean 0 and deviation 1; check the "
            "checkpoint and the architecture."
        )
    return int(shape[1])


def _listed(places: Mapping[Place, Any]) -> str:
    tensors = [f"{place.key} {list(value.shape)}" for place, value in places.items() if isinstance(value, Tensor)]
    others = [f"{place.key} ({type(value).__name__})" for place, value in places.items()]
    return ", ".join(tensors or others) or "nothing"
