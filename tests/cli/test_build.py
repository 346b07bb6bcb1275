"""`build` and `lint`, and the gate for a target whose runtime is on the device only."""

import csv
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support import NETWORK, TINY
from tensorrt_modules import install
from typer.testing import CliRunner

from intraq_deploy.cli.command import LOADING
from intraq_deploy.cli.main import app
from intraq_deploy.targets.onnxruntime.providers import TENSORRT, why_absent

NOT_ON_A_GPU = pytest.mark.skipif(why_absent(TENSORRT) is None, reason="the TensorRT provider loads here")
TARGETS = ("--target", "onnxruntime", "--target", "tensorrt-int8")


@pytest.fixture(scope="module")
def shared(checkpoint, tmp_path_factory):
    """A run for a CPU and for TensorRT: one program for both."""
    directory = tmp_path_factory.mktemp("shared") / "run"
    arguments = ["quantize", str(checkpoint), *NETWORK, *TINY, *TARGETS, "--out", str(directory)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return directory, result


def test_one_program_serves_both(shared):
    directory, result = shared
    report = json.loads((directory / "run.json").read_text())
    parity = report["parity"]
    assert parity["onnxruntime"]["integers_mismatched"] == 0
    assert not parity["onnxruntime"]["rehearsed"]
    assert parity["tensorrt-int8"]["rehearsed"]
    assert parity["tensorrt-int8"]["integers_compared"] == parity["onnxruntime"]["integers_compared"]
    assert "tensorrt-int8: rehearsed in ONNX Runtime" in " ".join(result.stdout.split())
    assert "is checked on the device" in " ".join(result.stdout.split())


def test_build_says_what_each_layer_multiplies(run, shared):
    pytest.importorskip("tensorrt_rtx", reason="pip install 'intraq-deploy[rtx]'")
    directory, _ = shared
    result = run("build", directory)
    assert result.exit_code == 0, result.stderr
    assert "tensorrt-rtx: of 9 convolutions and linear layers 9 in INT8." in result.stdout
    assert "It has not been run." in result.stdout
    engine = json.loads((directory / "run.json").read_text())["engines"]["tensorrt-rtx"]
    assert set(engine["layers"].values()) == {"INT8"}
    assert (directory / engine["path"]).stat().st_size == engine["bytes"]
    again = run("build", directory)
    assert again.exit_code == 0
    assert "engines/tensorrt-rtx: kept from before" in again.stderr
    (directory / engine["path"]).write_bytes(b"other")
    mended = run("build", directory, "--json")
    assert "engines/tensorrt-rtx is made again" in mended.stderr
    assert json.loads(mended.stdout)["engines"]["tensorrt-rtx"]["bytes"] > 1000


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("onnxruntime", 2, "onnxruntime has no engines: its ONNX file is what is shipped"),
        ("tensorrt-int8", 1, "or build for tensorrt-rtx, which needs no GPU"),
        pytest.param("onnxruntime-tensorrt", 1, "was asked for TensorrtExecutionProvider, and ", marks=NOT_ON_A_GPU),
    ],
)
def test_a_target_that_cannot_be_built_here(run, shared, monkeypatch, target, code, words):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    before = (shared[0] / "run.json").read_bytes()
    result = run("build", shared[0], "--target", target)
    assert result.exit_code == code
    assert result.stderr.removeprefix(f"{LOADING}\n").count("\n") == 1
    assert words in result.stderr
    assert (shared[0] / "run.json").read_bytes() == before


@NOT_ON_A_GPU
def test_a_provider_that_is_not_here_is_rehearsed_and_named(run, shared, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(shared[0], directory)
    assert run("export", directory, "--target", "onnxruntime-tensorrt").exit_code == 0
    result = run("validate", directory, "--target", "onnxruntime-tensorrt")
    assert result.exit_code == 0, result.stderr
    said = "onnxruntime-tensorrt was not run on its provider. ONNX Runtime"
    assert said in result.stderr
    assert "pip install onnxruntime-gpu" in result.stderr
    assert "onnxruntime-tensorrt: rehearsed in ONNX Runtime" in " ".join(result.stdout.split())
    report = json.loads((directory / "run.json").read_text())
    parity = report["parity"]["onnxruntime-tensorrt"]
    assert parity["rehearsed"]
    assert parity["ran_by"] is None
    assert parity["integers_mismatched"] <= 1e-4 * parity["integers_compared"]
    assert any(warning["kind"] == "not-on-provider" for warning in report["warnings"])


def test_cuda_is_no_target_and_says_why(run, shared):
    result = run("export", shared[0], "--target", "onnxruntime-cuda")
    assert result.exit_code == 2
    assert "ONNX Runtime's CUDA provider has no integer convolution" in result.stderr
    assert result.stderr.removeprefix(f"{LOADING}\n").count("\n") == 1


def test_a_program_for_cpus_alone_is_refused_with_the_remedy(run, checkpoint, for_cpus, tmp_path):
    """At 4 bits only means behind ReLU are unsigned bytes."""
    directory = tmp_path / "run"
    shutil.copytree(for_cpus, directory)
    result = run("export", directory, "--target", "tensorrt-int8")
    assert result.exit_code == 1
    assert "avgpool.codes stores UINT8" in result.stderr
    assert "Quantize for this target from the start (--target tensorrt-int8)" in result.stderr
    assert not (directory / "targets" / "tensorrt-int8" / "model.onnx").exists()


def test_lint_names_layers_rules_and_sources(run, shared):
    directory, _ = shared
    good = run("lint", directory / "targets" / "tensorrt-int8" / "model.onnx", "--target", "tensorrt-int8")
    assert good.exit_code == 0, good.stdout + good.stderr
    assert "0 findings that it refuses or computes wrongly, 0 that cost speed" in good.stdout
    bad = run("lint", directory / "targets" / "onnxruntime" / "model.onnx", "--target", "tensorrt-int8", "--json")
    assert bad.exit_code == 3
    found = json.loads(bad.stdout)["findings"]
    assert {"opset", "zero-points are 0", "codes are INT8", "biases are float"} == {each["rule"] for each in found}
    assert all(each["source"] and each["layer"] and each["refused"] for each in found)
    text = run("lint", directory / "targets" / "onnxruntime" / "model.onnx", "--target", "tensorrt-int8")
    assert "and TensorRT only knows 0" in text.stdout
    assert text.exit_code == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file or directory"), (b"hello", "it is not an ONNX model"), (b"", "no operators")],
)
def test_lint_refuses_what_is_no_model(run, tmp_path, content, words):
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    result = run("lint", file, "--target", "tensorrt-int8")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.removeprefix(f"{LOADING}\n").count("\n") == 1


def test_lint_of_a_model_without_quantizers(run, tmp_path):
    """Nothing to refuse: its layers run in float, and that is said."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 3, 8, 8])
    weight = ir.val("w", const_value=ir.tensor(np.ones((4, 3, 3, 3), np.float32), name="w"))
    conv = ir.node("Conv", [x, weight], name="conv")
    conv.outputs[0].dtype, conv.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(["N", 4, 6, 6])
    graph = ir.Graph([x], conv.outputs, nodes=[conv], initializers=[weight], opset_imports={"": 17}, name="g")
    ir.save(ir.Model(graph, ir_version=8), tmp_path / "m.onnx")
    result = run("lint", tmp_path / "m.onnx", "--target", "tensorrt-int8")
    assert result.exit_code == 0, result.stderr
    assert "conv runs in float: no DequantizeLinear is in front of its input and weights" in result.stdout


@pytest.fixture
def built(run, shared, monkeypatch, tmp_path):
    """The run on a machine with TensorRT 10.3 and a GPU, its engine built. Gives what TensorRT sees."""
    directory = tmp_path / "run"
    shutil.copytree(shared[0], directory)
    seen = install(monkeypatch, "10.3.0")
    result = run("build", directory, "--target", "tensorrt-int8")
    assert result.exit_code == 0, result.stderr
    return directory, seen, result


def test_where_the_gpu_is_engines_are_checked_and_timed(run, built):
    directory, seen, result = built
    text = " ".join(result.stdout.split())
    assert "tensorrt-int8: of 9 convolutions and linear layers 9 in INT8." in text
    assert "On Orin, batch 1: 0.500 ms; the float network in float16 0.500 ms" in text
    assert "0 of them more than rounding in another order explains" in text
    report = json.loads((directory / "run.json").read_text())
    assert report["parity"]["tensorrt-int8"]["ran_by"] == "its engine"
    assert not report["parity"]["tensorrt-int8"]["rehearsed"]
    again = run("validate", directory, "--target", "tensorrt-int8")
    assert again.exit_code == 0, again.stderr
    assert "tensorrt-int8: run by its engine, " in " ".join(again.stdout.split())
    assert "engines/tensorrt-int8: kept from before" in run("build", directory, "--target", "tensorrt-int8").stderr
    assert len(seen.builds) == 3


def test_an_engine_with_a_wrong_integer_fails_the_gate(run, built):
    directory, seen, _ = built

    def change(name, array):
        if name == "conv1.codes":
            array = array.copy()
            array.flat[3] += 2
        return array

    seen.change = change
    for command in ("build", "validate"):
        result = run(command, directory, "--target", "tensorrt-int8")
        assert result.exit_code == 3
        assert "Gate failed: tensorrt-int8:" in result.stdout
        assert "integers of conv1 differ by up to 2" in " ".join(result.stdout.split())


def test_a_layer_that_runs_in_float_fails_the_gate(run, built):
    directory, seen, _ = built
    shutil.rmtree(directory / "engines" / "tensorrt-int8")
    seen.layer = lambda name: "FP32" if name == "conv1" else "Int8"
    result = run("build", directory, "--target", "tensorrt-int8")
    assert result.exit_code == 3
    assert "1 of 9 layers do not multiply INT8 in the engine: conv1 (Float)" in " ".join(result.stdout.split())


def test_elsewhere_an_engines_file_is_rehearsed_and_why_is_said(run, built, monkeypatch):
    directory, _, _ = built
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("validate", directory, "--target", "tensorrt-int8")
    assert result.exit_code == 0
    assert "tensorrt-int8: its engine is not run (TensorRT is not installed" in result.stderr
    assert "rehearsed in ONNX Runtime" in result.stdout
    install(monkeypatch, "10.13.2.6")
    result = run("validate", directory, "--target", "tensorrt-int8")
    assert "it was built by TensorRT 10.3.0 for Orin, and here is TensorRT 10.13.2.6 with Orin" in result.stderr


def test_the_gpu_benchmark_writes_a_row_for_each_engine(shared, monkeypatch, tmp_path, capsys):
    directory, table = tmp_path / "run", tmp_path / "gpu.csv"
    shutil.copytree(shared[0], directory)
    install(monkeypatch, "10.13.2.6")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("gpu")
    assert benchmark.main([str(directory), "--out", str(table)]) == 0
    assert "tensorrt8-int8: TensorRT 10.13.2.6 is installed, and tensorrt8-int8 is for 8.5" in capsys.readouterr().err
    with table.open(newline="") as file:
        rows = {row["target"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"tensorrt-int8", "tensorrt-int4"}
    assert rows["tensorrt-int8"]["layers"] == "9 INT8"
    assert int(rows["tensorrt-int8"]["integers"]) > 10_000
    assert {row["beyond_rounding"] for row in rows.values()} == {"0"}
    assert {(row["milliseconds"], row["gpu"]) for row in rows.values()} == {("0.5", "Orin")}
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert benchmark.main([str(directory), "--out", str(table)]) == 1
