"""Weight bits chosen per layer within a budget, through the command line."""

import json
import shutil

import numpy as np
import pytest
from support import NETWORK, SmallResNet

BUDGET = ["--images", "8", "--iterations", "3", "--steps", "2"]
WEIGHTS = {name: m.weight for name, m in SmallResNet().named_modules() if type(m).__name__ in ("Conv2d", "Linear")}
TOTAL = sum(weight.numel() for weight in WEIGHTS.values())


def report_of(directory):
    return json.loads((directory / "run.json").read_text())


def stored(layers):
    """Bytes of all layers, as documented: codes of up to 4 bits two to a byte, 9 bytes per channel."""
    return sum(
        (WEIGHTS[name].numel() + 1) // 2 + 9 * len(WEIGHTS[name])
        if bits <= 4
        else WEIGHTS[name].numel() + 9 * len(WEIGHTS[name])
        for name, bits in layers.items()
    )


def average(layers):
    return sum(bits * WEIGHTS[name].numel() for name, bits in layers.items()) / TOTAL


def bits_in(program):
    """The fewest bits that hold each layer's codes in a program."""
    from safetensors.torch import load_file

    tensors = load_file(program / "program.safetensors")
    largest = {name: int(tensors[f"{name}:codes"].abs().max()) for name in WEIGHTS}
    return {name: value.bit_length() + 1 for name, value in largest.items()}


def assert_consistent(directory):
    """What was chosen is what is kept, placed and frozen, and no integer differs."""
    report, mixed = report_of(directory), report_of(directory)["mixed"]
    assert report["status"] == "passed"
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    layers = mixed["layers"]
    assert layers.keys() == WEIGHTS.keys()
    assert mixed["average_bits"] == pytest.approx(average(layers), abs=1e-3)
    assert mixed["stored_bytes"] == stored(layers)
    rows = {row["name"]: row["weight"] for row in report_of(directory)["layers"]}
    assert {name: rows[name] for name in layers} == {
        name: f"{bits} bits symmetric{' within 64' if bits == 8 else ''}" for name, bits in layers.items()
    }
    for name, needed in bits_in(directory / "program").items():
        # A step may be a fifth longer than the one that holds the largest weight, so that one bit is not needed.
        assert layers[name] - 1 <= needed <= layers[name], name
    assert json.loads((directory / "config.json").read_text())["options"]["mixed"] == mixed["asked"]
    return mixed


@pytest.fixture(scope="module")
def images(run_once, checkpoint, tmp_path_factory):
    """A run directory with images only."""
    directory = tmp_path_factory.mktemp("images") / "run"
    result = run_once("synthesize", checkpoint, *NETWORK, *BUDGET[:4], "--out", directory)
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(scope="module")
def run_once():
    from typer.testing import CliRunner

    from intraq_deploy.cli.main import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def directory(images, tmp_path):
    return shutil.copytree(images, tmp_path / "run")


@pytest.fixture
def quantize(run, checkpoint, directory):
    return lambda *options: run("quantize", checkpoint, *NETWORK, *BUDGET, "--out", directory, "--overwrite", *options)


def test_average_bits(quantize, directory):
    result = quantize("--average-bits", "3.5", "--widths", "2,3,4,6")
    assert result.exit_code == 0, result.output
    mixed = assert_consistent(directory)
    assert 3 < mixed["average_bits"] <= 3.5
    assert set(mixed["layers"].values()) <= {2, 3, 4, 6}
    assert len(set(mixed["layers"].values())) > 1
    assert f"{mixed['average_bits']:.2f} bits on average" in " ".join(result.stdout.split())


def test_max_size(quantize, directory):
    """The budget holds to the byte, and one byte less changes the choice."""
    cheapest = stored(dict.fromkeys(WEIGHTS, 4))
    limit = cheapest + 3000
    assert quantize("--max-size", repr(limit / 2**20)).exit_code == 0
    mixed = assert_consistent(directory)
    assert cheapest < mixed["stored_bytes"] <= limit
    assert set(mixed["layers"].values()) == {4, 8}
    warnings = {warning["kind"] for warning in report_of(directory)["warnings"]}
    assert "larger-than-asked" in warnings, "the graph around so small a network is larger than its weights"
    assert quantize("--max-size", repr((mixed["stored_bytes"] - 1) / 2**20)).exit_code == 0
    assert assert_consistent(directory)["stored_bytes"] < mixed["stored_bytes"]
    assert quantize("--max-size", repr(cheapest / 2**20)).exit_code == 0
    assert set(assert_consistent(directory)["layers"].values()) == {4}
    assert quantize("--max-size", "1").exit_code == 0
    assert average(assert_consistent(directory)["layers"]) > 4


def test_max_drop(quantize, directory):
    """More drop is never a larger network; what was measured is within it."""
    sizes = []
    for points in ("0", "25", "100"):
        result = quantize("--max-drop", points, "--activation-bits", "8")
        assert result.exit_code == 0, result.output
        mixed = assert_consistent(directory)
        assert mixed["widest_agreement"] - mixed["agreement"] <= float(points)
        sizes.append(mixed["stored_bytes"])
    assert sizes == sorted(sizes, reverse=True)
    assert set(mixed["layers"].values()) == {4}, "a drop of 100 points allows everything"
    other = quantize("--max-drop", "100", "--activation-bits", "4")
    assert "sensitivity: kept from before" in other.stderr, "it is measured with activations of 8 bits"
    assert "mixed-precision: done" in other.stderr, "but the choice is checked with those of the run"


def test_the_same_command_finds_the_same_choice(run, quantize, directory, tmp_path):
    options = ["--average-bits", "5"]
    assert quantize(*options).exit_code == 0
    first, program = report_of(directory), (directory / "program" / "program.json").read_bytes()
    again = quantize(*options)
    for stage in ("mixed-precision", "fine-tuning", "program", "targets/onnxruntime", "validation"):
        assert f"{stage}: kept from before" in again.stderr
    assert "sensitivity" not in again.stderr, "the choice is kept: nothing needs to be measured"
    assert report_of(directory)["mixed"] == first["mixed"]
    (directory / "mixed-precision" / "choice.json").write_text("{}")
    mended = quantize(*options)
    assert "mixed-precision is made again" in mended.stderr
    assert "fine-tuning: kept from before" in mended.stderr
    assert (directory / "program" / "program.json").read_bytes() == program
    other = quantize("--average-bits", "6")
    assert "sensitivity: kept from before" in other.stderr
    assert "fine-tuning: done" in other.stderr
    uniform = quantize("--weight-bits", "4")
    assert uniform.exit_code == 0
    assert report_of(directory)["mixed"] is None
    assert set(bits_in(directory / "program").values()) == {4}


def test_export_and_validate_rebuild_the_same_network(run, quantize, directory, tmp_path):
    assert quantize("--average-bits", "5").exit_code == 0
    before = report_of(directory)
    rng = np.random.default_rng(0)
    file = tmp_path / "images.npz"
    np.savez(file, images=rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), labels=rng.integers(0, 10, 20))
    shutil.rmtree(directory / "mixed-precision")
    shutil.rmtree(directory / "targets")
    assert run("export", directory).exit_code == 0
    assert report_of(directory)["artifacts"] == before["artifacts"]
    result = run("validate", directory, "--eval", file)
    assert result.exit_code == 0, result.output
    after = report_of(directory)
    assert after["mixed"] == before["mixed"]
    assert after["parity"] == before["parity"]
    assert "average)" in result.stdout


def test_the_ends_of_ends8_keep_their_bits(quantize, directory):
    result = quantize("--average-bits", "4.5", "--scheme", "ends8")
    assert result.exit_code == 0, result.output
    layers = report_of(directory)["mixed"]["layers"]
    assert layers["conv1"] == layers["fc"] == 8
    assert average(layers) <= 4.5
    refused = quantize("--average-bits", "4", "--scheme", "ends8")
    assert refused.exit_code == 2
    least = average({name: 8 if name in ("conv1", "fc") else 4 for name in WEIGHTS})
    assert f"the least possible is {np.ceil(1000 * least) / 1000:g}" in " ".join(refused.stderr.split())


def test_asymmetric_weights(quantize, directory):
    """The scheme `paper`: below 8 bits asymmetric, as without a search."""
    assert quantize("--average-bits", "5", "--scheme", "paper").exit_code == 0
    rows = {row["name"]: row["weight"] for row in report_of(directory)["layers"]}
    kinds = {4: "4 bits asymmetric", 8: "8 bits symmetric within 64"}
    layers = report_of(directory)["mixed"]["layers"]
    assert {name: rows[name] for name in layers} == {name: kinds[bits] for name, bits in layers.items()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-size", "0.001"], ("--max-size is 0.001", "the least possible is 0.011")),
        (["--max-size", "-1"], ("--max-size is -1", "from 0 on")),
        (["--max-size", "nan"], ("--max-size is nan", "from 0 on")),
        (["--max-size", "inf"], ("--max-size is inf", "from 0 on")),
        (["--average-bits", "3.9"], ("--average-bits is 3.9", "--widths 4,8", "4 to 8")),
        (["--average-bits", "9"], ("--average-bits is 9", "4 to 8")),
        (["--max-drop", "-0.5"], ("--max-drop is -0.5", "from 0 on")),
        (["--max-drop", "few"], ("--max-drop",)),
        (["--max-drop", "1", "--average-bits", "5"], ("--max-drop 1 and --average-bits 5 exclude each other",)),
        (["--max-size", "1", "--weight-bits", "4"], ("--max-size 1 and --weight-bits 4 exclude each other",)),
        (["--widths", "4,8"], ("--widths is '4,8' without a budget", "--max-drop")),
        (["--average-bits", "5", "--widths", "4"], ("--widths is 4", "--weight-bits 4")),
        (["--average-bits", "5", "--widths", "4,4"], ("--widths is 4,4", "once")),
        (["--average-bits", "5", "--widths", "1,8"], ("--widths has 1", "2 to 8")),
        (["--average-bits", "5", "--widths", "4-8"], ("--widths is '4-8'", "as in 4,8")),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_options(run, checkpoint, tmp_path, options, words):
    result = run("quantize", checkpoint, *NETWORK, *BUDGET, *options, "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert all(word in message for word in words), message
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_the_directory_is_named_by_the_budget(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("quantize", checkpoint, *NETWORK, *BUDGET, "--max-drop", "2.5", "--bits", "8").exit_code == 0
    assert (tmp_path / "runs" / "small-max-drop2.5a8" / "run.json").exists()
