"""Mixed precision: weight bits chosen per layer from what each layer's bits cost, within one budget.

The measure is the sensitivity stage's, the search `quantization.allocation`. --average-bits counts bits per weight;
--max-size and --max-drop count bytes as stored, so of widths that are stored alike only the widest can be chosen.
--max-drop takes the cheapest allocation of the search whose *measured* agreement on held images stays within the drop,
found by bisection; all of that is about ranges only, before fine-tuning.
"""

import math
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_prepared
from intraq_deploy.pipeline.options import MixedOptions, text_of
from intraq_deploy.pipeline.report import MixedRecord
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.sensitivity import halves, measure_sensitivity, sensitivity_key, specs_at, w8_network
from intraq_deploy.pipeline.sensitivity_report import LayerSensitivity, SensitivityReport
from intraq_deploy.pipeline.stages import RunImages, images_key
from intraq_deploy.quantization.allocation import Allocations, Choice, stored_bytes
from intraq_deploy.quantization.placement import is_depthwise, place
from intraq_deploy.quantization.sensitivity import logits_of, loss_between, requantize
from intraq_deploy.quantization.spec import MAX_BITS, MIN_BITS
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.wording import MIB, reason

MIXED = "mixed-precision"
CHOICE = "choice.json"


def check_budget(run: Run, mixed: MixedOptions) -> None:
    """Checks that a budget is possible. Raises UsageError, naming the least possible, for one below it."""
    option, value = mixed.budget
    if option == "--max-drop":
        return
    least = sum(min(_cost(run, option, name, bits) for bits in widths) for name, widths in _widths(run, mixed).items())
    if least <= _budget(run, option, value):
        return
    unit = MIB if option == "--max-size" else _weights(run)
    bits = run.options.depthwise_bits
    depthwise = "" if bits is None else f", --depthwise-bits {bits}"
    possible = math.ceil(1000 * least / unit) / 1000
    raise UsageError(
        f"{option} is {value:g}: with --widths {text_of(mixed.widths)}{depthwise} and the scheme {run.options.scheme}, "
        f"the least possible is {possible:g}."
    )


def earlier_choice(run: Run) -> MixedRecord | None:
    """Returns what an earlier session has chosen for these options; None if it has not."""
    assert run.options.mixed is not None
    try:
        key = _key(run, run.options.mixed, images_key(run))
        if run.directory.finished(MIXED, key):
            return _kept_choice(run.directory.stage(MIXED, key).folder)
    except RunError:  # the stage itself says so, and chooses again
        pass
    return None


def choose_bits(run: Run, images: RunImages) -> MixedRecord:
    """Returns the choice within the run's budget."""
    mixed = run.options.mixed
    assert mixed is not None

    def prepare() -> Callable[[OpenStage], MixedRecord]:
        table = measure_sensitivity(run, images, mixed.widths)

        def make(stage: OpenStage) -> MixedRecord:
            record = _search(run, images.images, table, mixed)
            write_atomically(stage.folder / CHOICE, record.model_dump_json(indent=1))
            return record

        return make

    work = StageWork(MIXED, _key(run, mixed, images.key), shared=True)
    return kept_or_prepared(run, work, _kept_choice, prepare)


def _key(run: Run, mixed: MixedOptions, images_key: str) -> str:
    """Returns the key of the choice: the table, the budget, and the activations that it is checked with."""
    sensitivity, activations = sensitivity_key(run, mixed.widths, images_key), run.options.activation_bits
    fixed = run.options.depthwise_bits
    return key_of(sensitivity=sensitivity, asked=mixed.model_dump(), activations=activations, depthwise=fixed)


def _kept_choice(folder: Path) -> MixedRecord:
    try:
        return MixedRecord.model_validate_json((folder / CHOICE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{folder} holds no finished choice of bits ({reason(error)}): run quantize again.") from error


def _search(run: Run, images: SyntheticSet, table: SensitivityReport, mixed: MixedOptions) -> MixedRecord:
    option, value = mixed.budget
    allocations = Allocations(_choices(run, table, mixed))
    held = _Held(run, images, mixed)
    widest = {name: max(widths) for name, widths in _widths(run, mixed).items()}
    best = held.agreement(widest)
    if option == "--max-drop":
        layers = _smallest(allocations, widest, lambda bits: best - held.agreement(bits) <= value + 1e-9)
    else:
        layers = allocations.within(_budget(run, option, value))
    weights = {node.name: run.graph.weights[node.name].weight for node in run.graph.layers()}
    return MixedRecord(
        asked=mixed,
        layers=layers,
        average_bits=round(sum(bits * weights[name].numel() for name, bits in layers.items()) / _weights(run), 4),
        stored_bytes=sum(_cost(run, "--max-size", name, bits) for name, bits in layers.items()),
        images=held.images,
        agreement=round(held.agreement(layers), 3),
        widest_agreement=round(best, 3),
    )


class _Held:
    """The agreement with the float network on images that no layer was measured on: ranges only, activations as they
    will be."""

    def __init__(self, run: Run, images: SyntheticSet, mixed: MixedOptions) -> None:
        _, self._images = halves(run, images.images)
        self._network = w8_network(run, mixed.widths, images, run.options.activation_bits)
        self._device = run.device
        self._teacher = logits_of(run.model.module_on(run.device), self._images, run.device)
        self._specs = {bits: specs_at(run, mixed.widths, bits) for bits in range(MIN_BITS, MAX_BITS + 1)}

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._images)

    def agreement(self, layers: dict[str, int]) -> float:
        """Returns the agreement in percent. layers: bits by layer."""
        requantize(self._network, {name: self._specs[bits][name] for name, bits in layers.items()})
        return loss_between(self._teacher, logits_of(self._network, self._images, self._device)).agreement


def _smallest(
    allocations: Allocations, widest: dict[str, int], fits: Callable[[dict[str, int]], bool]
) -> dict[str, int]:
    """Returns the cheapest allocation that fits, if those above it pass too; `widest` if none does."""
    low, high, found = 0, len(allocations), widest
    while low < high:
        middle = (low + high) // 2
        layers = allocations[middle]
        if fits(layers):
            high, found = middle, layers
        else:
            low = middle + 1
    return found


def _widths(run: Run, mixed: MixedOptions) -> dict[str, tuple[int, ...]]:
    """Returns the bits that each layer may get: the ends of the scheme `ends8` keep their 8 bits, and depthwise layers
    those that were given for them."""
    run_wide = run.schemes.at(min(mixed.widths), run.options.activation_bits)
    layers = place(run.graph, run_wide).layers
    given = run.options.depthwise_bits is not None
    return {
        name: (layer.weight.bits,)
        if layer.weight.bits != run_wide.weight.bits or (given and is_depthwise(run.graph, run.graph[name]))
        else mixed.widths
        for name, layer in layers.items()
    }


def _choices(run: Run, table: SensitivityReport, mixed: MixedOptions) -> dict[str, list[Choice]]:
    option, _ = mixed.budget
    allowed, choices = _widths(run, mixed), {}
    for layer in table.layers:
        by_cost = {_cost(run, option, layer.name, bits): bits for bits in sorted(allowed[layer.name])}
        choices[layer.name] = [Choice(bits, cost, _loss(layer, bits)) for cost, bits in by_cost.items()]
    return choices


def _loss(layer: LayerSensitivity, bits: int) -> float:
    """Returns the loss at `bits`; 0 where a layer has no other choice, which need not have been measured."""
    return layer.loss[bits].kl if bits in layer.loss else 0.0


def _cost(run: Run, option: str, name: str, bits: int) -> int:
    """Returns the bytes as stored, or for --average-bits the weights' bits."""
    weight = run.graph.weights[name].weight
    if option == "--average-bits":
        return weight.numel() * bits
    return stored_bytes(weight.shape[0], weight.numel(), bits)


def _budget(run: Run, option: str, value: float) -> int:
    """Returns the budget in the unit of `_cost`."""
    return math.floor(value * (_weights(run) if option == "--average-bits" else MIB) + 1e-6)


def _weights(run: Run) -> int:
    """Returns the number of weights in the network."""
    return sum(run.graph.weights[node.name].weight.numel() for node in run.graph.layers())
