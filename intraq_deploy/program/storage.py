"""Programs on disk, as two files each: `program.json` (structure, grids, tolerances) and `program.safetensors`
(codes, scales, biases). The JSON holds the tensors' SHA-256, so that one hash stands for the whole program."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.graph.graph import Graph
from intraq_deploy.program.program import (
    FORMAT,
    LAYER_KINDS,
    Grid,
    LayerWeights,
    Normalization,
    Program,
    Tolerance,
)


def save_program(program: Program, folder: Path) -> None:
    """Writes both of a program's files into `folder`, which exists."""
    text, data = program.serialize()
    write_atomically(folder / "program.safetensors", data)
    write_atomically(folder / "program.json", text)


def load_program(folder: Path) -> Program:
    """The program that `save_program` wrote. Raises RunError for missing, changed or newer files."""
    try:
        structure = json.loads((folder / "program.json").read_text())
        data = (folder / "program.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} holds no readable program ({error}): run quantize again.") from error
    version = structure.get("format") if isinstance(structure, dict) else None
    if version != FORMAT:
        raise RunError(f"{folder}/program.json has format {version}: this version reads {FORMAT}; run quantize again.")
    if hashlib.sha256(data).hexdigest() != structure.get("tensors_sha256"):
        raise RunError(f"{folder}/program.safetensors is not the file that program.json describes: run quantize again.")
    try:
        return _program(structure, load_tensors(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder}/program.json is damaged ({error!r}): run quantize again.") from error


def _program(structure: dict[str, Any], tensors: dict[str, Tensor]) -> Program:
    normalization = structure["normalization"]
    return Program(
        graph=Graph.from_json(structure["graph"]),
        grids={name: Grid(**values) for name, values in structure["grids"].items()},
        layers={name: _layer(name, kind, tensors) for name, kind in structure["layers"].items()},
        tolerances={name: Tolerance(**values) for name, values in structure["tolerances"].items()},
        normalization=None if normalization is None else _normalization(normalization),
    )


def _layer(name: str, kind: str, tensors: dict[str, Tensor]) -> LayerWeights:
    type_: Any = LAYER_KINDS[kind]
    weights: LayerWeights = type_(*(tensors[f"{name}:{field}"] for field in type_.__slots__))
    return weights


def _normalization(values: dict[str, list[float]]) -> Normalization:
    return Normalization(tuple(values["shift"]), tuple(values["divisor"]))
