import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def files_of(monkeypatch):
    """Imports files of one benchmark by their names. More than one has a run.py and a table.py: another test's are
    forgotten."""

    def choose(benchmark: str):
        folder = BENCHMARKS / benchmark
        monkeypatch.syspath_prepend(folder)
        for file in folder.glob("*.py"):
            sys.modules.pop(file.stem, None)
        return importlib.import_module

    return choose
