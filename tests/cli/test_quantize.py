"""The main job, end to end, through the command line."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time

import onnx
import pytest
from support import NETWORK, TINY

from intraq_deploy.cli.summary import show_artifacts
from intraq_deploy.pipeline.advice import Advice
from intraq_deploy.pipeline.report import read_report
from intraq_deploy.pipeline.sentences import advice_sentence
from intraq_deploy.targets.onnxruntime.session import Session


def report_of(directory):
    return json.loads((directory / "run.json").read_text())


def test_the_run_directory_holds_what_it_promises(finished):
    report = report_of(finished)
    assert report["status"] == "passed"
    assert report["bits"] == {"weights": 4, "activations": 4, "depthwise": None}
    assert (report["scheme"], report["preset"], report["seed"], report["device"]) == ("integer", "quick", 0, "cpu")
    assert report["accuracy"] is None
    assert report["model"]["classes"] == 10
    assert {"synthesis", "fine-tuning", "program", "targets/onnxruntime", "validation"} <= report["seconds"].keys()
    parity = report["parity"]["onnxruntime"]
    assert parity["integers_mismatched"] == 0
    assert parity["integers_compared"] > 100_000
    assert parity["toleranced"] == []
    assert parity["tensors"] == 18
    assert parity["integer_kernels"]["QLinearConv"] == 8
    assert parity["integer_kernels"]["QGemm"] == 1
    assert parity["float_kernels"] == {}
    artifact = report["artifacts"]["onnxruntime"]
    file = finished / artifact["path"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == artifact["sha256"]
    assert file.stat().st_size == artifact["bytes"] == sum(artifact["items"].values())
    assert artifact["items"]["weights int4"] > 0
    assert (finished / "synthesis" / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    rows = {row["name"]: row for row in report["layers"]}
    assert rows.keys() >= {"conv1", "layer3.add", "fc"}
    assert all(row["integer"] for row in rows.values() if row["operator"] != "Input")
    assert rows["fc"]["weights"] == 320
    assert 0 < rows["conv1"]["headroom_bits"] < 31
    assert rows["conv1"]["signal_to_noise"] > rows["layer3.add"]["signal_to_noise"] > 0
    assert 0 <= parity["float_agreement"] <= 100


def test_the_same_command_again_does_nothing_again(run, checkpoint, finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", directory)
    assert result.exit_code == 0
    for stage in ("synthesis", "fine-tuning", "program", "targets/onnxruntime", "validation"):
        assert f"{stage}: kept from before" in result.stderr
    assert report_of(directory) == report_of(finished)


def test_other_bits_keep_the_images(run, checkpoint, finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--weight-bits", "3", "--out", directory, "--overwrite")
    assert result.exit_code == 0
    assert "synthesis: kept from before" in result.stderr
    assert "fine-tuning: done" in result.stderr
    assert report_of(directory)["bits"] == {"weights": 3, "activations": 4, "depthwise": None}


def test_json_alone_on_standard_output(run, checkpoint, finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", directory, "--json")
    assert json.loads(result.stdout) == report_of(directory)


def test_speed_is_measured_without_labelled_images(run, finished):
    """So that no file is shipped that is slower than float32, and nobody knows."""
    report = report_of(finished)
    plain, own = report["comparison"]
    assert (plain["name"], own["name"]) == ("float32", "onnxruntime")
    assert all(row["top1"] is None and row["milliseconds"] > 0 for row in (plain, own))
    slower = [each for each in report["warnings"] if each["kind"] == "slower-than-float"]
    assert bool(slower) is (own["milliseconds"] > 1.05 * plain["milliseconds"])
    printed = run("validate", finished).stdout
    assert "float32" in printed
    assert "top-1 %" not in printed


def test_accuracy_of_every_stage(run, checkpoint, labelled, tmp_path):
    directory = tmp_path / "run"
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--eval", labelled, "--input", "uint8", "--out", directory)
    assert result.exit_code == 0, result.output
    report = report_of(directory)
    assert report["accuracy"].keys() == {"images", "float", "fake_quant", "program", "onnxruntime"}
    assert report["accuracy"]["images"] == 40
    assert report["accuracy"]["program"] == report["accuracy"]["onnxruntime"]
    assert abs(report["accuracy"]["fake_quant"] - report["accuracy"]["program"]) <= 7.5
    assert [row["name"] for row in report["comparison"]] == ["float32", "w8a8", "a8", "onnxruntime"]
    assert report["comparison"][0]["top1"] == report["accuracy"]["float"]
    assert report["comparison"][0]["bytes"] > 2 * report["comparison"][3]["bytes"]
    assert report["advice"]["target"] == "onnxruntime"
    assert report["advice"]["lost"] == report["comparison"][0]["top1"] - report["comparison"][3]["top1"]
    assert "W8A8, ranges only" in result.stdout
    assert "W4A8, ranges only" in result.stdout
    sentence = advice_sentence(Advice(**report["advice"]), "W4A4", "W4")
    assert sentence in " ".join(result.stdout.split())
    session = Session(directory / report["artifacts"]["onnxruntime"]["path"])
    assert session.operators()["Cast"] == 1


def test_several_schemes_ship(run, checkpoint, tmp_path):
    for scheme in ("paper", "ends8"):
        directory = tmp_path / scheme
        result = run("quantize", checkpoint, *NETWORK, *TINY, "--scheme", scheme, "--out", directory)
        assert result.exit_code == 0, result.output
        parity = report_of(directory)["parity"]["onnxruntime"]
        assert parity["exact_mismatched"] == 0
        assert parity["toleranced"]
        assert "run in float" in result.stderr


def test_synthesis_first_and_the_rest_later(run, checkpoint, tmp_path):
    directory = tmp_path / "run"
    budget = ["--images", "8", "--iterations", "3"]
    result = run("synthesize", checkpoint, *NETWORK, *budget, "--out", directory)
    assert result.exit_code == 0, result.output
    assert report_of(directory)["status"] == "synthesized"
    assert "8 images in" in result.stdout
    assert "Estimated on this machine: synthesis 0 s.\n" in result.stderr
    refused = run("export", directory)
    assert refused.exit_code == 1
    assert "holds images only: run quantize" in refused.stderr
    result = run("quantize", checkpoint, *NETWORK, *budget, "--steps", "0", "--out", directory)
    assert result.exit_code == 0
    assert "synthesis: kept from before" in result.stderr


def test_export_and_validate_a_finished_run(run, finished, labelled, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (directory / "targets" / "onnxruntime" / "model.onnx").unlink()
    refused = run("validate", directory)
    assert refused.exit_code == 1
    assert "model.onnx is missing: run export again" in refused.stderr
    shutil.rmtree(directory / "targets")
    result = run("export", directory)
    assert result.exit_code == 0, result.output
    assert report_of(directory)["artifacts"] == report_of(finished)["artifacts"]
    result = run("validate", directory, "--eval", labelled)
    assert result.exit_code == 0, result.output
    assert report_of(directory)["accuracy"]["images"] == 40


@pytest.mark.parametrize(
    ("items", "end"), [({"codes": 9}, "MiB\n"), ({"codes": 1 << 20, "x": 9}, "MiB (codes 1.00)\n")]
)
def test_what_rounds_to_nothing_is_not_printed(finished, capsys, items, end):
    report = read_report(finished / "run.json")
    artifact = report.artifacts["onnxruntime"].model_copy(update={"items": items})
    show_artifacts(report.model_copy(update={"artifacts": {"onnxruntime": artifact}}), "run")
    assert end in capsys.readouterr().out


def test_a_gate_that_fails_exits_three(run, finished, tmp_path):
    """A model of other integers than the program's, with a manifest that vouches for it."""
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    folder = directory / "targets" / "onnxruntime"
    data = (folder / "model.onnx").read_bytes()
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".bias.codes"):
            codes = onnx.numpy_helper.to_array(tensor).copy()
            codes[0] += 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = run("validate", directory)
    assert result.exit_code == 3, result.output
    assert "Gate failed: onnxruntime:" in result.stdout
    assert "integers of layer1.conv1 differ by up to" in " ".join(result.stdout.split())
    assert "more in run.json" in result.stdout
    assert report_of(directory)["status"] == "failed"
    assert run("validate", directory, "--json").exit_code == 3


def interrupt_when(file):
    """Ctrl-C, from another thread, as soon as `file` is there."""

    def wait():
        deadline = time.monotonic() + 120
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_continues_to_the_same_integers(run, checkpoint, tmp_path):
    """Ctrl-C in the second batch of images and in fine-tuning; then the same command to the end. The program is the
    one of a run that was never interrupted."""
    budget = ["--images", "300", "--iterations", "6", "--steps", "130"]

    def command(name):
        return ["quantize", checkpoint, *NETWORK, *budget, "--out", tmp_path / name]

    assert run(*command("whole")).exit_code == 0
    for part in ("synthesis/batch-0000.safetensors", "fine-tuning/checkpoint.safetensors"):
        thread = interrupt_when(tmp_path / "cut" / "unfinished" / part)
        result = run(*command("cut"))
        thread.join()
        assert result.exit_code == 130, result.output
        assert "Traceback" not in result.output
        assert not (tmp_path / "cut" / "run.json").exists()
    assert run(*command("cut")).exit_code == 0
    for file in ("program/program.json", "targets/onnxruntime/model.onnx"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_what_low_bits_buy_is_said(run, finished):
    accounting = report_of(finished)["artifacts"]["onnxruntime"]["accounting"]
    assert 4 <= accounting["stored_bits"] < 4.1  # an odd number of codes wastes half a byte
    assert accounting["computed_in"] == "INT8"
    assert accounting["smaller"] > 1
    printed = " ".join(run("export", finished).stdout.split())
    assert "A weight takes 4.0 bits in it" in printed
    assert "layers compute in INT8: values of fewer than 8 bits are no faster than 8." in printed
