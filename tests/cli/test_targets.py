"""`targets`, and what else --target takes: devices, and a person's own files."""

import json
import platform
import shutil
import subprocess
import sys

import pytest
from support import NETWORK, TINY
from tensorrt_modules import install
from typer.testing import CliRunner

from intraq_deploy.cli.command import LOADING
from intraq_deploy.cli.main import app
from intraq_deploy.targets.device.profile import device_names, load_device
from intraq_deploy.targets.profile import profile_names

TARGET = """
name = "mine"
opset = 21
passes = ["unsigned-activations", "unsigned-weights", "integer-moves"]
"""
DEVICE = """
name = "my-board"
description = "a board"
machine = "aarch64"
targets = ["tensorrt-int8", "onnxruntime-arm64"]
source = "its maker"
"""


def refused(result, code, *words):
    message = " ".join(result.stderr.split())
    assert result.exit_code == code, result.output
    for word in words:
        assert word in message, message
    assert result.stderr.removeprefix(f"{LOADING}\n").count("\n") == 1
    assert result.stdout == ""


@pytest.fixture(scope="module")
def home(checkpoint, tmp_path_factory):
    """A run for a device, a built-in target and one of a person's own, whose file is gone since; a file beside."""
    home = tmp_path_factory.mktemp("targets")
    (home / "mine.toml").write_text(TARGET)
    asked = ["--target", "jetson-agx-thor", "--target", str(home / "mine.toml")]
    result = CliRunner().invoke(app, ["quantize", str(checkpoint), *NETWORK, *TINY, *asked, "--out", str(home / "run")])
    assert result.exit_code == 0, result.output
    (home / "mine.toml").unlink()
    return home


@pytest.fixture
def made(home, tmp_path):
    """A copy of that run, to change."""
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path / "run"


# --- the command -----------------------------------------------------------------------------------------


def test_the_tables_have_every_name_whole_at_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("targets")
    assert result.exit_code == 0, result.output
    words = result.stdout.split()
    assert set(device_names()) | set(profile_names()) <= set(words)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout
    assert "10.13 to before 12.0" in result.stdout
    assert "aarch64, GPU 8.7, 2 DLA" in result.stdout


@pytest.mark.parametrize("name", device_names())
def test_a_device_with_every_source(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    result, device = run("targets", name), load_device(name)
    assert result.exit_code == 0, result.output
    assert f"Targets, the best first: {', '.join(device.targets)}." in result.stdout
    for source in [*map(device.source_of, device.figures), *(release.source for release in device.releases)]:
        assert source in result.stdout
    values = json.loads(run("targets", name, "--json").stdout)
    assert values["targets"] == []
    assert values["devices"][0] == json.loads(device.model_dump_json())


def test_a_target_and_everything_as_json(run):
    result = run("targets", "tensorrt8-int8")
    assert "8.5, 10.0" in result.stdout
    assert "quantized-float-weights" in result.stdout
    everything = json.loads(run("targets", "--json").stdout)
    assert [device["name"] for device in everything["devices"]] == device_names()
    assert [target["name"] for target in everything["targets"]] == profile_names()


def test_ones_own_are_shown_too(run, tmp_path):
    (tmp_path / "mine.toml").write_text(TARGET)
    assert "integer-moves" in run("targets", tmp_path / "mine.toml").stdout
    (tmp_path / "board.toml").write_text(DEVICE)
    assert "my-board: a board (aarch64)" in run("targets", tmp_path / "board.toml").stdout


def test_it_imports_no_torch():
    code = (
        "import sys; sys.argv = ['intraq-deploy', 'targets', 'jetson-orin-nano']\n"
        "from intraq_deploy.cli.entry import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'onnx', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


# --- devices ---------------------------------------------------------------------------------------------


def test_a_device_stands_for_its_targets(home):
    report = json.loads((home / "run" / "run.json").read_text())
    assert list(report["artifacts"]) == ["mine", "tensorrt-int8", "onnxruntime-arm64"]
    assert report["parity"].keys() == report["artifacts"].keys()


def test_a_file_for_other_machines_is_not_timed_here(run, made, labelled):
    report = json.loads(run("validate", made, "--eval", labelled, "--json").stdout)
    timed = {row["name"] for row in report["comparison"] if row["milliseconds"] is not None}
    assert ("onnxruntime-arm64" in timed) == (platform.machine() == "aarch64")
    assert {"float32", "mine"} <= timed
    assert ("onnxruntime-arm64" in json.loads(run("bench", made, "--json").stdout)["elsewhere"]) == (
        platform.machine() != "aarch64"
    )


def test_export_and_validate_take_devices(run, made):
    refused(run("validate", made, "--target", "jetson-orin-nano"), 1, "has no artifact for tensorrt8-int8: run export")
    assert run("export", made, "--target", "jetson-orin-nano").exit_code == 0
    result = run("validate", made, "--target", "jetson-orin-nano")
    assert result.exit_code == 0, result.output
    assert "tensorrt8-int8: rehearsed" in " ".join(result.stdout.split())


def test_build_takes_of_a_device_what_compiles_here(run, made, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(run("build", made, "--target", "jetson-orin-nano"), 1, "TensorRT is not installed")
    refused(run("build", made, "--target", "x86-cpu"), 2, "x86-cpu has no engines")
    install(monkeypatch, "10.3.0")
    result = run("build", made, "--target", "jetson-orin-nano")
    assert result.exit_code == 0, result.output
    assert "tensorrt8-int8 is not built: TensorRT 10.3.0 is installed" in " ".join(result.stderr.split())
    assert json.loads((made / "run.json").read_text())["engines"].keys() == {"tensorrt-int8"}


def test_lint_says_for_which_target_a_device_takes_a_file(run, made):
    file = made / "targets" / "tensorrt-int8" / "model.onnx"
    result = run("lint", file, "--target", "jetson-orin-nano")
    assert result.exit_code == 0, result.output
    assert "jetson-orin-nano takes it as tensorrt-int8" in result.stdout
    reports = json.loads(run("lint", file, "--target", "jetson-orin-nano", "--json").stdout)
    assert [report["target"] for report in reports] == ["tensorrt-int8", "tensorrt8-int8", "onnxruntime-arm64"]
    file = made / "targets" / "mine" / "model.onnx"
    result = run("lint", file, "--target", "jetson-xavier")
    assert result.exit_code == 3
    assert "jetson-xavier cannot run it as tensorrt8-int8." in result.stdout


def test_ones_own_device(run, made, tmp_path):
    (tmp_path / "board.toml").write_text(DEVICE)
    result = run("validate", made, "--target", tmp_path / "board.toml", "--json")
    assert result.exit_code == 0, result.output
    (tmp_path / "board.toml").write_text(DEVICE.replace("arm64", "arm46"))
    refused(
        run("export", made, "--target", tmp_path / "board.toml"),
        2, "board.toml has targets", "no target onnxruntime-arm46: did you mean onnxruntime-arm64",
    )  # fmt: skip


# --- a person's own targets ------------------------------------------------------------------------------


def test_a_run_keeps_ones_own_target(run, made):
    """The file is gone."""
    assert run("validate", made).exit_code == 0
    result = run("export", made, "--target", "mine")
    assert result.exit_code == 0, result.output
    assert "targets/mine: kept from before" in result.stderr
    shutil.rmtree(made / "targets" / "mine")
    assert run("export", made, "--target", "mine").exit_code == 0
    assert run("validate", made, "--target", "mine").exit_code == 0


def test_one_that_was_trained_for_may_not_change(run, made, tmp_path):
    (tmp_path / "mine.toml").write_text(TARGET.replace("21", "19"))
    before = (made / "config.json").read_bytes()
    result = run("export", made, "--target", tmp_path / "mine.toml")
    refused(result, 2, "The target mine is not what it was when", "give the changed one another name")
    assert (made / "config.json").read_bytes() == before


def test_export_adds_one_and_takes_its_changes(run, made, tmp_path):
    file, manifest = tmp_path / "later.toml", made / "targets" / "later" / "manifest.json"
    file.write_text(TARGET.replace("mine", "later"))
    assert run("export", made, "--target", file).exit_code == 0
    first = json.loads(manifest.read_text())
    file.write_text(TARGET.replace("mine", "later").replace("21", "19"))
    assert run("export", made, "--target", file).exit_code == 0
    assert json.loads(manifest.read_text())["sha256"] != first["sha256"]
    file.unlink()
    assert run("validate", made, "--target", "later").exit_code == 0
    assert run("export", made, "--target", "later").exit_code == 0


def test_a_refused_export_leaves_the_file_that_is_there(run, made, tmp_path):
    file = tmp_path / "later.toml"
    file.write_text(TARGET.replace("mine", "later"))
    assert run("export", made, "--target", file).exit_code == 0
    file.write_text(TARGET.replace("mine", "later").replace('moves"', 'moves", "packed-weights"').replace("21", "19"))
    result = run("export", made, "--target", file)
    refused(result, 1, "The ONNX model for later is not valid")
    assert run("validate", made, "--target", "later").exit_code == 0


def test_one_whose_activations_stay_signed(run, made, tmp_path):
    """As ONNX has them; ONNX Runtime then computes some layers in float, and the same integers come out."""
    file = tmp_path / "signed.toml"
    file.write_text('name = "signed"\nopset = 21\npasses = ["integer-moves"]')
    assert run("export", made, "--target", file).exit_code == 0
    result = run("validate", made, "--target", "signed", "--json")
    assert result.exit_code == 0, result.output
    parity = json.loads(result.stdout)["parity"]["signed"]
    assert parity["integers_mismatched"] == 0
    assert parity["integers_compared"] > 100_000
    assert run("bundle", made, "--target", "signed", "--out", tmp_path / "bundle").exit_code == 0
    check = [sys.executable, tmp_path / "bundle" / "run.py", "check", "--json"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["differ"] == 0


def test_one_for_tensorrt_is_rehearsed(run, made, tmp_path):
    text = 'name = "trt"\nruntime = "tensorrt"\nopset = 17\npasses = ["float-clips", "float-biases"]'
    (tmp_path / "trt.toml").write_text(text)
    assert run("export", made, "--target", tmp_path / "trt.toml").exit_code == 0
    result = run("validate", made, "--target", "trt", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["trt"]["rehearsed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("21", "21\nopsett = 3"), "has the unknown key opsett: did you mean opset?"),
        (("integer-moves", "integer-move"), "has the unknown pass 'integer-move': did you mean integer-moves?"),
        (("21", "99"), "has opset = 99: give 13, "),
        (("21", "9"), "has opset = 9: give 13, "),
        (("21", '"new"'), 'has opset = "new": '),
        (("opset = 21", ""), "has no opset: add it."),
        (("= 21", "21"), "is not TOML ("),
        (("passes = [", "steps = ["), "has neither passes, as a target has, nor targets, as a device has"),
        (('"mine"', '"tensorrt-int8"'), "has name = 'tensorrt-int8', which is taken: give it another one."),
        (('"mine"', '"x86-cpu"'), "has name = 'x86-cpu', which is taken"),
        (('"mine"', '"w8a8"'), "has name = 'w8a8', which is taken"),
        (('"mine"', '"../mine"'), 'has name = "../mine": give small letters, digits, dots and dashes.'),
        (("21", '21\nversions = ["ten", "12.0"]'), 'has versions.0 = "ten": give numbers with dots, as in "10.3".'),
        (("21", '21\nruntime = "openvino"'), 'has runtime = "openvino": '),
        (("21", '21\nruntime = "tensorrt-rtx"'), "is compiled ahead of time, and has no compute_capability: give that"),
        (("21", '21\ncalibration_cache = "8.6"'), 'has calibration_cache = "8.6": give three numbers'),
        (('"unsigned-activations", ', '"four-channel-images", '), "has the pass 'four-channel-images', which needs"),
        (('"unsigned-activations", ', '"int4-gemms", '), "has the pass 'int4-gemms', which needs 'float-biases'"),
    ],
    ids=lambda value: value[1][:20] if isinstance(value, tuple) else "",
)
def test_what_is_no_target(run, tmp_path, checkpoint, change, words):
    (tmp_path / "mine.toml").write_text(TARGET.replace(*change))
    asked = ["--target", tmp_path / "mine.toml", "--out", tmp_path / "run"]
    result = run("quantize", checkpoint, *NETWORK, *asked)
    refused(result, 2, f"The target {tmp_path / 'mine.toml'} {words}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jetson-orin-nan", "did you mean jetson-orin-nano?"),
        ("jetson-orin", "did you mean jetson-agx-orin, jetson-orin-nano or jetson-orin-nx?"),
        ("int8", "did you mean tensorrt-int8 or tensorrt8-int8?"),
        ("tensorrt-int", "did you mean tensorrt-int8?"),
        ("absent.toml", "absent.toml cannot be read (No such file or directory): give a TOML file."),
        ("zzz", "is unknown: known are onnxruntime, "),
    ],
)
@pytest.mark.parametrize("command", ["export", "validate", "build", "lint", "targets"])
def test_unknown_names(run, home, command, name, words):
    subject = {"lint": ["model.onnx"], "targets": []}.get(command, [home / "run"])
    refused(run(command, *subject, *([name] if command == "targets" else ["--target", name])), 2, words)
