"""Commands that are printed do what the run did."""

import shlex

import pytest
import typer

from intraq_deploy.cli.main import app
from intraq_deploy.pipeline.invocation import quantize_command
from intraq_deploy.pipeline.options import MixedOptions, ModelOptions, OwnRecipe, make_options

COMMAND = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("model", "options", "command"),
    [
        ({"source": "a b.pth"}, {}, "'a b.pth' --bits 4"),
        (
            {"source": "n.pt", "arch": "net.py:Net", "input_size": (32, 48), "mean": (0.5,), "std": (0.25,)},
            {"weight_bits": 3, "activation_bits": 8, "seed": 2, "made_for": ("onnxruntime",)},
            "n.pt --arch net.py:Net --input-size 32x48 --mean 0.5 --std 0.25 --weight-bits 3 --activation-bits 8 "
            "--seed 2 --target=onnxruntime",
        ),
        (
            {"source": "n.pt", "classes": "names.txt", "output": "1", "weights": "ema"},
            {
                "mixed": MixedOptions(average_bits=5.5, widths=(2, 8)),
                "depthwise_bits": 8,
                "recipe": OwnRecipe(name="mine.toml", values={}),
                "reconstruct": True,
                "eval": "photos",
                "steps": 0,
            },
            "n.pt --classes names.txt --output 1 --weights ema --average-bits 5.5 --widths 2,8 --activation-bits 4 "
            "--depthwise-bits 8 --recipe mine.toml --steps 0 --eval photos --reconstruct",
        ),
    ],
    ids=["default", "bits", "mixed"],
)
def test_options_become_a_command(model, options, command):
    made = quantize_command(make_options(ModelOptions(**model), **options))
    assert made == f"intraq-deploy quantize {command}"
    quantize = COMMAND.commands["quantize"]
    assert quantize.make_context("quantize", shlex.split(made)[2:], resilient_parsing=False)


def test_every_option_is_known():
    """An option that `quantize` gets and this does not know would be lost."""
    options = make_options(
        ModelOptions(source="n.pt"), preset="best", method="ptq", calibration="p", images=2, input="uint8",
        device="cpu", scheme="paper",
    )  # fmt: skip
    made = shlex.split(quantize_command(options, "--iterations", "1"))
    known = {
        name for each in COMMAND.commands["quantize"].params for name in each.opts if each.param_type_name == "option"
    }
    where = {
        "--out",
        "--overwrite",
        "--json",
        "--debug",
        "--trust-pickle",
        "--processes",
        "--help",
        "--quiet",
        "-q",
        "--verbose",
        "-v",
    }
    elsewhere = {
        "--arch", "--input-size", "--mean", "--std", "--classes", "--output", "--weights", "--weight-bits",
        "--activation-bits", "--depthwise-bits", "--max-drop", "--max-size", "--average-bits", "--widths", "--recipe",
        "--reconstruct", "--steps", "--seed", "--eval", "--target",
    }  # fmt: skip
    assert known - where - elsewhere == {each for each in made if each.startswith("--")}
