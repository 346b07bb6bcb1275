"""Help, version and inspection."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intraq_deploy.quantization.scheme import SCHEMES
from intraq_deploy.recipes import BUILTIN

SUPPORT = Path(__file__).parents[1] / "support.py"
NETWORK = ["--arch", f"{SUPPORT}:SmallResNet", "--input-size", "32", "--mean", "0.5", "--std", "0.25"]
COMMANDS = ["quantize", "synthesize", "export", "validate", "inspect"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    assert "--json" in result.stdout


def test_help_lists_the_commands_and_version_is_the_packages(run):
    from intraq_deploy import __version__

    listing = run("--help").stdout
    assert all(command in listing for command in COMMANDS)
    assert run("--version").stdout.strip() == __version__


def test_help_shows_the_values_that_an_option_takes(run, monkeypatch):
    """Those that the shell completes too, and no other is taken."""
    monkeypatch.setenv("COLUMNS", "200")
    text = run("quantize", "--help").stdout
    for choices in (BUILTIN, SCHEMES, ("qat", "ptq"), ("float", "uint8"), ("auto", "cpu", "cuda")):
        assert "|".join(choices) in text


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['intraq-deploy', 'quantize', '--help']\n"
        "from intraq_deploy.cli.entry import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "False"


def test_inspection_names_every_layer(run, checkpoint):
    result = run("inspect", checkpoint, *NETWORK)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())  # the path in front decides where a line breaks
    assert "10 classes, input 3x32x32" in text
    assert "8 batch norms" in text
    result = run("inspect", checkpoint, *NETWORK, "--scheme", "paper", "--json")
    inspection = json.loads(result.stdout)
    rows = {row["name"]: row for row in inspection["rows"]}
    assert not rows["conv1"]["integer"]
    assert "input image is float" in rows["conv1"]["reason"]
    assert rows["layer1.conv1"]["integer"]
    assert inspection["problems"] == []


def test_inspection_of_the_built_in_network(run):
    start = time.monotonic()
    inspection = json.loads(run("inspect", "builtin:resnet20-cifar10", "--json").stdout)
    assert time.monotonic() - start < 60
    assert inspection["classes"] == 10
    assert inspection["batch_norms"] == 21
    assert all(row["integer"] or row["name"] in ("image", "fc") for row in inspection["rows"])
