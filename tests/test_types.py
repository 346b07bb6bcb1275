"""What a type checker knows of the package: a person's script, checked against the package as it installs."""

import os
import re
import runpy
import subprocess
import sys
from importlib.resources import files

import pytest
from source import ROOT

import intraq_deploy

SCRIPT = """
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from intraq_deploy import (
    Accuracy, BundleReport, IntraqError, Validation, bundle, calibration_images, evaluate, export, freeze, lint,
    load_model, quantize, synthesize, validate,
)


def ship(tensor: Tensor, loader: DataLoader[tuple[Tensor, ...]]) -> Validation:
    model = load_model("builtin:resnet20-cifar10")
    images = synthesize(model, progress=False)
    images = calibration_images(model, tensor, count=8)
    images = calibration_images(model, loader)
    student = quantize(model, images, weight_bits=4)
    program = freeze(student)
    artifact = export(program, "shipped", model=model)
    reveal_type(model)
    reveal_type(images)
    reveal_type(student)
    reveal_type(program)
    reveal_type(artifact)
    reveal_type(evaluate(artifact, loader).top1)
    reveal_type(bundle("run", target="jetson-orin-nano"))
    reveal_type(lint("model.onnx", target="onnxruntime"))
    try:
        return validate(artifact, program, images)
    except IntraqError as error:
        raise SystemExit(str(error)) from error


quantize("model.pth")  # E
synthesize(load_model("model.pth"), image=3)  # E
accuracy: Accuracy = bundle("run", target="x86-cpu")  # E
"""
REVEALED = [
    "models.model.Model", "synthesis.synthetic_set.SyntheticSet", "quantization.network.FakeQuantNetwork",
    "program.program.Program", "targets.artifact.Artifact", "float", "pipeline.bundle.BundleReport",
    "pipeline.linting.LintReport",
]  # fmt: skip


def test_the_package_says_that_it_is_typed():
    assert (files(intraq_deploy) / "py.typed").is_file()


@pytest.mark.slow
def test_a_script_is_checked(tmp_path):
    runpy.run_path(str(ROOT / "benchmarks" / "typecheck.py"))["lay_out"](tmp_path / "site")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    environment = os.environ | {"MYPYPATH": str(tmp_path / "site")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("script.py")]
    revealed = [
        kind.removeprefix("intraq_deploy.") for kind in re.findall('Revealed type is "(.*?)"', "\n".join(lines))
    ]
    assert revealed == REVEALED, result.stdout
    wrong = {int(line.split(":")[1]) for line in lines if ": error: " in line}
    assert wrong == {n for n, line in enumerate(SCRIPT.splitlines(), 1) if line.endswith("# E")}, result.stdout
