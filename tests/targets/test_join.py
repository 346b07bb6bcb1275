"""The joiner of run.py: what it makes of modules, and what it refuses."""

import ast
import json
import os
import shutil
import subprocess

import pytest

from intraq_deploy.targets.device.join import joined, runner

HEAD = '"""Runs."""\n\nimport sys\n'
MAIN = '"""The end."""\n\nimport os\n\nfrom .a import f\nfrom .b import g\n\nprint(f() + g(), os.sep)\n'
MODULES = {
    "head": HEAD,
    "main": MAIN,
    "a": '"""First, with\na second line."""\n\nfrom os import path\n\nfrom .b import g\n\n\n'
    "def f():\n    return g() + 1  # why\n",
    "b": '"""Last."""\n\nimport os\n\n\ndef g():\n    return 1\n',
}


def test_modules_stand_behind_what_they_need():
    text = joined(MODULES.__getitem__)
    banners = [line.split()[2] for line in text.splitlines() if line.startswith("# ----")]
    assert banners == ["b", "a", "main"]
    assert text.startswith(f"{HEAD}\nimport os\nfrom os import path\n")
    assert "# First, with\n# a second line.\n" in text
    assert "return g() + 1  # why\n" in text
    assert "from ." not in text
    assert joined(MODULES.__getitem__) == text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"b": "def f():\n    return 1\n\n\ndef g():\n    return 1\n"}, "f is of b.py and of a.py"),
        ({"b": "from .a import f\n"}, "in a circle: main -> a -> b -> a"),
        ({"b": "import os as system\n"}, "`import os as system`: import names of modules as they are"),
        ({"b": "from . import a\n"}, "`from . import a`: import names"),
        ({"b": "def path():\n    return 1\n"}, "path is of b.py and of os"),
        ({"b": "from ..c import a\n"}, "`from ..c import a`: import names"),
        ({"b": "import torch\n"}, "the runner imports torch"),
        ({"b": "import os.path\n"}, "`import os.path`: import names"),
        ({"b": "from __future__ import annotations\n"}, "`from __future__ import annotations`: import names"),
        ({"b": "try:\n    from .a import f\nexcept ImportError:\n    f = None\n"}, "`from .a import f` below its top"),
        ({"b": "def g():\n    from .a import f\n    return f()\n"}, "`from .a import f` below its top level"),
        ({"b": "try:\n    import ujson as path\nexcept ImportError:\n    path = None\n"}, "path is of b.py and of os"),
        ({"b": "import os\n\nos = 1\n"}, "os is of Python and of b.py"),
        ({"b": "def sorted(x):\n    return x\n"}, "sorted is of Python's builtins and of b.py"),
        ({"b": "import os; X = 1\n"}, "b has two statements in line 1"),
        ({"b": "from posix import path\n"}, "path is of posix and of os"),
    ],
)
def test_what_would_be_another_program_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        joined({**MODULES, **changed}.__getitem__)


def test_the_runner_is_python_3_8():
    text = runner()
    ast.parse(text, feature_version=(3, 8))
    compile(text, "run.py", "exec")
    assert runner() == text
    assert max(map(len, text.splitlines())) <= 120


def runs(python):
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-V"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not runs("python3.8"), reason="needs python3.8 on PATH")
@pytest.mark.parametrize("numpy", [True, False], ids=["numpy as it is", "no numpy"])
def test_doctor_runs_through_stdin_in_python_3_8(tmp_path, numpy):
    if not numpy:
        (tmp_path / "numpy.py").write_text("raise ImportError\n")
    command = ["python3.8", "-", "doctor", "--json"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, input=runner(), capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 1, done.stderr  # there is no bundle
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["Python"]["found"].startswith("3.8.")
    assert found["bundle"]["needed"]
