"""ONNX files in place of checkpoints, as a user types it."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from support import TINY, small_network

KNOWN = ["--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.3"]


def exported(path, training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(small_network("resnet"), torch.zeros(1, 3, 32, 32), path, training=training, dynamo=False)
    return path


def assert_exact(result):
    parity = json.loads(result.stdout)["parity"]["onnxruntime"]
    assert parity["integers_mismatched"] == 0 < parity["integers_compared"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An export whose batch norms are there."""
    return exported(tmp_path_factory.mktemp("onnx") / "kept.onnx", torch.onnx.TrainingMode.PRESERVE)


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """An export as usual, with the batch norms in the convolutions."""
    return exported(tmp_path_factory.mktemp("onnx") / "folded.onnx", torch.onnx.TrainingMode.EVAL)


def test_it_is_quantized_without_data_where_its_batch_norms_are_there(run, kept, tmp_path):
    result = run("quantize", kept, *KNOWN, *TINY, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    assert_exact(result)

    # What is kept is read again from the file.
    again = run("validate", tmp_path / "run", "--json")
    assert again.exit_code == 0, again.output


def test_without_them_it_needs_images(run, folded, tmp_path):
    result = run("quantize", folded, *KNOWN, *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "optimize=False" in result.stderr
    assert "--calibration DIR" in result.stderr

    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    result = run(
        "quantize", folded, *KNOWN, "--calibration", tmp_path, "--steps", 2, "--out", tmp_path / "run", "--json"
    )
    assert result.exit_code == 0, result.output
    assert_exact(result)


def test_it_is_inspected_and_linted(run, kept, folded):
    report = json.loads(run("inspect", kept, *KNOWN, "--json").stdout)
    assert report["architecture"] == "onnx:kept.onnx"
    assert (report["classes"], report["input_shape"], report["batch_norms"]) == (10, [3, 32, 32], 8)
    assert "layer2.downsample.0" in {row["name"] for row in report["rows"]}
    problems = json.loads(run("inspect", folded, *KNOWN, "--json").stdout)["problems"]
    assert len(problems) == 1
    assert problems[0].startswith("Cannot be synthesized from")
    assert run("lint", kept, "--target", "onnxruntime").exit_code == 0


def test_what_is_missing_is_asked_for(run, kept):
    result = run("inspect", kept)
    assert result.exit_code == 2
    assert "onnx:kept.onnx comes without preprocessing; give --mean and --std" in result.stderr
