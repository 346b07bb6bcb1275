"""The sensitivity stage: each layer's weight bits and their cost, as files in `RUN/sensitivity`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.finished import kept_run
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import check_widths
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.sensitivity_report import LayerSensitivity, SensitivityReport
from intraq_deploy.pipeline.stages import RunImages
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.sensitivity import Loss, layer_losses, logits_of, loss_between
from intraq_deploy.quantization.spec import MAX_BITS, QuantSpec
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.wording import reason

SENSITIVITY = "sensitivity"
TABLE, SHEET, PLOT = "sensitivity.json", "sensitivity.csv", "sensitivity.png"
_MOST_IMAGES = 256
_LOSSES = TypeAdapter(dict[str, Loss])


def sensitivity_run(opening: Opening, widths: tuple[int, ...], progress: Progress) -> SensitivityReport:
    """Measures what each layer's weight bits cost, on the images of any run.

    Raises UsageError for bits that are not supported and for a device that is not here, RunError for what is no run.
    """
    check_widths("--bits", widths)
    kept = kept_run(opening, progress)
    images = kept.run_images
    with kept.run.directory.opened():
        return measure_sensitivity(kept.run, images, widths)


def halves(run: Run, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images that layers are measured on, and others that choices are checked on: at most 256 each.

    images and both results: float32 [N, C, H, W], normalised.
    """
    order = torch.randperm(len(images), generator=seeds.generator(run.options.seed, "sensitivity"))
    middle = len(images) // 2
    return images[order[:middle][:_MOST_IMAGES]], images[order[middle:][:_MOST_IMAGES]]


def work_of(run: Run, images: int, widths: tuple[int, ...]) -> float:
    """Returns about how many images go through the whole network: half of it lies behind a layer on average."""
    narrow = sum(bits < MAX_BITS for bits in widths)
    return min(images // 2, _MOST_IMAGES) * narrow * (1 + len(run.graph.layers()) / 2)


def scheme_at(run: Run, widths: tuple[int, ...], bits: int, activation_bits: int) -> Scheme:
    """Returns the run's scheme with every layer's weights at `bits`, of the kind that it gives to the fewest of
    `widths`."""
    return run.schemes.at(min(widths), activation_bits, {node.name: bits for node in run.graph.layers()})


def specs_at(run: Run, widths: tuple[int, ...], bits: int) -> dict[str, QuantSpec]:
    """Returns every layer's weight quantizer at `bits`, by name."""
    layers = place(run.graph, scheme_at(run, widths, bits, MAX_BITS)).layers
    return {name: layer.weight for name, layer in layers.items()}


def w8_network(run: Run, widths: tuple[int, ...], images: SyntheticSet, activation_bits: int) -> FakeQuantNetwork:
    """Returns a network with every layer's weights at 8 bits, ranges only, on the run's device."""
    scheme = scheme_at(run, widths, MAX_BITS, activation_bits)
    graph = run.prepared(scheme, images.images)
    network = build_network(graph, scheme, images.images, run.options.seed)
    return network.to(run.device).to(memory_format=torch.channels_last)


def sensitivity_key(run: Run, widths: tuple[int, ...], images_key: str) -> str:
    """Returns the key of the table: the images and the half of them, what prepares the network, the scheme, the
    widths."""
    prepared, scheme = asdict(run.recipe.quantization), asdict(scheme_at(run, widths, MAX_BITS, MAX_BITS))
    drawn = {"seed": run.options.seed, "most": _MOST_IMAGES}
    return key_of(images=images_key, drawn=drawn, prepared=prepared, scheme=scheme, widths=widths)


def measure_sensitivity(run: Run, images: RunImages, widths: tuple[int, ...]) -> SensitivityReport:
    """Returns the table, continued after the last finished width."""
    measured, _ = halves(run, images.images.images)
    narrow = [bits for bits in widths if bits < MAX_BITS]

    def make(stage: OpenStage) -> SensitivityReport:
        network = w8_network(run, widths, images.images, MAX_BITS)
        teacher = logits_of(run.model.module_on(run.device), measured, run.device)
        reference = loss_between(teacher, logits_of(network, measured, run.device))
        losses = {}
        for index, bits in enumerate(narrow):
            file = stage.folder / f"weights-{bits}-bits.json"
            if not file.exists():

                def report(done: int, bits: int = bits, index: int = index) -> None:
                    where = f"weights at {bits} bits, image {done}/{len(measured)}"
                    run.progress.advance(index * len(measured) + done, where)

                found = layer_losses(network, specs_at(run, widths, bits), measured, teacher, run.device, report)
                write_atomically(file, _LOSSES.dump_json(found))
                stage.saved()
            losses[bits] = _LOSSES.validate_json(file.read_bytes())
        if MAX_BITS in widths:
            losses[MAX_BITS] = dict.fromkeys(specs_at(run, widths, MAX_BITS), reference)
        table = _table(run, len(measured), reference, losses)
        _write(stage.folder, table)
        return table

    key, total = sensitivity_key(run, widths, images.key), len(narrow) * len(measured)
    work = StageWork(SENSITIVITY, key, total, "images", shared=True)
    return kept_or_made(run, work, kept_sensitivity, make)


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
    # Importing matplotlib takes as long as importing this whole package; most runs never draw.
    from intraq_deploy.pipeline.sensitivity_plot import sensitivity_plot  # noqa: PLC0415

    write_atomically(folder / SHEET, table.to_csv())
    write_atomically(folder / PLOT, sensitivity_plot(table))
    write_atomically(folder / TABLE, table.to_json())


def kept_sensitivity(folder: Path) -> SensitivityReport:
    """Returns the table of a finished measurement. Raises RunError for a damaged folder."""
    try:
        return SensitivityReport.model_validate_json((folder / TABLE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{folder} holds no finished sensitivity ({reason(error)}): measure it again.") from error
