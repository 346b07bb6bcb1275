"""The sensitivity stage: what each layer's weight bits cost, as files in `RUN/sensitivity`."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.stages import images_key, kept, running
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.scheme import Scheme, make_scheme
from intraq_deploy.quantization.sensitivity import Loss, compare, logits_of, measure
from intraq_deploy.quantization.spec import MAX_BITS, QuantSpec
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.wording import reason

SENSITIVITY = "sensitivity"
TABLE, SHEET, PLOT = "sensitivity.json", "sensitivity.csv", "sensitivity.png"
_MOST_IMAGES = 256
_LOSSES = TypeAdapter(dict[str, Loss])


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LayerSensitivity(_Record):
    """One layer."""

    name: str
    operator: str
    weights: int
    """How many."""
    channels: int
    """Of its output."""
    loss: dict[int, Loss]
    """By bits of its weights; everything else has 8."""


class SensitivityReport(_Record):
    """The whole network, layers in execution order."""

    architecture: str
    scheme: str
    images: int
    reference_bits: int = MAX_BITS
    reference: Loss
    """With everything at 8 bits."""
    layers: list[LayerSensitivity]

    @property
    def widths(self) -> list[int]:
        return list(self.layers[0].loss)

    def kl_increase(self, layer: LayerSensitivity, bits: int) -> float:
        """Nats, against the reference."""
        return layer.loss[bits].kl - self.reference.kl

    def agreement_lost(self, layer: LayerSensitivity, bits: int) -> float:
        """Points, against the reference."""
        return self.reference.agreement - layer.loss[bits].agreement

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    def to_csv(self) -> str:
        """One line per layer and width; the last two figures are against the reference."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["layer", "operator", "weights", "channels", "bits", "kl", "agreement", "kl_increase", "agreement_lost"]
        )
        for layer in self.layers:
            for bits, loss in layer.loss.items():
                changes = self.kl_increase(layer, bits), self.agreement_lost(layer, bits)
                figures = [f"{value:.6g}" for value in (loss.kl, loss.agreement, *changes)]
                writer.writerow([layer.name, layer.operator, layer.weights, layer.channels, bits, *figures])
        return text.getvalue()


def halves(run: Run, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] that layers are measured on, and others that choices are checked on: at most 256 each."""
    order = torch.randperm(len(images), generator=seeds.generator(run.options.seed, "sensitivity"))
    middle = len(images) // 2
    return images[order[:middle][:_MOST_IMAGES]], images[order[middle:][:_MOST_IMAGES]]


def passes(run: Run, images: int, widths: tuple[int, ...]) -> float:
    """About how many images go through the whole network: half of it lies behind a layer on average."""
    narrow = sum(bits < MAX_BITS for bits in widths)
    return min(images // 2, _MOST_IMAGES) * narrow * (1 + len(run.graph.layers()) / 2)


def scheme_at(run: Run, widths: tuple[int, ...], bits: int, activation_bits: int) -> Scheme:
    """The run's scheme with every layer's weights at `bits`, of the kind that it gives to the fewest of `widths`."""
    base = make_scheme(run.options.scheme, min(widths), activation_bits)
    base = base.with_ranges(run.recipe.quantization.ranges)
    return replace(base, layer_bits={node.name: bits for node in run.graph.layers()})


def specs_at(run: Run, widths: tuple[int, ...], bits: int) -> dict[str, QuantSpec]:
    """Every layer's weight quantizer at `bits`."""
    layers = place(run.graph, scheme_at(run, widths, bits, MAX_BITS)).layers
    return {name: layer.weight for name, layer in layers.items()}


def byte_network(run: Run, widths: tuple[int, ...], images: SyntheticSet, activation_bits: int) -> FakeQuantNetwork:
    """Every layer's weights at 8 bits, ranges only, on the run's device."""
    scheme = scheme_at(run, widths, MAX_BITS, activation_bits)
    network = build_network(run.graph, scheme, images.images, run.options.seed)
    return network.to(run.device).to(memory_format=torch.channels_last)


def sensitivity_key(run: Run, widths: tuple[int, ...]) -> str:
    """Of the table: the images and the half of them, what prepares the network, the scheme, the widths."""
    prepared, scheme = asdict(run.recipe.quantization), asdict(scheme_at(run, widths, MAX_BITS, MAX_BITS))
    drawn = {"seed": run.options.seed, "most": _MOST_IMAGES}
    return key_of(images=images_key(run), drawn=drawn, prepared=prepared, scheme=scheme, widths=widths)


def measure_sensitivity(run: Run, images: SyntheticSet, widths: tuple[int, ...]) -> SensitivityReport:
    """The table, continued after the last finished width."""
    key = sensitivity_key(run, widths)
    before = kept(run, SENSITIVITY, key, kept_sensitivity)
    if before is not None:
        return before
    measured, _ = halves(run, images.images)
    narrow = [bits for bits in widths if bits < MAX_BITS]
    with running(run, SENSITIVITY, key, len(narrow) * len(measured), "images") as (stage, note):
        network = byte_network(run, widths, images, MAX_BITS)
        teacher = logits_of(run.model.module_on(run.device), measured, run.device)
        reference = compare(teacher, logits_of(network, measured, run.device))
        losses = {}
        for index, bits in enumerate(narrow):
            file = stage.folder / f"weights-{bits}-bits.json"
            if not file.exists():

                def report(done: int, bits: int = bits, index: int = index) -> None:
                    where = f"weights at {bits} bits, image {done}/{len(measured)}"
                    run.progress.advance(index * len(measured) + done, where)

                found = measure(network, specs_at(run, widths, bits), measured, teacher, run.device, report)
                write_atomically(file, _LOSSES.dump_json(found))
                note()
            losses[bits] = _LOSSES.validate_json(file.read_bytes())
        if MAX_BITS in widths:
            losses[MAX_BITS] = dict.fromkeys(specs_at(run, widths, MAX_BITS), reference)
        table = _table(run, len(measured), reference, losses)
        _write(stage.folder, table)
    return table


def _table(run: Run, images: int, reference: Loss, losses: Mapping[int, Mapping[str, Loss]]) -> SensitivityReport:
    layers = []
    for node in run.graph.layers():
        weight = run.graph.weights[node.name].weight
        loss = {bits: found[node.name] for bits, found in sorted(losses.items())}
        layers.append(
            LayerSensitivity(
                name=node.name,
                operator=type(node.op).__name__,
                weights=weight.numel(),
                channels=weight.shape[0],
                loss=loss,
            )
        )
    return SensitivityReport(
        architecture=run.model.architecture,
        scheme=run.options.scheme,
        images=images,
        reference=reference,
        layers=layers,
    )


def _write(folder: Path, table: SensitivityReport) -> None:
    # Importing matplotlib takes as long as importing all of ours; most runs never draw.
    from intraq_deploy.pipeline.sensitivity_plot import sensitivity_plot  # noqa: PLC0415

    write_atomically(folder / SHEET, table.to_csv())
    write_atomically(folder / PLOT, sensitivity_plot(table))
    write_atomically(folder / TABLE, table.to_json())


def kept_sensitivity(folder: Path) -> SensitivityReport:
    """What a finished measurement left. Raises RunError for a damaged folder."""
    try:
        return SensitivityReport.model_validate_json((folder / TABLE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{folder} holds no finished sensitivity ({reason(error)}): measure it again.") from error
