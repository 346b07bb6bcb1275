"""Shipping: a run's bundle on devices: copied, built, checked and timed there, and what they say brought back."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import IntraqError, TargetError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.bundle import BundleReport, bundle_run
from intraq_deploy.pipeline.finished import finished_run
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import check_apart
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.shipment import STEPS, Shipment, command_of
from intraq_deploy.targets.device.probe import HostFacts, check_fits, device_of, probe
from intraq_deploy.targets.device.profile import DeviceProfile, load_device
from intraq_deploy.targets.device.ssh import Remote, hashes, quoted, send, values_of
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.wording import MIB

RESULTS = "device"
_GATE = 3
_KIB = 1 << 10
_BATCH = 32


class HostReport(BaseModel):
    """The outcome on one host."""

    host: str
    device: str | None = None
    """The profile, named or found."""
    machine: str | None = None
    folder: str | None = None
    """The bundle's folder on the host."""
    sent_bytes: int = 0
    seconds: float = 0.0
    answers: dict[str, dict[str, Any]] = {}
    """The JSON that run.py printed, by its command."""
    accuracy: dict[str, int | float] | None = None
    """Top-1 in percent, of so many labelled images, where they were asked for."""
    failure: str | None = None
    """Why it was given up, or its check failed."""
    exit_code: int = 0

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return self.model_dump_json(indent=1)


class ShipReport(BaseModel):
    """The outcomes on all hosts, in the order in which they were given."""

    run: str
    hosts: list[HostReport]

    @property
    def exit_code(self) -> int:
        """The exit code: that of a failed check before that of any other failure."""
        codes = {host.exit_code for host in self.hosts}
        return _GATE if _GATE in codes else max(codes)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return self.model_dump_json(indent=1)


def ship_run(opening: Opening, shipment: Shipment, evaluate: str | None, progress: Progress) -> ShipReport:
    """Probes every host, bundles for what they are, and then ships to all of them side by side.

    evaluate: labelled images, as --eval takes them, which are prepared here and classified there. A host that fails
    does not stop the others: its report says why. Reports are kept in the run directory. Raises UsageError, RunError
    and DataError for what is wrong with what was given.
    """
    path = opening.path
    labelled = None if evaluate is None else _labelled(opening, evaluate, progress)
    remotes = [Remote(host, shipment.port) for host in shipment.hosts]
    reports = {remote.host: HostReport(host=remote.host) for remote in remotes}
    with ThreadPoolExecutor(len(remotes)) as pool:
        asked = pool.map(lambda remote: _caught(reports[remote.host], lambda: _probe(remote, shipment)), remotes)
        found = {remote.host: answer for remote, answer in zip(remotes, asked, strict=True) if answer is not None}
    for host, other in _twice({host: facts for host, (_, facts) in found.items()}).items():
        del found[host]
        reports[host].failure, reports[host].exit_code = f"{host}: it is the machine of {other}: give it once.", 2
    bundles: dict[str, BundleReport | IntraqError] = {}
    for host, (target, facts) in found.items():
        reports[host].device, reports[host].machine = target.name, facts.model or facts.machine
        progress.say(
            f"{host}: {facts.model or facts.machine}, Python {'.'.join(map(str, facts.python))}: {target.name}."
        )
        if target.name not in bundles:
            try:
                bundles[target.name] = bundle_run(opening, target, None, progress)
            except TargetError as error:  # other devices may take the program
                bundles[target.name] = error

    def ship(remote: Remote) -> None:
        report, (target, _) = reports[remote.host], found[remote.host]
        report.folder = shipment.folder_on(path, target.name)
        _caught(report, lambda: _ship(remote, shipment, bundles[target.name], labelled, report, progress))
        _keep(path, remote, report)

    for remote in remotes:
        if remote.host not in found:
            _keep(path, remote, reports[remote.host])
    shipped = [remote for remote in remotes if remote.host in found]
    with ThreadPoolExecutor(max(1, len(shipped))) as pool:
        list(pool.map(ship, shipped))
    return ShipReport(run=str(path), hosts=list(reports.values()))


def _twice(found: Mapping[str, HostFacts]) -> dict[str, str]:
    """Hosts that are another one by another name, with that one: both would write into one folder."""
    first: dict[tuple[str, ...], str] = {}
    return {
        host: first[facts.place]
        for host, facts in found.items()
        if facts.place and first.setdefault(facts.place, host) != host
    }


def _caught(report: HostReport, work: Callable[[], Any]) -> Any:
    """Returns what `work` gives; None where it fails, which the report then says."""
    try:
        return work()
    except IntraqError as error:
        report.failure, report.exit_code = str(error), error.exit_code
    except Exception as error:  # a fault of this package, which shall not cost the other hosts' results
        report.failure, report.exit_code = f"{report.host}: unexpected {type(error).__name__}: {error}", 1
    return None


def _keep(path: Path, remote: Remote, report: HostReport) -> None:
    """A host is told by its port too: localhost may be several, through tunnels."""
    name = re.sub(r"[^\w.@-]", "_", remote.host if remote.port is None else f"{remote.host}-{remote.port}")
    (path / RESULTS).mkdir(exist_ok=True)
    write_atomically(path / RESULTS / f"{name}.json", report.to_json())


def _probe(remote: Remote, shipment: Shipment) -> tuple[TargetProfile | DeviceProfile, HostFacts]:
    facts = probe(remote, shipment.python)
    if shipment.target is None:
        return load_device(device_of(remote.host, facts)), facts
    if isinstance(shipment.target, DeviceProfile):
        check_fits(remote.host, shipment.target, facts)
    return shipment.target, facts


def _labelled(opening: Opening, evaluate: str, progress: Progress) -> "_Labelled":
    run = finished_run(opening, progress).run
    check_apart(run.options.calibration, evaluate)
    return _Labelled(load_labelled(evaluate, run.model), pixels=run.options.input == "uint8")


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Images to measure with."""

    images: LabelledImages
    pixels: bool
    """Whether the network takes uint8."""

    def chunks(self) -> Iterator[bytes]:
        """As the network takes them."""
        batches = self.images.uint8_batches(_BATCH) if self.pixels else self.images.batches(_BATCH)
        for images, _ in batches:
            yield images.contiguous().numpy().tobytes()

    def accuracy(self, classes: Sequence[int]) -> dict[str, int | float]:
        """Raises TargetError where there is not one answer for each."""
        labels = self.images.labels.tolist()
        if len(classes) != len(labels):
            raise TargetError(f"{len(classes)} answers came for {len(labels)} images: run it again.")
        right = sum(found == label for found, label in zip(classes, labels, strict=True))
        return {"images": len(labels), "top1": round(100 * right / len(labels), 2)}


def _ship(
    remote: Remote,
    shipment: Shipment,
    packed: BundleReport | IntraqError,
    labelled: _Labelled | None,
    report: HostReport,
    progress: Progress,
) -> None:
    """Copies, and runs run.py's commands in turn. Raises TargetError where one of them fails; a check that finds a
    difference is a failure of the report, and ends it too."""
    if isinstance(packed, IntraqError):
        raise packed
    assert report.folder is not None
    bundle = Path(packed.folder)
    start, host, folder, files = time.perf_counter(), remote.host, report.folder, hashes(bundle)
    total = sum((bundle / name).stat().st_size for name in files)
    progress.start(host, total // _KIB, "KiB")

    def sent(count: int) -> None:
        progress.advance(count // _KIB, f"{count / MIB:.2f} MiB copied", stage=host)

    report.sent_bytes = send(remote, quoted(shipment.python), folder, bundle, files, sent)
    progress.say(f"{host}: {report.sent_bytes / MIB:.2f} MiB copied to {folder}.")
    for step in STEPS:
        progress.advance(total // _KIB, step, stage=host)
        answer = remote.run(command_of(shipment, folder, step), codes=(0, 1, _GATE))
        said = _answer(remote, step, answer.output)
        if answer.code == 1:
            raise TargetError(f"{host}: {step}: {_reason(answer.said, said)}")
        assert said is not None
        report.answers[step] = said
        if answer.code == _GATE:
            report.failure, report.exit_code = f"{host}: {' '.join(said['failures'])}", _GATE
            break
    if labelled is not None and report.failure is None:
        progress.advance(total // _KIB, "labelled images", stage=host)
        answer = remote.stream(command_of(shipment, folder, "predict"), labelled.chunks())
        report.accuracy = labelled.accuracy(values_of(host, "predict", answer.output, "classes")["classes"])
    if packed.shortfall is not None and report.failure is None:
        report.failure, report.exit_code = f"{host}: {packed.shortfall}", packed.exit_code
    report.seconds = round(time.perf_counter() - start, 1)
    progress.finish(host, report.seconds)


def _answer(remote: Remote, step: str, output: bytes) -> dict[str, Any] | None:
    """run.py's JSON; None where it gave none, as it does where it fails."""
    return values_of(remote.host, step, output) if output.strip() else None


def _reason(said: str, answer: dict[str, Any] | None) -> str:
    """From run.py's message, or from the findings of its doctor."""
    if answer is not None and "findings" in answer:
        needed = [finding for finding in answer["findings"] if finding["needed"] and finding["remedy"]]
        return "; ".join(f"{each['what']}: {each['found'].rstrip('.')}; {each['remedy']}" for each in needed) + "."
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else "it said nothing."
