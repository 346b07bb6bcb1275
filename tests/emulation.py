"""ONNX Runtime on CPUs that this machine does not have, under qemu's user-mode emulation."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from intraq_deploy.evaluation.parity import Parity, compare
from intraq_deploy.program.program import Program
from intraq_deploy.targets.onnx.canonical import OUTPUT, codes_name
from intraq_deploy.targets.onnx.lower import instrument, lower, stored_zero_points
from intraq_deploy.targets.onnxruntime.session import INTEGER_KERNELS
from intraq_deploy.targets.profile import TargetProfile

RUN_MODELS = Path(__file__).with_name("run_models.py")


def haswell() -> list[str]:
    """This very Python on a CPU with AVX2 and without VNNI. Skips where qemu is missing."""
    return [_qemu("qemu-x86_64"), "-cpu", "Haswell", sys.executable]


def arm64() -> list[str]:
    """The Python of the root that tests/arm64_root.sh makes, on a Cortex-A72. Skips without it or qemu."""
    qemu = _qemu("qemu-aarch64")
    root = os.environ.get("INTRAQ_ARM64_ROOT")
    if not root:
        pytest.skip("no arm64 root: make one with tests/arm64_root.sh and set INTRAQ_ARM64_ROOT")
    packages = f"PYTHONPATH={root}/opt/packages"
    return [qemu, "-cpu", "cortex-a72", "-L", root, "-E", packages, f"{root}/usr/bin/python3"]


def _qemu(name: str) -> str:
    path = shutil.which(f"{name}-static") or shutil.which(name)
    if path is None:
        pytest.skip(f"{name}-static is not installed (Debian: apt install qemu-user-static)")
    return path


@dataclass(frozen=True, slots=True)
class Case:
    """A program lowered for a profile, in a folder that `run` fills."""

    program: Program
    images: Tensor
    folder: Path


def write(program: Program, profile: TargetProfile, images: Tensor, folder: Path) -> Case:
    """The models and images of one case."""
    folder.mkdir()
    model = lower(program, profile, {}).model
    ir.save(model, folder / "shipped.onnx")
    ir.save(instrument(model, program), folder / "instrumented.onnx")
    np.save(folder / "images.npy", images.numpy())
    return Case(program, images, folder)


def run(emulator: list[str], cases: Iterable[Case]) -> None:
    """Runs the cases in one emulated process: starting one takes longer than they do."""
    command = [*emulator, str(RUN_MODELS), *(str(case.folder) for case in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def codes(case: Case) -> dict[str, Tensor]:
    """Of every quantized tensor, as the emulated CPU computed them, int16 [N, ...]."""
    with np.load(case.folder / "found.npz") as found:
        return {
            name: torch.from_numpy(found[codes_name(name)]).to(torch.int16) - zero_point
            for name, zero_point in stored_zero_points(case.program).items()
        }


def parity(case: Case) -> Parity:
    """Every integer that the emulated CPU computed against the reference."""
    with np.load(case.folder / "found.npz") as found:
        logits = torch.from_numpy(found[OUTPUT])
    shipped = torch.from_numpy(np.load(case.folder / "shipped.npy"))
    assert torch.equal(shipped, logits), "looking changed the integers"
    return compare(case.program, lambda images: (logits, codes(case)), case.images, len(case.images))


def integer_kernels(case: Case) -> dict[str, int]:
    """Of the shipped model as the emulated CPU executes it, with their number."""
    operators = Counter(node.op_type for node in onnx.load(case.folder / "optimized.onnx").graph.node)
    return {op: n for op, n in sorted(operators.items()) if op.startswith(INTEGER_KERNELS)}
