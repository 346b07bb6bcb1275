"""Machines that others keep busy."""

import os
import subprocess
import sys

import pytest

from intraq_deploy.pipeline import busy


@pytest.fixture
def machine(monkeypatch):
    """Four cores with a load."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    return lambda value: monkeypatch.setattr("os.getloadavg", lambda: (value, 0.0, 0.0))


@pytest.mark.parametrize(("value", "found"), [(0.2, None), (2.9, None), (3.1, 3.1), (40.0, 40.0)])
def test_a_machine_is_busy_by_its_load(machine, value, found):
    machine(value)
    assert busy.load() == found


def test_threads_sleep_where_others_want_the_cores(machine, monkeypatch):
    machine(0.2)
    busy.wait_in_turn()
    assert "OMP_WAIT_POLICY" not in os.environ
    machine(5.0)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    busy.wait_in_turn()
    assert "OMP_WAIT_POLICY" not in os.environ, "a person has said it"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is taken back behind the test
    del os.environ["OMP_WAIT_POLICY"]
    busy.wait_in_turn()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_it_is_settled_before_torch_is_loaded():
    code = (
        "import os, sys\n"
        "os.getloadavg = lambda: (100.0, 0.0, 0.0)\n"
        "from intraq_deploy.cli import entry\n"
        "sys.argv = ['intraq-deploy', '--version']\n"
        "try: entry.main()\n"
        "finally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"


def test_freed_memory_is_kept_for_what_follows():
    code = """
import resource, sys
from intraq_deploy.pipeline.busy import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
import torch
[torch.ones(1 << 20) for _ in range(20)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(1 << 20) for _ in range(20)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = [
        int(subprocess.run([sys.executable, "-c", code, how], env=environment, capture_output=True, check=True).stdout)
        for how in ("keep", "as it is")
    ]
    assert faults[0] < 0.6 * faults[1]
