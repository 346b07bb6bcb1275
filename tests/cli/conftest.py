"""The command line as a user meets it, in this process: importing torch for every command would take minutes."""

import signal

import numpy as np
import pytest
import torch
from support import NETWORK, TINY, small_network
from typer.testing import CliRunner

from intraq_deploy.cli.main import app


@pytest.fixture
def run():
    """Runs a command; the result has exit_code, stdout and stderr."""

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A state_dict of a small residual network."""
    file = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save(small_network("resnet").state_dict(), file)
    return file


@pytest.fixture(scope="session")
def finished(checkpoint, tmp_path_factory):
    """A finished run directory; tests copy it before they change it."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    result = CliRunner().invoke(app, ["quantize", str(checkpoint), *NETWORK, *TINY, "--out", str(directory)])
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(scope="session")
def for_cpus(checkpoint, tmp_path_factory):
    """A finished run for ONNX Runtime alone: its means behind ReLU are unsigned bytes."""
    directory = tmp_path_factory.mktemp("for-cpus") / "run"
    command = ["quantize", str(checkpoint), *NETWORK, *TINY, "--target", "onnxruntime", "--out", str(directory)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Forty labelled images without any meaning: what is measured is whether the stages agree."""
    file = tmp_path_factory.mktemp("labelled") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(file, images=rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), labels=rng.integers(0, 10, 40))
    return file


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    """What --debug leaves in the environment of its process is not for the next test's."""
    monkeypatch.setenv("INTRAQ_DEPLOY_DEBUG", "")


@pytest.fixture
def interruptible():
    """A process that a shell started in the background ignores Ctrl-C: neither this one does, nor its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
