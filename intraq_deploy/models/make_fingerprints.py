"""Writes the fingerprint data file, as `python -m intraq_deploy.models.make_fingerprints`.

Builds every classifier of the installed torchvision and timm twice, most of them without memory, in about 15
minutes on one core. Networks that cannot be fingerprinted are kept in the file with the reason. The file is
JSON, compressed with xz:

* versions: of torch, torchvision and timm
* signatures: [[key, dimension, factor], ...] for classes, the same for channels
* traits: distinct descriptions, as `describe` returns them
* architectures: [specification, position in signatures, fingerprint in hex, position in traits]
* sketches: uint32 [architectures, SKETCH_SIZE], little endian, base85
* failed: specification -> reason
"""

import argparse
import base64
import json
import logging
import lzma
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraq_deploy.models import timm_zoo, torchvision_zoo
from intraq_deploy.models.builtin import NETWORKS
from intraq_deploy.models.fingerprint import DATA_FILE, PADDING
from intraq_deploy.models.hashing import SKETCH_SIZE, fingerprint, item_hashes, sketch
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.models.shapes import BuildNetwork, Probed, Signature, probe_any_channels
from intraq_deploy.models.traits import describe
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Tables:
    """The data file in the making."""

    signatures: dict[Signature, int] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)
    architectures: list[tuple[str, int, str, int]] = field(default_factory=list)
    sketches: list[list[int]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, spec: str, probed: Probed, preprocessing: Preprocessing | None) -> None:
        """Appends one architecture. Raises ValueError where nothing in it follows the class count."""
        signature = probed.signature
        if not signature.classes:
            raise ValueError("nothing in it depends on the number of classes: not a classifier")

        hashes = item_hashes(probed.shapes)
        value = fingerprint(probed.shapes, hashes, signature)
        traits = json.dumps(describe(probed.module, preprocessing), sort_keys=True)
        self.architectures.append(
            (
                spec,
                self.signatures.setdefault(signature, len(self.signatures)),
                f"{value:016x}",
                self.traits.setdefault(traits, len(self.traits)),
            )
        )
        values = sketch(hashes, signature.names())
        self.sketches.append(values + [PADDING] * (SKETCH_SIZE - len(values)))

    def packed(self) -> bytes:
        """The data file's content."""
        data = {
            "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
            "signatures": [
                [[[free.key, free.dimension, free.factor] for free in group] for group in _groups(signature)]
                for signature in self.signatures
            ],
            "traits": [json.loads(text) for text in self.traits],
            "architectures": self.architectures,
            "sketches": base64.b85encode(np.array(self.sketches, "<u4").tobytes()).decode(),
            "failed": self.failed,
        }
        return lzma.compress(json.dumps(data, separators=(",", ":")).encode(), preset=9)


def architectures() -> Iterator[tuple[str, BuildNetwork, Callable[[], Preprocessing | None]]]:
    """Yields the specification, the builder and the preprocessing of every network of the three libraries."""
    for name, network in NETWORKS.items():
        yield f"builtin:{name}", network.build, partial(getattr, network, "preprocessing")
    for name in torchvision_zoo.names():
        yield (
            f"torchvision:{name}",
            partial(torchvision_zoo.build, name),
            partial(torchvision_zoo.preprocessing, name),
        )
    for name in timm_zoo.names():
        yield f"timm:{name}", partial(timm_zoo.build, name), partial(timm_zoo.preprocessing, name)


def generate() -> Tables:
    """Fingerprints every network; one log line for each that fails, and one per hundred."""
    tables = Tables()
    start = time.monotonic()
    for count, (spec, build, preprocessing) in enumerate(architectures(), 1):
        try:
            tables.add(spec, probe_any_channels(build), preprocessing())
        except Exception as error:  # any library's constructor may fail in its own way; the file says how
            tables.failed[spec] = reason(error)
            logger.warning("%s: %s", spec, tables.failed[spec])
        if count % 100 == 0:
            logger.info("%d networks, %.0f s", count, time.monotonic() - start)
    return tables


def main() -> None:
    """Writes the data file beside this module, or where the first argument says."""
    parser = argparse.ArgumentParser(description="Write the fingerprints of the installed libraries.")
    parser.add_argument("output", nargs="?", type=Path, default=DATA_FILE)
    output: Path = parser.parse_args().output

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the libraries' constructors
        tables = generate()

    content = tables.packed()
    output.write_bytes(content)
    logger.info(
        "%s: %d bytes, %d networks, %d signatures, %d failed",
        output,
        len(content),
        len(tables.architectures),
        len(tables.signatures),
        len(tables.failed),
    )


def _groups(signature: Signature) -> tuple[Any, Any]:
    return signature.classes, signature.channels


if __name__ == "__main__":
    main()
