"""More bits for the weights of depthwise layers, through the command line."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support import NETWORK, SMALL_SHAPE, TINY, small_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.quantization.placement import place

MOBILE = [*NETWORK[:1], NETWORK[1].replace("SmallResNet", "SmallMobileNet"), *NETWORK[2:]]
DEPTHWISE = {name for name, m in small_network("mobilenet").named_modules() if getattr(m, "groups", 1) > 1}


@pytest.fixture
def checkpoint(tmp_path):
    file = tmp_path / "mobile.pth"
    torch.save(small_network("mobilenet").state_dict(), file)
    return file


def test_depthwise_layers_and_only_they_have_them(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("quantize", checkpoint, *MOBILE, *TINY, "--depthwise-bits", "7", "--activation-bits", "8")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "mobile-w4-depthwise7a8"
    report = json.loads((folder / "run.json").read_text())
    assert report["bits"] == {"weights": 4, "activations": 8, "depthwise": 7}
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    tensors = load_file(folder / "program" / "program.safetensors")
    largest = {
        name.removesuffix(":codes"): int(t.abs().max()) for name, t in tensors.items() if name.endswith(":codes")
    }
    assert largest.keys() > DEPTHWISE
    assert {name for name, code in largest.items() if code > 7} == DEPTHWISE
    assert max(largest.values()) <= 63


def test_an_inspection_shows_them(run, checkpoint):
    result = run("inspect", checkpoint, *MOBILE, "--depthwise-bits", "7", "--json")
    assert result.exit_code == 0, result.output
    inspection = json.loads(result.stdout)
    assert inspection["bits"] == "W4/7A4"
    assert {row["name"] for row in inspection["rows"] if row["weight"] == "7 bits symmetric"} == DEPTHWISE
    refused = run("inspect", checkpoint, *MOBILE, "--bits", "8", "--depthwise-bits", "4")
    assert refused.exit_code == 2
    assert "--depthwise-bits is 4, and other layers have 8" in " ".join(refused.output.split())


def test_a_budget_leaves_them_as_they_are(run, checkpoint, tmp_path):
    budget = ["--average-bits", "5", "--widths", "3,5", "--depthwise-bits", "8"]
    result = run("quantize", checkpoint, *MOBILE, *TINY, *budget, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    layers = json.loads((tmp_path / "run" / "run.json").read_text())["mixed"]["layers"]
    assert {layers[name] for name in DEPTHWISE} == {8}
    assert {bits for name, bits in layers.items() if name not in DEPTHWISE} <= {3, 5}


def test_a_budget_leaves_them_as_they_are_at_its_fewest_bits_too(run, checkpoint, tmp_path):
    budget = ["--average-bits", "8", "--depthwise-bits", "4"]
    result = run("quantize", checkpoint, *MOBILE, *TINY, *budget, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    layers = json.loads((tmp_path / "run" / "run.json").read_text())["mixed"]["layers"]
    assert {layers[name] for name in DEPTHWISE} == {4}
    assert 8 in layers.values()


def test_a_budget_below_what_they_take_names_them(run, checkpoint, tmp_path):
    budget = ["--average-bits", "4", "--depthwise-bits", "8"]
    result = run("quantize", checkpoint, *MOBILE, *TINY, *budget, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "with --widths 4,8, --depthwise-bits 8 and the scheme integer" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_weights_that_have_more_keep_them():
    """So the baseline of 8 bits is one, whatever depthwise layers have."""
    graph = trace(small_network("mobilenet"), SMALL_SHAPE)
    choice = SchemeChoice("integer")
    assert place(graph, replace(choice, depthwise_bits=5).at(8, 8)) == place(graph, choice.at(8, 8))
