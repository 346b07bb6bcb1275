"""A student, and where its training stands, as one safetensors file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from intraq_deploy.files import write_atomically
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.training.loop import Trainer, TrainingState

_STUDENT, _OPTIMIZER, _BESIDE = "student:", "optimizer:", "beside:"


def save_student(path: Path, student: FakeQuantNetwork, **notes: Any) -> None:
    """Saves the student alone. notes: plain values kept in the file's header."""
    _save(path, _student_tensors(student), {"zero_points": student.zero_points(), **notes})


def load_student(path: Path, student: FakeQuantNetwork) -> dict[str, Any]:
    """Restores `student` in place and returns the notes."""
    tensors, notes = _load(path)
    student.load(_with_prefix(tensors, _STUDENT), notes.pop("zero_points"))
    return notes


def save_checkpoint(path: Path, trainer: Trainer) -> None:
    """Saves the student and the optimiser's state, to continue from."""
    kept = trainer.state()
    tensors = _student_tensors(trainer.student)
    for index, state in kept.optimizer["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"{_OPTIMIZER}{index}:{name}"] = torch.as_tensor(value)
    tensors |= {f"{_BESIDE}{name}": tensor for name, tensor in kept.beside.items()}
    notes = {"step": kept.step, "first_loss": kept.first_loss}
    _save(path, tensors, {"zero_points": trainer.student.zero_points(), **notes})


def load_checkpoint(path: Path, trainer: Trainer) -> None:
    """Restores student, optimiser and step. The trainer is fresh: its groups' rates come from where scales started."""
    tensors, notes = _load(path)
    trainer.student.load(_with_prefix(tensors, _STUDENT), notes["zero_points"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _with_prefix(tensors, _OPTIMIZER).items():
        index, name = key.split(":")
        state.setdefault(int(index), {})[name] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    optimizer = {"state": state, "param_groups": groups}
    beside = _with_prefix(tensors, _BESIDE)
    trainer.restore(TrainingState(int(notes["step"]), optimizer, notes["first_loss"], beside))


def _student_tensors(student: FakeQuantNetwork) -> dict[str, Tensor]:
    return {f"{_STUDENT}{name}": tensor for name, tensor in student.state_dict().items()}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _save(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(dense, metadata={"notes": json.dumps(notes)}))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        notes = json.loads(file.metadata()["notes"])
    return tensors, notes
