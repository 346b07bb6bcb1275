"""`bench`: float32, ONNX Runtime's own INT8 and ours, timed in turn."""

import json
import shutil

import onnx
import pytest

from intraq_deploy.cli.command import LOADING


@pytest.fixture(scope="module")
def directory(finished, tmp_path_factory):
    copy = tmp_path_factory.mktemp("bench") / "run"
    shutil.copytree(finished, copy)
    return copy


def test_three_models_in_turn(run, directory):
    result = run("bench", directory, "--seconds", "0.5", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["float32", "quantize_static", "onnxruntime"]
    assert report["rounds"] >= 15
    assert rows["float32"]["speed"] == [1, 1, 1]
    for row in rows.values():
        assert row["milliseconds"] > 0
        assert row["speed"][1] <= row["speed"][0] <= row["speed"][2]
    model = directory / "targets" / "onnxruntime" / "model.onnx"
    assert rows["onnxruntime"]["bytes"] == model.stat().st_size
    static = onnx.load(directory / "bench" / "static.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in static.graph.node}
    printed = run("bench", directory, "--seconds", "0.1", "--batch", "3")
    assert "batch 3, 1 thread" in " ".join(printed.stdout.split())
    assert "quantize_static" in printed.stdout
    assert "bench: kept from before" in printed.stderr


def test_what_runs_on_the_device_only_is_said(run, directory, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    shutil.copytree(copy / "targets" / "onnxruntime", copy / "targets" / "other")
    report = json.loads((copy / "run.json").read_text())
    manifest = copy / "targets" / "other" / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"target": "tensorrt-int8", "runtime": "tensorrt"})
    )
    report["artifacts"]["tensorrt-int8"] = report["artifacts"]["onnxruntime"] | {"path": "targets/other/model.onnx"}
    (copy / "run.json").write_text(json.dumps(report))
    result = run("bench", copy, "--seconds", "0.1")
    assert result.exit_code == 0, result.stderr
    assert "On the device only: tensorrt-int8." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--batch", "0"), 2, "--batch is 0: give a number from 1 to 1024"),
        (("--threads", "5000"), 2, "--threads is 5000"),
        (("--seconds", "nan"), 2, "--seconds is nan: give a number above 0"),
        (("--target", "onnxruntime-arm64"), 1, "has no artifact for onnxruntime-arm64: run export"),
    ],
)
def test_what_cannot_be_timed(run, directory, arguments, code, words):
    result = run("bench", directory, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.removeprefix(f"{LOADING}\n").count("\n") == 1
