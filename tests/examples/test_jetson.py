"""The Dockerfile for Jetsons: Docker is not here, so its lines are read, and what they name is looked for."""

import json
import re
import shlex
from pathlib import Path

from intraq_deploy.targets.device.join import runner

FOLDER = Path(__file__).parents[2] / "examples" / "jetson"


def instructions():
    """Every instruction of the Dockerfile with its argument, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_its_instructions_are_dockers():
    found = instructions()
    assert [name for name, _ in found] == ["FROM", "RUN", "WORKDIR", "COPY", "VOLUME", "ENTRYPOINT", "CMD"]
    values = dict(found)
    assert re.fullmatch(r"nvcr\.io/nvidia/l4t-jetpack:r\d+\.\d+\.\d+", values["FROM"])
    assert shlex.split(values["COPY"]) == [".", "."]
    assert Path(values["VOLUME"]) == Path(values["WORKDIR"]) / "cache", "where run.py keeps engines"


def test_it_starts_what_a_bundle_has():
    values = dict(instructions())
    command = [*json.loads(values["ENTRYPOINT"]), *json.loads(values["CMD"])]
    assert command == ["python3", "run.py", "doctor"]
    assert 'HERE / "cache"' in runner()


def test_run_py_knows_the_commands_of_the_readme():
    lines = re.findall(r"^docker run .* model-w4a4(.*)$", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    words = [line.partition("#")[0].split() for line in lines]
    assert [each[0] for each in words if each] == ["check", "classify"]
    for command in ("doctor", "check", "classify"):
        assert f'"{command}"' in runner()
