"""A run that several processes make: the same bytes as with one, and a lost process costs nothing that was saved."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import NETWORK

RECIPE = """
extends = "quick"
[synthesis]
images = 24
batch = 8
iterations = 3
marginal_distance = {distance}
[training]
steps = 3
batch = 8
"""
STAGES = {
    "synthesis": ["batch-0000.safetensors", "batch-0001.safetensors", "batch-0002.safetensors"],
    "fitting": ["student.safetensors"],
    "fine-tuning": ["student.safetensors"],
    "targets/onnxruntime": ["model.onnx"],
}


def start(checkpoint, out, *options, distance=0.0, launcher=()):
    """Starts a small run in processes with one thread each; it is over, or killed, when the test is."""
    recipe = out.parent / "recipe.toml"
    recipe.write_text(RECIPE.format(distance=distance))
    words = [sys.executable, *launcher, "-m", "intraq_deploy", "quantize", str(checkpoint), *NETWORK]
    words += ["--recipe", str(recipe), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "INTRAQ_DEPLOY_CACHE": "off"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output(process, code=0):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def made(out):
    return {f"{stage}/{name}": (out / stage / name).read_bytes() for stage, names in STAGES.items() for name in names}


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    output(start(checkpoint, out, "--processes", "1"))
    return made(out)


def test_two_processes_make_what_one_makes(checkpoint, tmp_path, alone):
    said = output(start(checkpoint, tmp_path / "run", "--processes", "2"))
    assert said.count("PASSED") == 1, said
    assert made(tmp_path / "run") == alone


def test_torchrun_starts_them_too(checkpoint, tmp_path, alone):
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    output(start(checkpoint, tmp_path / "run", launcher=launcher))
    assert made(tmp_path / "run") == alone


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_four_processes_make_what_one_makes(checkpoint, tmp_path, distance):
    runs = {}
    for count in "14":
        output(start(checkpoint, tmp_path / count, "--processes", count, distance=distance))
        runs[count] = made(tmp_path / count)
    assert runs["1"] == runs["4"]


def test_a_lost_process_starts_again_and_nothing_changes(checkpoint, tmp_path, alone):
    process = start(checkpoint, tmp_path / "run", "--processes", "2")
    first = tmp_path / "run" / "unfinished" / "synthesis" / "batch-0000.safetensors"
    while not first.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    ranks = {}
    for pid in children.split():
        found = re.search(rb"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_bytes())
        if found:
            ranks[int(found[1])] = int(pid)
    os.kill(ranks[1], signal.SIGKILL)
    said = output(process)
    assert said.count("PASSED") == 1, said
    assert made(tmp_path / "run") == alone


def test_an_error_is_said_once_and_nothing_starts_again(checkpoint, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    said = output(start(checkpoint, tmp_path / "run", "--processes", "2"), code=1)
    assert said.count("Error:") == 1, said
    assert "holds other files (thesis.txt)" in said


def test_a_number_that_cannot_be_is_refused(checkpoint, tmp_path):
    assert "--processes is 0: give 1 to" in output(start(checkpoint, tmp_path / "run", "--processes", "0"), code=2)
