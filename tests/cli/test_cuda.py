"""What needs a CUDA device: synthesis and training on it, and ONNX Runtime's providers for GPUs."""

import json

import numpy as np
import pytest
import torch
from support import NETWORK, TINY

from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, why_absent

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_main_job(run, checkpoint, tmp_path):
    """Everything behind freezing is the same on every machine."""
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--device", "cuda", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["device"] == "cuda"
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0


@pytest.mark.skipif(bool(why_absent(TENSORRT)), reason=str(why_absent(TENSORRT)))
def test_the_tensorrt_provider_computes_the_integers(run, checkpoint, tmp_path):
    directory = tmp_path / "run"
    arguments = ["--target", "onnxruntime-tensorrt", "--eval", labelled(tmp_path), "--out", directory]
    result = run("quantize", checkpoint, *NETWORK, *TINY, *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((directory / "run.json").read_text())
    assert report["parity"]["onnxruntime-tensorrt"]["provider"] == TENSORRT.name
    assert not report["parity"]["onnxruntime-tensorrt"]["rehearsed"]
    assert all(row["milliseconds"] for row in report["comparison"])
    assert run("build", directory, "--target", "onnxruntime-tensorrt").exit_code == 0
    assert (directory / "engines" / "onnxruntime-tensorrt" / "engine.onnx").is_file()


@pytest.mark.skipif(bool(why_absent(CUDA)), reason=str(why_absent(CUDA)))
def test_the_float_network_is_measured_on_cuda(run, checkpoint, tmp_path):
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--eval", labelled(tmp_path), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads((tmp_path / "run" / "run.json").read_text())["comparison"]}
    assert rows["cuda-float32"]["top1"] == rows["float32"]["top1"]
    assert rows["cuda-float16"]["bytes"] < rows["cuda-float32"]["bytes"]
    assert "no integer convolution" in rows["cuda-float32"]["note"]
    assert "no integer convolution" in " ".join(result.stdout.split())


def labelled(folder):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "eval.npz", images=pixels, labels=np.arange(20) % 10)
    return folder / "eval.npz"
