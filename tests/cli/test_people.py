"""How commands meet people: what they close with, what they ask, and what signals, pipes and narrow terminals do."""

import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from support import NETWORK, TINY

from intraq_deploy.cli.summary import show_closing
from intraq_deploy.pipeline.display import TerminalProgress
from intraq_deploy.pipeline.report import read_report

PROGRAM = Path(sys.executable).with_name("intraq-deploy")


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory):
    """The commonest checkpoint that there is."""
    file = tmp_path_factory.mktemp("resnet18") / "my model.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


# --- what a command closes with ------------------------------------------------------------------------


def test_a_run_closes_with_its_verdict_and_the_next_commands(run, checkpoint, finished, labelled, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "my run")
    plain = run("quantize", checkpoint, *NETWORK, *TINY, "--out", directory)
    closing = plain.stdout.split("\n\n")[-1]
    text = " ".join(closing.split())
    kept = r"( \(and \d+ s before, whose results were kept\))?"
    assert re.match(rf"PASSED after \d+ s{kept}: W4A4; 0 of [\d,]+ integers differ\.", text)
    assert f"Results are in {directory}; run.json has every figure." in closing
    assert len(closing.splitlines()) <= 24
    commands = [shlex.split(line) for line in closing.splitlines() if line.startswith("  intraq-deploy ")]
    assert [command[1] for command in commands] == ["validate", "bundle", "ship"]
    assert all(command[2] == str(directory) for command in commands)
    assert run(*commands[1][1:]).exit_code == 0
    measured = run("quantize", checkpoint, *NETWORK, *TINY, "--eval", labelled, "--out", directory)
    assert measured.exit_code == 0, measured.stderr
    assert re.search(r"W4A4, top-1 \d+\.\d\d % \(float \d+\.\d\d\)", " ".join(measured.stdout.split()))
    assert "intraq-deploy bench " in measured.stdout


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "PASSED after 3 s (and 57 s before, whose results were kept): "), (130, "after 2 min: ")]
)
def test_the_time_of_what_was_kept_is_not_lost(finished, capsys, seconds, said):
    report = read_report(finished / "run.json").changed(seconds={"synthesis": 40.0, "fine-tuning": 20.0})
    show_closing(report, str(finished), seconds)
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_failed_gate_closes_with_it(run, checkpoint, finished, tmp_path, monkeypatch):
    from intraq_deploy.pipeline import gate, quantize
    from intraq_deploy.pipeline.findings import InstrumentsDisturb

    directory = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(directory / "validation")
    wrong = gate.GateResult({}, [], None, [InstrumentsDisturb(target="onnxruntime")], [])
    monkeypatch.setattr(quantize.gate, "run_gate", lambda *_: wrong)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", directory)
    assert result.exit_code == 3
    assert "FAILED after" in result.stdout
    assert "intraq-deploy ship" not in result.stdout


def test_export_copies_elsewhere(run, finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "run")
    targets = ("onnxruntime", "tensorrt-int8")
    asked = [text for target in targets for text in ("--target", target)]
    result = run("export", directory, *asked, "--out", tmp_path / "shipped")
    assert result.exit_code == 0, result.output
    for target in targets:
        assert f"{target}: copied to {tmp_path}/shipped/{target}" in result.stdout
        copied, kept = tmp_path / "shipped" / target, directory / "targets" / target
        assert {file.name for file in copied.iterdir()} == {"model.onnx", "manifest.json"}
        assert (copied / "model.onnx").read_bytes() == (kept / "model.onnx").read_bytes()


# --- inspect -------------------------------------------------------------------------------------------


def test_inspect_begins_with_its_answer(run, checkpoint):
    result = run("inspect", checkpoint, *NETWORK)
    lines = " ".join(result.stdout.split())
    assert lines.startswith("It can be quantized, without any data. At W4A4, scheme integer, 9 of its 9 layers")
    assert "million multiply-accumulates" in lines
    sizes = re.search(r"([\d.]+) MiB at W4, ([\d.]+) MiB at W8 \(([\d.]+) in float32\)", lines)
    assert float(sizes[1]) < float(sizes[2]) < float(sizes[3])
    following = shlex.split(result.stdout.partition("Next: ")[2])
    assert following[:3] == ["intraq-deploy", "quantize", str(checkpoint)]
    assert run("inspect", *following[2:]).exit_code == 0
    assert "layer1.conv1" not in result.stdout


def test_inspect_counts_multiply_accumulates(run):
    found = json.loads(run("inspect", "builtin:resnet20-cifar10", "--json").stdout)
    stem, first = 3 * 16 * 9 * 32 * 32, 6 * 16 * 16 * 9 * 32 * 32
    second = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32) * 16 * 16  # with the shortcut's convolution
    third = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64) * 8 * 8
    assert found["macs"] == stem + first + second + third + 64 * 10


def test_names_of_layers_are_whole_in_a_pipe(run, checkpoint, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    listed = run("inspect", checkpoint, *NETWORK, "--layers", "--scheme", "paper").stdout
    assert "layer1.conv1" in listed
    assert "In float: " in listed
    rows = [line for line in listed.splitlines() if line.startswith("│")]
    assert len(rows) == len(json.loads(run("inspect", checkpoint, *NETWORK, "--json").stdout)["rows"])


def test_several_architectures_become_finished_commands(run, resnet18, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["intraq-deploy", "inspect", str(resnet18)])
    result = run("inspect", resnet18)
    assert result.exit_code == 1
    commands = [shlex.split(line) for line in result.stderr.splitlines() if line.startswith("  intraq-deploy ")]
    assert ["intraq-deploy", "inspect", str(resnet18), "--arch", "torchvision:resnet18"] in commands
    assert run(*commands[0][1:]).exit_code == 0


def test_several_architectures_are_asked_for_on_a_terminal(resnet18):
    main, child = pty.openpty()
    command = [PROGRAM, "inspect", resnet18, "--json"]
    process = subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=child)
    os.close(child)
    said = b""
    while b"Which one is it" not in said:
        said += os.read(main, 4096)
    number = re.search(rb"(\d+)  torchvision:resnet18\r", said)[1]
    os.write(main, number + b"\n")
    found = json.loads(process.communicate(timeout=240)[0])
    os.close(main)
    assert process.returncode == 0
    assert found["architecture"] == "torchvision:resnet18"


# --- signals, pipes, terminals -------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0.6, 2.5, 6.0], ids=str)
def test_a_signal_at_any_moment_is_one_sentence(tmp_path, sent, code, after):
    command = [PROGRAM, "quantize", "builtin:resnet20-cifar10", "--preset", "best", "--out", tmp_path / "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert stderr.rstrip().endswith("Interrupted. The same command continues where it stopped.")
    assert stdout == ""


def test_quiet_and_verbose(run, checkpoint, finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "run")
    command = ["quantize", checkpoint, *NETWORK, *TINY, "--out", directory]
    quiet = run(*command, "-q")
    assert quiet.exit_code == 0
    assert all(line.startswith("Note: ") for line in quiet.stderr.splitlines())
    assert "PASSED" in quiet.stdout
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / "m.pth")
    spoken = [PROGRAM, "inspect", tmp_path / "m.pth", "-v"]
    verbose = subprocess.run(spoken, capture_output=True, text=True, check=True)
    assert "m.pth is a torchvision:mobilenet_v3_small for 1000 classes" in verbose.stderr


def test_no_colour_where_none_is_wanted():
    """Red is for terminals without NO_COLOR."""
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        main, child = pty.openpty()
        kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        command = [PROGRAM, "inspect", "missing.pth"]
        process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=kept | environment)
        os.close(child)
        said = b""
        try:
            while part := os.read(main, 4096):
                said += part
        except OSError:  # Linux says so where the other side is closed
            pass
        assert process.wait() == 1
        os.close(main)
        assert b"missing.pth does not exist" in said
        assert (b"\x1b[" in said) == coloured


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_stage_is_one_line_at_any_width(width):
    shown = io.StringIO()
    display = TerminalProgress(Console(file=shown, width=width, force_terminal=True))
    display.start("synthesis", 1000, "image-iterations")
    display.advance(500, "batch 12/40, iteration 1,200/3,000", 0.123456)
    display.start("targets/onnxruntime-tensorrt", 1, "")
    lines = display.bars.console.render_lines(display.bars.get_renderable())
    assert len(lines) == 2
    assert "synthesis" in "".join(segment.text for segment in lines[0])


# --- the shell -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("intraq-deploy quantize m --preset st", {"standard"}),
        ("intraq-deploy quantize m --target jetson-orin", {"jetson-orin-nano", "jetson-orin-nx"}),
        ("intraq-deploy bundle r --target tensorrt8", {"tensorrt8-int8"}),
        ("intraq-deploy classify r p --target onnxruntime-a", {"onnxruntime-arm64", "onnxruntime-avx2"}),
        ("intraq-deploy inspect m --arch torchvision:resnet1", {"torchvision:resnet18", "torchvision:resnet101"}),
        ("intraq-deploy quantize m --method p", {"ptq"}),
    ],
)
def test_the_shell_completes_values(words, found):
    environment = os.environ | {
        "_INTRAQ_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert found <= set(result.stdout.split())


def test_help_has_panels_and_examples(run):
    text = run("quantize", "--help").stdout
    for panel in ("Network", "Bits", "Recipe and budget", "Where the run is kept", "Output"):
        assert re.search(rf"─ {panel} ─", text)
    assert "intraq-deploy quantize builtin:resnet20-cifar10 --eval builtin:cifar10-sample" in text


def test_a_hub_that_is_away_costs_seconds(run, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="pip install timm")
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    result = run("inspect", "timm:resnet10t")
    assert result.exit_code == 1
    assert "nowhere.invalid is not reached" in " ".join(result.stderr.split())
    assert time.monotonic() - start < 60
