"""What computes on a GPU, rehearsed without one: shapes, types and devices of every stage (rehearsed_gpu.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rehearsed_gpu.py")
MISTAKES = ("a tensor that was left on the CPU", "an array of the GPU's", "a generator of the CPU's")


@pytest.fixture(scope="module")
def found():
    """What each stage raised, or None, by its name."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_stage_computes_on_the_gpu_alone(found):
    failed = {name: raised for name, raised in found.items() if raised is not None and name not in MISTAKES}
    assert not failed, "\n".join(failed.values())
    assert len([name for name in found if name.startswith("synthesis: ")]) >= 5
    assert len([name for name in found if name.startswith("training: ")]) >= 9


def test_a_mistake_is_found(found):
    """Or the rehearsal says nothing."""
    raised = [found[name] for name in MISTAKES]
    assert all(raised)
    assert "at least two devices" in raised[0]
    assert "generator of the CPU" in raised[2]
