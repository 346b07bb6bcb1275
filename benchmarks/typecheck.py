"""Strict mypy over the whole package.

cli/ and targets/ stand at the top level and install inside the package. Type checkers do not follow that mapping from
the repository's root, so the package is laid out in a temporary folder as it installs, and the number of files that
mypy says it checked is compared with the number there are.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"intraq_deploy": "intraq_deploy", "cli": "intraq_deploy/cli", "targets": "intraq_deploy/targets"}


def lay_out(folder: Path) -> None:
    """Copies the package into `folder` as it installs."""
    for source, place in FOLDERS.items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / source, folder / place, dirs_exist_ok=True, ignore=ignored)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        files = sum(1 for _ in Path(folder).rglob("*.py"))
        command = [sys.executable, "-m", "mypy", "-p", "intraq_deploy", "--config-file", str(ROOT / "pyproject.toml")]
        cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
        result = subprocess.run([*command, *cache], cwd=folder, capture_output=True, text=True, check=False)
    print(result.stdout, result.stderr, sep="", end="")
    if result.returncode == 0 and not re.search(rf"\b{files} source files\b", result.stdout):
        print(f"mypy did not see all {files} files.")
        return 1
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
