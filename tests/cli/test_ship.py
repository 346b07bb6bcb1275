"""`ship` to a real sshd on this machine, whose Python has numpy and ONNX Runtime, and nothing of ours."""

import json
import platform
import shutil
import stat
import sys

import device_python
import pytest
import sshd

from intraq_deploy.errors import TargetError
from intraq_deploy.pipeline import ship as shipping
from intraq_deploy.targets.device import probe, ssh
from intraq_deploy.targets.device.probe import HostFacts, check_fits, device_of
from intraq_deploy.targets.device.profile import load_device


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = sshd.make(tmp_path_factory)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The device's."""
    return device_python.make(tmp_path_factory.mktemp("python"), device_python.ONNX_RUNTIME)


@pytest.fixture
def device(server, monkeypatch):
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    return server


@pytest.fixture
def directory(finished, tmp_path):
    copy = tmp_path / "my run"
    shutil.copytree(finished, copy)
    return copy


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there it's"


def test_one_command_does_everything(run, device, python, directory, there):
    arguments = ("ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", python)
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr + result.stdout
    answers = json.loads((directory / "device" / "device.json").read_text())["answers"]
    assert list(answers) == ["doctor", "build", "check", "bench"]
    assert answers["doctor"]["ready"]
    assert answers["check"]["passes"]
    assert answers["check"]["differ"] == 0
    assert answers["check"]["integers"] > 10_000
    assert answers["bench"]["batches"][0]["median_ms"] > 0
    assert f"0 of {answers['check']['integers']:,}" in " ".join(result.stdout.split())
    assert not list(there.rglob("*.part"))
    again = run(*arguments, "--json")
    assert again.exit_code == 0, again.stderr
    (host,) = json.loads(again.stdout)["hosts"]
    assert host["sent_bytes"] == 0, "what is there is not sent again"


def test_labelled_images_are_answered_there(run, device, python, directory, there, labelled):
    """As many right as ONNX Runtime has here."""
    result = run(
        "ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", python, "--eval",
        labelled, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (host,) = json.loads(result.stdout)["hosts"]
    here = run("validate", directory, "--eval", labelled, "--json")
    assert host["accuracy"] == {"images": 40, "top1": json.loads(here.stdout)["accuracy"]["onnxruntime"]}


def test_doctor_of_another_machine(run, device, python, tmp_path):
    bare = device_python.make(tmp_path / "bare", ())
    result = run("doctor", "--on", "device", "--python", python)
    assert result.exit_code == 0, result.stderr + result.stdout
    assert "ok  ONNX Runtime" in result.stdout
    assert "device: nothing is missing that everything needs" in " ".join(result.stdout.split())
    missing = run("doctor", "--on", "device", "--python", bare, "--json")
    assert missing.exit_code == 1
    findings = {finding["what"]: finding for finding in json.loads(missing.stdout)["findings"]}
    assert findings["numpy"]["needed"]
    assert findings["numpy"]["remedy"]
    assert "bundle" not in findings
    assert run("doctor", "--on", "stranger").exit_code == 1
    assert run("doctor", "--on", "-x").exit_code == 2


def test_a_changed_byte_there_is_mended(run, device, python, directory, there):
    arguments = ("ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", python)
    assert run(*arguments).exit_code == 0
    model = next(there.rglob("*.onnx"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    (host,) = json.loads(run(*arguments, "--json").stdout)["hosts"]
    assert host["sent_bytes"] == model.stat().st_size
    assert host["failure"] is None


def test_a_host_that_does_not_let_in_stops_no_other(run, device, python, directory, there, tmp_path):
    fleet = tmp_path / "hosts.toml"
    fleet.write_text('hosts = ["device", "stranger", "locked"]')
    result = run(
        "ship", directory, "--fleet", fleet, "--target", "onnxruntime", "--dir", there, "--python", python, "--json"
    )
    assert result.exit_code == 1
    hosts = {host["host"]: host for host in json.loads(result.stdout)["hosts"]}
    assert hosts["stranger"]["failure"].startswith("stranger: its host key is not known")
    assert hosts["device"]["failure"] is None


def test_a_device_that_cannot_take_the_program_stops_no_other(run, device, python, directory, there, monkeypatch):
    bundle_run, device_of = shipping.bundle_run, shipping.device_of

    def refuses(path, target, *others):
        if target.name == "jetson-xavier":
            raise TargetError("No target of jetson-xavier can take this program: nothing is left to bundle.")
        return bundle_run(path, target, *others)

    monkeypatch.setattr(shipping, "bundle_run", refuses)
    monkeypatch.setattr(shipping, "_twice", lambda found: {})
    monkeypatch.setattr(
        shipping, "device_of", lambda host, found: "jetson-xavier" if host == "also" else device_of(host, found)
    )
    result = run("ship", directory, "--to", "also", "--to", "device", "--dir", there, "--python", python, "--json")
    assert result.exit_code == 1
    hosts = {host["host"]: host for host in json.loads(result.stdout)["hosts"]}
    assert hosts["also"]["failure"].startswith("No target of jetson-xavier")
    assert hosts["device"]["failure"] is None
    assert {file.name for file in (directory / "device").iterdir()} == {"also.json", "device.json"}


OWN_DEVICE = """name = "my-board"
description = "a board"
machine = "MACHINE"
targets = ["onnxruntime"]
source = "its seller"
"""
OWN_TARGET = """name = "my-target"
opset = 21
passes = ["unsigned-activations", "averages-as-convolutions", "integer-moves", "packed-weights", "implied-parameters"]
vnni = false
largest_weight = 64
unsigned_activations = true
"""


@pytest.mark.parametrize(("text", "name"), [(OWN_DEVICE, "my-board"), (OWN_TARGET, "my-target")])
def test_ones_own_device_or_target(run, device, python, directory, there, tmp_path, text, name):
    file = tmp_path / "own.toml"
    file.write_text(text.replace("MACHINE", platform.machine()))
    result = run("ship", directory, "--to", "device", "--target", file, "--dir", there, "--python", python, "--json")
    assert result.exit_code == 0, result.stderr + result.stdout
    (host,) = json.loads(result.stdout)["hosts"]
    assert host["device"] == name
    assert host["answers"]["check"]["differ"] == 0
    assert [path.name for path in (directory / "bundles").iterdir() if path.is_dir()] == [name]


def test_one_machine_by_two_names(run, device, python, directory, there):
    arguments = ("--to", "device", "--to", "also", "--target", "onnxruntime", "--dir", there, "--python", python)
    result = run("ship", directory, *arguments, "--json")
    assert result.exit_code == 2
    one, other = json.loads(result.stdout)["hosts"]
    assert one["failure"] is None
    assert other["failure"] == "also: it is the machine of device: give it once."


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_run(run, device, tmp_path, name):
    (tmp_path / "empty").mkdir()
    result = run("ship", tmp_path / name, "--to", "device")
    assert result.exit_code == 1
    assert "is no run directory (it has no config.json)" in " ".join(result.stderr.split())
    assert "Python" not in result.stderr
    assert not list((tmp_path / "empty").iterdir())


def test_a_check_that_fails_is_exit_code_three(run, device, python, directory, there, monkeypatch):
    """The bundle's own numbers are changed on their way, and its manifest with them."""
    bundle_run = shipping.bundle_run

    def changed(*arguments):
        report = bundle_run(*arguments)
        device_python.change_expected(report.folder)
        return report

    monkeypatch.setattr(shipping, "bundle_run", changed)
    result = run(
        "ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", python, "--json"
    )
    assert result.exit_code == 3, result.stdout
    (host,) = json.loads(result.stdout)["hosts"]
    assert "differ" in host["failure"]
    assert "bench" not in host["answers"]


def test_a_device_with_numpy_alone(run, device, directory, there, tmp_path):
    bare = device_python.make(tmp_path / "bare", ("numpy",))
    result = run("ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", bare)
    assert result.exit_code == 1
    assert "device: doctor: runtime: none that can run this bundle" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/no/such/python", "there is no /no/such/python: install Python 3.8 or newer, or give --python"),
        ("old", "install 3.8 or newer"),
        ("/bin/echo", "does not answer as Python does"),
        ("/bin/false", "does not answer as Python does"),
    ],
)
def test_a_python_that_cannot_run_it(run, device, directory, tmp_path, python, words):
    if python == "old":
        script = tmp_path / "python2"
        answer = {"python": [2, 7, 18], "machine": "x", "model": "", "vnni": False, "gpu": "", "place": []}
        script.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        python = str(script)
    result = run("ship", directory, "--to", "device", "--python", python)
    assert result.exit_code == 1
    assert words in " ".join(result.stdout.split())
    assert not (directory / "bundles").exists()


def test_a_connection_that_breaks_during_the_build(run, device, server, python, directory, there, monkeypatch):
    command_of = shipping.command_of

    def slow(shipment, folder, step):
        command = command_of(shipment, folder, step)
        return command if step != "build" else f"kill -9 $PPID; {command}"

    monkeypatch.setattr(shipping, "command_of", slow)
    arguments = ("ship", directory, "--to", "device", "--target", "onnxruntime", "--dir", there, "--python", python)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "device: the connection failed" in " ".join(result.stdout.split())
    monkeypatch.setattr(shipping, "command_of", command_of)
    assert run(*arguments).exit_code == 0


def test_dry_run_asks_no_host(run, directory, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = run("ship", directory, "--to", "me@far away".replace(" ", "-"), "--port", "2222", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "ssh -o BatchMode=yes" in result.stdout
    assert "-p 2222 -- me@far-away" in result.stdout
    assert "/run.py" in result.stdout
    assert "check --json" in result.stdout
    assert "StrictHostKeyChecking" not in result.stdout
    (tmp_path / "mine.toml").write_text('name = "mine"\nopset = 21\npasses = ["unsigned-activations"]')
    own = run("ship", directory, "--to", "a", "--target", tmp_path / "mine.toml", "--dry-run")
    assert own.exit_code == 0, own.stderr
    assert f"--target {tmp_path / 'mine.toml'}\n" in own.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--to user@host or with --fleet"),
        (("--to", "-oProxyCommand=x"), 2, "give user@host, or a name"),
        (("--to", "a", "--to", "a"), 2, "given twice"),
        (("--to", "a", "--port", "70000"), 2, "--port is 70000"),
        (("--to", "a", "--dir", "~/"), 2, "give a folder of its own"),
        (("--to", "a", "--dir", "."), 2, "give a folder of its own"),
        (("--to", "a", "--dir", "-x"), 2, "give a folder of its own"),
        (("--to", "a", "--target", "orin"), 2, "The target 'orin' is unknown"),
        (("--to", "a", "--target", "orin", "--dry-run"), 2, "The target 'orin' is unknown"),
        (("--fleet", "/no/such.toml"), 2, "No such file or directory"),
        (("--to", "root@"), 2, "give user@host, or a name"),
        (("--to", "@device"), 2, "give user@host, or a name"),
        (("--to", "a", "--dry-run", "--json"), 2, "give one of the two"),
    ],
)
def test_what_cannot_be_meant(run, directory, arguments, code, words):
    result = run("ship", directory, *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "text", ["", 'hosts = "abc"', "hosts = 3", "hosts = []", 'hosts = ["a"]\nport = 3', "hosts = ["]
)
def test_what_is_no_fleet(run, directory, tmp_path, text):
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    result = run("ship", directory, "--fleet", file)
    assert result.exit_code == 2
    assert 'write hosts = ["user@a", "user@b"]' in " ".join(result.stderr.split())


def facts(machine="x86_64", model="", *, vnni=False, gpu=""):
    return HostFacts((3, 10, 12), machine, model, vnni, gpu)


@pytest.mark.parametrize(
    ("found", "device"),
    [
        (facts(vnni=True), "x86-cpu"),
        (facts(), "x86-cpu-avx2"),
        (facts(gpu="NVIDIA GeForce RTX 4090"), "nvidia-gpu"),
        (facts(gpu="NVIDIA-SMI has failed because it couldn't communicate"), "x86-cpu-avx2"),
        (facts("aarch64"), "arm64-cpu"),
        (facts("aarch64", "NVIDIA Jetson Orin Nano Developer Kit"), "jetson-orin-nano"),
        (facts("aarch64", "NVIDIA Orin NX Developer Kit"), "jetson-orin-nx"),
        (facts("aarch64", "NVIDIA Jetson AGX Orin"), "jetson-agx-orin"),
        (facts("aarch64", "NVIDIA Jetson AGX Thor Developer Kit"), "jetson-agx-thor"),
        (facts("aarch64", "NVIDIA Jetson Xavier NX"), "jetson-xavier"),
    ],
)
def test_a_device_is_found_by_what_it_says(found, device):
    assert device_of("host", found) == device
    check_fits("host", load_device(device), found)


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        (
            "jetson-orin-nano",
            facts(),
            "host: it is x86_64, and jetson-orin-nano is aarch64: give --target x86-cpu-avx2",
        ),
        ("nvidia-gpu", facts(), r"no NVIDIA GPU answers there \(no nvidia-smi\), and nvidia-gpu needs one"),
        (
            "jetson-agx-thor",
            facts("aarch64", "NVIDIA Jetson Orin Nano Developer Kit"),
            "a NVIDIA Jetson Orin Nano Developer Kit, which is no jetson-agx-thor: give --target jetson-orin-nano",
        ),
    ],
)
def test_a_device_of_another_kind_is_refused(name, found, words):
    with pytest.raises(TargetError, match=words):
        check_fits("host", load_device(name), found)


def test_a_board_that_does_not_say_what_it_is_may_be_any():
    check_fits("host", load_device("jetson-agx-thor"), facts("aarch64", "Custom carrier"))


@pytest.mark.parametrize("machine", ["armv7l", "riscv64", "arm64"])
def test_machines_that_no_device_is(machine):
    with pytest.raises(TargetError, match=f"host: it is {machine}, and the devices here are x86_64 and aarch64"):
        device_of("host", facts(machine))


def test_this_machine_answers_the_probe(device):
    found = probe.probe(ssh.Remote("device"), sys.executable)
    assert found.python == sys.version_info[:3]
    assert found.machine
