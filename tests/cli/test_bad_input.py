"""Whatever is wrong: one sentence with the value and the remedy, the right exit code, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import small_network
from torch import nn

SUPPORT = Path(__file__).parents[1] / "support.py"
PREPROCESSING = ["--input-size", "32", "--mean", "0.5", "--std", "0.25"]
NETWORK = ["--arch", f"{SUPPORT}:SmallResNet", *PREPROCESSING]
TINY = ["--images", "8", "--iterations", "2", "--steps", "0"]


def assert_refused(result, directory, code, *words):
    """One sentence on standard error, nothing on standard output, no traceback, no run directory."""
    message = " ".join(result.stderr.split())
    assert result.exit_code == code, result.output
    for word in words:
        assert word in message, message
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not directory.exists() or list(directory.iterdir()) == []


def bad_checkpoints():
    def missing(folder):
        return folder / "absent.pth"

    def empty(folder):
        (folder / "empty.pth").write_bytes(b"")
        return folder / "empty.pth"

    def rubbish(folder):
        (folder / "rubbish.pth").write_bytes(np.random.default_rng(0).bytes(5000))
        return folder / "rubbish.pth"

    def truncated(folder):
        torch.save(small_network("resnet").state_dict(), folder / "truncated.pth")
        data = (folder / "truncated.pth").read_bytes()
        (folder / "truncated.pth").write_bytes(data[: len(data) // 2])
        return folder / "truncated.pth"

    def other_network(folder):
        torch.save(small_network("mobilenet").state_dict(), folder / "other.pth")
        return folder / "other.pth"

    def other_shape(folder):
        state = small_network("resnet").state_dict()
        state["layer2.conv1.weight"] = state["layer2.conv1.weight"][:, :4]
        torch.save(state, folder / "shape.pth")
        return folder / "shape.pth"

    def not_a_number(folder):
        state = small_network("resnet").state_dict()
        state["layer2.conv1.weight"][0] = float("nan")
        torch.save(state, folder / "nan.pth")
        return folder / "nan.pth"

    return {
        missing: ("absent.pth",),
        empty: ("empty.pth",),
        rubbish: ("rubbish.pth",),
        truncated: ("truncated.pth",),
        other_network: ("stem.0.weight",),
        other_shape: ("layer2.conv1.weight", "[16, 4, 3, 3]", "[16, 8, 3, 3]"),
        not_a_number: ("layer2.conv1.weight", "NaN"),
    }


@pytest.mark.parametrize(("make", "words"), bad_checkpoints().items(), ids=lambda v: getattr(v, "__name__", ""))
def test_checkpoints(run, tmp_path, make, words):
    result = run("quantize", make(tmp_path), *NETWORK, *TINY, "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 1, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "1"], ("--bits is 1", "2 to 8")),
        (["--bits", "9"], ("--bits is 9", "2 to 8")),
        (["--weight-bits", "9"], ("--weight-bits is 9", "2 to 8")),
        (["--depthwise-bits", "9"], ("--depthwise-bits is 9", "2 to 8")),
        (["--depthwise-bits", "3"], ("--depthwise-bits is 3", "other layers have 4")),
        (["--depthwise-bits", "8"], ("--depthwise-bits is 8", "no depthwise layer", "leave it out")),
        (["--activation-bits", "0"], ("--activation-bits is 0", "2 to 8")),
        (["--bits", "four"], ("--bits", "valid integer")),
        (["--scheme", "intger"], ("'intger' is unknown", "integer, paper, ends8")),
        (["--preset", "slow"], ("'slow' is unknown", "quick, standard, best, paper")),
        (["--preset", "bset"], ("'bset' is unknown", "did you mean best?")),
        (["--preset", "quick", "--recipe", "a.toml"], ("--preset quick and --recipe a.toml", "give one of them")),
        (["--recipe", "absent.toml"], ("absent.toml cannot be read (No such file or directory)", "TOML")),
        (["--recipe", "best"], ("best cannot be read", "--preset best")),
        (["--method", "ptq", "--steps", "5"], ("--steps is 5", "--method ptq takes none", "leave one of them out")),
        (["--method", "qap"], ("--method is 'qap'", "'qat' or 'ptq'")),
        (["--images", "1"], ("--images is 1", "at least 2")),
        (["--iterations", "0"], ("--iterations is 0", "at least 1")),
        (["--steps", "-1"], ("--steps is -1", "at least 0")),
        (["--target", "onnxrunt1me"], ("'onnxrunt1me' is unknown", "did you mean onnxruntime")),
        (["--input", "int4"], ("--input is 'int4'", "'float' or 'uint8'")),
        (["--device", "tpu"], ("--device is 'tpu'", "'auto', 'cpu' or 'cuda'")),
        (["--mean", "a,b"], ("--mean is 'a,b'", "0.485,0.456,0.406")),
        (["--input-size", "²"], ("--input-size is '²'", "224x192")),
        (["--input-size", "big"], ("--input-size is 'big'", "224x192")),
        (["--wrong"], ("--wrong",)),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_options(run, checkpoint, tmp_path, options, words):
    result = run("quantize", checkpoint, *NETWORK, *TINY, *options, "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 2, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_is_not_there(run, checkpoint, tmp_path):
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--device", "cuda", "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 2, "--device is cuda", "use --device cpu")


def images(folder, **changes):
    rng = np.random.default_rng(0)
    values = {"images": rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), "labels": np.arange(6)} | changes
    np.savez(folder / "eval.npz", **values)
    return folder / "eval.npz"


def bad_evaluations():
    def missing(folder):
        return folder / "absent"

    def no_images(folder):
        (folder / "eval" / "cat").mkdir(parents=True)
        return folder / "eval"

    def unreadable(folder):
        for index in range(10):
            (folder / "eval" / str(index)).mkdir(parents=True)
            (folder / "eval" / str(index) / "a.png").write_bytes(b"not an image")
        return folder / "eval"

    def label_too_large(folder):
        return images(folder, labels=np.array([0, 1, 2, 3, 4, 10]))

    def wrong_length(folder):
        return images(folder, labels=np.arange(5))

    return {
        missing: ("absent", "does not exist"),
        no_images: ("contains no images in its 1 folders", ".jpg"),
        unreadable: ("a.png",),
        label_too_large: ("10", "0 to 9"),
        wrong_length: ("6", "5"),
    }


@pytest.mark.parametrize(("make", "words"), bad_evaluations().items(), ids=lambda v: getattr(v, "__name__", ""))
def test_labelled_images(run, checkpoint, tmp_path, make, words):
    evaluation = make(tmp_path)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--eval", evaluation, "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 1, *words)


def test_an_output_that_cannot_be_written(run, checkpoint, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("kept")
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", tmp_path / "folder")
    assert result.exit_code == 1
    assert "holds other files (thesis.tex)" in result.stderr
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


NETWORKS = """
import torch
from torch import nn


class NoNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Branch(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Unknown(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LogSigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        )
"""


@pytest.mark.parametrize(
    ("name", "words", "problem"),
    [
        ("NoNorm", ("no batch norm", "vgg11_bn", "--calibration DIR"), "Cannot be synthesized from"),
        ("Unknown", ("Layer '2'", "log_sigmoid"), "Cannot be quantized"),
        ("Branch", ("cannot be traced",), "Cannot be quantized"),
    ],
)
def test_networks_that_cannot_be_quantized(run, tmp_path, name, words, problem):
    code = tmp_path / "networks.py"
    code.write_text(NETWORKS)
    norm = {"NoNorm": [], "Unknown": [nn.BatchNorm2d(4), nn.LogSigmoid()], "Branch": [nn.BatchNorm2d(4), nn.ReLU()]}[
        name
    ]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    arch = ["--arch", f"{code}:{name}", *PREPROCESSING]
    result = run("quantize", tmp_path / "net.pth", *arch, *TINY, "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 1, *words)
    inspection = run("inspect", tmp_path / "net.pth", *arch)
    assert inspection.exit_code == (problem == "Cannot be quantized"), inspection.output
    assert inspection.stdout.count("Cannot be") == inspection.stdout.count(problem) == 1


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-int8"])
def test_what_a_target_refuses_is_said_before_anything_is_made(run, tmp_path, target):
    """TensorRT's parser reads no dilated pooling; ONNX Runtime does."""
    code = tmp_path / "network.py"
    code.write_text(
        NETWORKS
        + """

class Dilated(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1, dilation=2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
"""
    )
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "net.pth")
    arch = ["--arch", f"{code}:Dilated", *PREPROCESSING]
    result = run("quantize", tmp_path / "net.pth", *arch, *TINY, "--target", target, "--out", tmp_path / "run")
    if target == "onnxruntime":
        assert result.exit_code == 0, result.output
    else:
        assert_refused(result, tmp_path / "run", 1, "MaxPool with dilations [2, 2]", "TensorRT only knows 1")


@pytest.mark.parametrize("command", ["quantize", "synthesize"])
def test_one_output_is_no_choice_between_classes(run, tmp_path, command):
    """Softmax of one logit is 1, whatever the image: no image could be made for it, and nothing distilled."""
    code = tmp_path / "network.py"
    code.write_text(
        NETWORKS
        + """

class Sigmoid(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )
"""
    )
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    torch.save(network.state_dict(), tmp_path / "net.pth")
    arch = ["--arch", f"{code}:Sigmoid", *PREPROCESSING]
    result = run(command, tmp_path / "net.pth", *arch, *TINY[:4], "--out", tmp_path / "run")
    assert_refused(result, tmp_path / "run", 1, "1 output per image", "at least 2 classes", "the two logits (0, z)")


@pytest.mark.parametrize("command", ["export", "validate", "sensitivity"])
def test_what_is_no_run(run, tmp_path, command):
    result = run(command, tmp_path / "absent")
    assert result.exit_code == 1
    assert "is no run directory" in result.stderr
    assert "run quantize first" in result.stderr


def test_damaged_runs(run, finished, tmp_path):
    import shutil

    for file, words in (
        ("run.json", "is no report of a run"),
        ("fine-tuning/student.safetensors", "no finished student"),
        ("synthesis/quality.json", "no finished synthesis"),
        ("program/program.safetensors", "is not the file that program.json describes"),
        ("targets/onnxruntime/manifest.json", "no readable artifact"),
    ):
        directory = tmp_path / file.replace("/", "-")
        shutil.copytree(finished, directory)
        (directory / file).write_bytes(b"rubbish")
        result = run("validate", directory)
        assert result.exit_code == 1, result.output
        assert words in " ".join(result.stderr.split())
        assert "Traceback" not in result.output


def test_debug_shows_the_traceback(run, tmp_path, monkeypatch):
    monkeypatch.delenv("INTRAQ_DEPLOY_DEBUG", raising=False)
    result = run("inspect", tmp_path / "absent.pth", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    monkeypatch.delenv("INTRAQ_DEPLOY_DEBUG", raising=False)


def test_what_nobody_expected_is_still_one_sentence(run, checkpoint, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("intraq_deploy.pipeline.inspection.inspect_model", broken)
    result = run("inspect", checkpoint, *NETWORK)
    assert result.exit_code == 1
    assert "Unexpected ZeroDivisionError: division by zero. Run again with --debug" in result.stderr
