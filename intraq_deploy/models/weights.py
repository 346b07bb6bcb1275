"""Putting a checkpoint's tensors into a network: strictly, and saying what does not fit."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from intraq_deploy.errors import CheckpointError
from intraq_deploy.models.checkpoint import Checkpoint
from intraq_deploy.models.shapes import AUXILIARY
from intraq_deploy.models.wrappers import is_loose

logger = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"
"""The end of a tensor's name that checkpoints of before PyTorch 0.4.1 lack, and that eval mode does not need."""


def load_weights(module: nn.Module, checkpoint: Checkpoint, spec: str) -> list[str]:
    """Copies the checkpoint's tensors into `module`, every one of them and nothing else.

    What is named like an auxiliary head may be absent on either side, counters of batches may be missing, and single
    numbers beside the network are left out. Names are tried with the wrappers' prefixes taken off, then as they are in
    the file, then behind any one prefix.
    Returns the names of the auxiliary heads' tensors that the file lacks: the logits must not depend on them
    (`refuse_used`).
    Raises CheckpointError, naming the first missing, unexpected and differently shaped tensors.
    """
    expected = module.state_dict()
    # The prefixes may belong to the user's own network.
    tensors = _best_named(expected, checkpoint.tensors, checkpoint.original)
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name in expected or not (_optional(name) or is_loose(name, tensor))
    }
    if _missing(expected, tensors):
        inside = _inside(expected, checkpoint)
        # A sentence about the part that is nearest says more.
        parts = (part.tensors for part in checkpoint.parts().values())
        tensors = inside if inside is not None else _best_named(expected, tensors, *parts)
    missing = _missing(expected, tensors)
    unexpected = [name for name in tensors if name not in expected]
    different = [name for name in tensors if name in expected and _differs(expected[name], tensors[name])]
    if missing or unexpected or different:
        problems = [
            _problem(missing, "missing", lambda name: _words(expected[name])),
            _problem(unexpected, "not in the network", lambda name: _words(tensors[name])),
            _problem(
                different,
                "different",
                lambda name: f"{_words(tensors[name])} in the file, {_words(expected[name])} in the network",
            ),
        ]
        raise CheckpointError(
            f"{checkpoint.path} does not fit {spec}: of its {len(tensors)} tensors and the network's "
            f"{len(expected)}, {'; '.join(filter(None, problems))}; give the --arch that it was trained with."
        )
    with torch.no_grad():
        module.load_state_dict(tensors, strict=False)
    return [name for name, tensor in expected.items() if name not in tensors and tensor.is_floating_point()]


def refuse_used(module: nn.Module, absent: Mapping[str, Tensor], input_shape: tuple[int, int, int], where: str) -> None:
    """Makes sure that the logits do not depend on tensors that a file lacks: NaN in all of them would be seen there.

    module: returns logits, in eval mode. absent: the network's own tensors, float32 [...], by name; they are zero
    afterwards. input_shape: channels, height, width. where: the file, for people.
    Raises CheckpointError if the logits depend on them.
    """
    with torch.no_grad():
        for tensor in absent.values():
            tensor.fill_(torch.nan)
        logits = module(torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0)))
        for tensor in absent.values():
            tensor.zero_()
    if not bool(logits.isfinite().all()):
        lacking = _problem(list(absent), "missing", lambda name: _words(absent[name]))
        raise CheckpointError(
            f"{where} does not fit: of the tensors that the network's logits depend on, {lacking}; give the file of "
            "the whole network, or the --arch that it was trained with."
        )


def _best_named(expected: Mapping[str, Tensor], *candidates: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of whose names the network knows the most; the first of several."""
    return max(candidates, key=lambda tensors: len(tensors.keys() & expected.keys()))


def _inside(expected: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor] | None:
    """The tensors behind the one prefix behind which the network is whole; None if there is none.

    Raises CheckpointError if there are two: which one is meant is not for us to say.
    """
    whole = {
        prefix: part.tensors
        for prefix, part in checkpoint.parts().items()
        if not _missing(expected, part.tensors)
        and not any(_differs(expected[name], part.tensors[name]) for name in expected if name in part.tensors)
    }
    if len(whole) > 1:
        raise CheckpointError(
            f"{checkpoint.path} holds the network behind {' and behind '.join(map(repr, whole))}; choose one with "
            f"--weights {next(iter(whole)).rstrip('.')}."
        )
    for prefix, tensors in whole.items():
        others = [name for name in checkpoint.original if not name.startswith(prefix)]
        logger.warning(
            "%s: the network is behind %r; %d other tensors are left out%s",
            checkpoint.path,
            prefix,
            len(others),
            f" (the first: {others[0]})" if others else "",
        )
        return {name: tensor for name, tensor in tensors.items() if name in expected}
    return None


def _missing(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in expected if name not in tensors and not _optional(name)]


def _optional(name: str) -> bool:
    return name.endswith(COUNTER) or AUXILIARY.match(name) is not None


def _differs(expected: Tensor, given: Tensor) -> bool:
    return expected.shape != given.shape or expected.is_floating_point() != given.is_floating_point()


def _words(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _problem(names: list[str], what: str, describe: Callable[[str], str]) -> str:
    """The end of a sentence: "3 are missing (the first: conv1.weight [16, 3, 3, 3])", or "" if there are none."""
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} {verb} {what} (the first: {names[0]} {describe(names[0])})"
