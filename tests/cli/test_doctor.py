"""`doctor` on this machine; on others it is in test_ship.py."""

import json
import re
import sys

import pytest

from intraq_deploy.pipeline import doctor
from intraq_deploy.pipeline.doctor import _problems, _usable
from intraq_deploy.targets.device.profile import Release, device_names, load_device


def test_this_machine(run):
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["Python"]["found"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert findings["ONNX Runtime"]["remedy"] is None
    assert "GiB free" in findings["disk"]["found"]
    text = run("doctor").stdout
    assert "ok  ONNX Runtime" in text
    assert re.search(r"jetson-orin-nano +JetPack 7.2, JetPack 6.2 and JetPack 6.1: tensorrt-int8, ", text)


@pytest.mark.parametrize("option", [("--port", "22"), ("--python", "python3.9")])
def test_options_of_another_machine(run, option):
    result = run("doctor", *option)
    assert result.exit_code == 2
    assert f"{option[0]} is for another machine: name it with --on." in " ".join(result.stderr.split())


@pytest.mark.parametrize("gpu", [None, "a GPU"])
def test_what_is_missing_for_a_gpu_is_said_where_there_is_one(run, monkeypatch, gpu):
    monkeypatch.setattr(doctor, "gpu_name", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    findings = {finding["what"]: finding for finding in json.loads(run("doctor", "--json").stdout)["findings"]}
    assert findings["NVIDIA's driver"]["remedy"] is not None
    assert ("TensorRT" in findings) is (gpu is not None)
    assert ("CUDAExecutionProvider" in findings) is (gpu is not None)
    assert findings["torch"]["remedy"] is None


def test_what_is_missing_has_a_remedy(run, monkeypatch):
    monkeypatch.setattr(doctor, "gpu_name", lambda: "a GPU")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("doctor", "--json")
    assert result.exit_code == 1
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert "pip install 'onnxruntime>=1.23'" in findings["ONNX Runtime"]["remedy"]
    assert findings["ONNX Runtime"]["needed"]
    assert "pip install tensorrt" in findings["TensorRT"]["remedy"]
    assert not findings["TensorRT"]["needed"]
    assert "NO  ONNX Runtime" in run("doctor").stdout


def test_every_release_of_every_device_can_run_one_of_its_targets():
    for name in device_names():
        device = load_device(name)
        for release in device.releases:
            assert _usable(device, release), (name, release.name)
            assert not _problems(device, release)


def test_versions_that_do_not_fit():
    device = load_device("jetson-orin-nano")
    release = Release(name="of old", tensorrt="7.1", python="3.6", source="here")
    assert _usable(device, release) == []
    first, second = _problems(device, release)
    assert "no target of this device fits" in first
    assert "it has 3.6" in second
