"""The accuracy benchmark's command line: what is no row is refused before anything is loaded."""

from pathlib import Path

import pytest

ROW = ("resnet20_cifar10", "intraq", "W4A4", "P3", "0")


@pytest.fixture
def run(files_of):
    """The file run.py; it finds files of the latency benchmark by itself."""
    return files_of("accuracy")("run")


def test_rows(run):
    keys, _ = run.parse([*ROW])
    assert [key.command for key in keys] == [f"python benchmarks/accuracy/run.py {' '.join(ROW)}"]
    keys, data = run.parse(["--table", "static", "--seeds", "0, 3", "--data", "here"])
    assert {key.seed for key in keys} == {0, 3}
    assert data == Path("here")
    assert {key.bits for key in run.parse(["--table", "static"])[0] if key.recipe == run.STATIC} == {"W8A8"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (ROW[:4], "give a row, as in"),
        (("resnet", *ROW[1:]), "the network 'resnet' is unknown: choose one of efficientnet"),
        (
            (ROW[0], "intraqq", *ROW[2:]),
            "the recipe 'intraqq' is unknown: choose one of best, best-bounded, best-bounded-120, best-corrected",
        ),
        ((*ROW[:2], "W1A4", *ROW[3:]), "the bits are 'W1A4': give W2A2 to W8A8"),
        ((*ROW[:2], "W4A9", *ROW[3:]), "the bits are 'W4A9'"),
        ((ROW[0], "static", *ROW[2:]), "no kernels below 8 bits, and the bits are W4A4: give W8A8"),
        ((*ROW[:3], "P4", "0"), "the protocol 'P4' is unknown: choose one of P1, P2, P3"),
        ((*ROW[:4], "x"), "the seed is 'x': give a whole number"),
        (("--table", "static", "--seeds", "0,x"), "'0,x' are no seeds: give whole numbers"),
        (("--table", "static", "--seeds", ""), "'' are no seeds: give whole numbers"),
        (("--table", "static", *ROW), "and the row resnet20_cifar10 intraq W4A4 P3 0 exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_no_row(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as left:
        run.parse([*arguments])
    assert left.value.code == 2
    assert words in capsys.readouterr().err
