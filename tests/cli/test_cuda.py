"""Synthesis and training on a CUDA device; everything behind freezing is the same on every machine."""

import json

import pytest
import torch
from support import NETWORK, TINY


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_main_job(run, checkpoint, tmp_path):
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--device", "cuda", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["device"] == "cuda"
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
