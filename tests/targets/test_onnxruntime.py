"""The real ONNX Runtime against the reference: the same integers, on integer kernels."""

from collections import Counter

import numpy as np
import pytest
import torch
from support import random_images, realistic
from torch import nn

from intraq_deploy import validate
from intraq_deploy.errors import RunError, TargetError, UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate as validate_images
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import Normalization
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import read_manifest
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime import imports
from intraq_deploy.targets.onnxruntime.opening import open_shipped
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import load_profile

PROFILE = load_profile("onnxruntime")
CASES = [
    (network, "integer", w, a)
    for network in ("resnet", "mobilenet")
    for w, a in ((4, 4), (8, 8), (4, 8), (8, 4), (2, 2), (3, 5), (6, 7))
]


def ids(case):
    network, scheme, weight_bits, activation_bits = case
    return f"{network}-{scheme}-W{weight_bits}A{activation_bits}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_integer_programs_are_equal_integer_for_integer(frozen, case, tmp_path):
    _, program = frozen(*case)
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, random_images(48, seed=5))
    assert result.parity.compared > 300_000
    assert result.parity.mismatched == 0
    assert result.logits_equal
    assert result.instrumented_equal
    assert result.passes
    layers = Counter(type(node.op).__name__ for node in program.graph.nodes)
    assert result.float_kernels == {}
    assert result.integer_kernels == {
        "QGemm": 1,
        "QLinearAdd": layers["Add"],
        "QLinearConv": layers["Conv2d"],
        "QLinearGlobalAveragePool": 1,
    }


@pytest.mark.parametrize("scheme", ["paper", "ends8"])
@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
def test_what_runs_in_float_stays_within_its_tolerance(frozen, network, scheme, tmp_path):
    _, program = frozen(network, scheme)
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, random_images(48, seed=5))
    assert result.passes
    assert result.float_kernels
    assert any(tensor.tolerance is not None for tensor in result.parity.tensors)
    assert result.top1_agreement >= 99


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_batches_change_nothing(frozen, threads, tmp_path):
    _, program = frozen()
    images = random_images(9, seed=6)
    expected = Reference(program).run(images)
    session = Session(export(program, PROFILE, tmp_path, {}).path, threads=threads)
    assert torch.equal(torch.cat([session.run(part) for part in images.split(4)]), expected)


def test_uint8_images(student, tmp_path):
    module = student()
    settle(module)
    program = freeze(module, Normalization.of((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)))
    images = torch.randint(0, 256, (32, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, images)
    assert result.parity.mismatched == 0
    assert result.logits_equal


def test_the_python_face_validates_synthetic_sets(frozen, tmp_path):
    _, program = frozen()
    images = SyntheticSet(random_images(8), torch.zeros(8, dtype=torch.int64), torch.ones(8))
    assert validate(export(program, PROFILE, tmp_path, {}), program, images).passes


def test_the_float_baseline_is_the_float_network(tmp_path):
    network = realistic(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        ),
        (3, 8, 8),
    )
    program = float_program(trace(network, (3, 8, 8)))
    session = open_shipped(export(program, PROFILE, tmp_path, {}))
    images = random_images(4, (3, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(session.run(images), network(images), atol=1e-5, rtol=1e-5)
    assert session.integer_kernels() == {}


class _Mean(nn.Module):
    """An average over windows, a ReLU with two readers, and a max pooling of negative values."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, 5)

    def forward(self, x):
        y = self.bn1(self.conv1(x))
        z = self.bn2(self.conv2(torch.relu(y)))
        y = nn.functional.max_pool2d(y + z, 2)
        return self.fc(nn.functional.avg_pool2d(y, 2).flatten(1))


@pytest.mark.parametrize("bits", [4, 8])
def test_window_averages_are_exact(bits, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = realistic(_Mean(), (3, 8, 8))
    module = build_network(
        trace(network, (3, 8, 8)), make_scheme("integer", bits, bits), random_images(32, (3, 8, 8)), 0
    )
    settle(module)
    program = freeze(module)
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, random_images(64, (3, 8, 8), seed=1))
    assert result.passes
    assert program.tolerances == {}
    assert result.parity.mismatched == 0
    assert "AveragePool" not in result.float_kernels


def test_eight_bit_products_do_not_saturate(tmp_path):
    """Largest weights on the largest inputs: what kernels without VNNI get wrong unless weights are stored unsigned."""
    network = nn.Sequential(
        nn.Conv2d(16, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight.sign() * (0.9 + 0.1 * torch.rand_like(network[0].weight)))
    images = random_images(16, (16, 6, 6)).sign() * 3
    module = build_network(trace(network, (16, 6, 6)), make_scheme("integer", 8, 8), images, 0)
    settle(module)
    program = freeze(module)
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, images)
    assert result.parity.mismatched == 0
    assert result.integer_kernels["QLinearConv"] == 1


def test_an_artifact_is_checked_before_it_runs(frozen, tmp_path):
    _, program = frozen()
    artifact = export(program, PROFILE, tmp_path, {})
    assert read_manifest(tmp_path) == artifact
    data = bytearray(artifact.path.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.path.write_bytes(data)
    with pytest.raises(RunError, match="is not the file that its manifest describes"):
        open_shipped(artifact)
    artifact.path.unlink()
    with pytest.raises(RunError, match="is missing: run export again"):
        open_shipped(artifact)
    with pytest.raises(RunError, match="no readable artifact"):
        read_manifest(tmp_path / "nowhere")


def test_rubbish_is_refused_in_one_sentence():
    with pytest.raises(TargetError, match="refuses the model"):
        Session(b"not a model")


def test_a_missing_runtime_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(imports.importlib, "import_module", absent)
    with pytest.raises(TargetError, match=r"pip install 'onnxruntime>=1.23'.*never both"):
        imports.onnxruntime()


def test_an_unknown_target_suggests_the_nearest():
    with pytest.raises(UsageError, match="'onnxruntim' is unknown: did you mean onnxruntime"):
        load_profile("onnxruntim")


def test_the_interpreter_and_the_runtime_round_alike(frozen, tmp_path):
    """Ties included: inputs that fall exactly between two codes."""
    _, program = frozen()
    scale = np.float32(program.grids["image"].scale)
    ties = torch.from_numpy(((np.arange(3 * 32 * 32) % 255 - 127 + 0.5) * scale).astype(np.float32)).reshape(
        1, 3, 32, 32
    )
    result = validate_images(export(program, PROFILE, tmp_path, {}), program, ties)
    assert result.parity.mismatched == 0
