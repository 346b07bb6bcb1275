"""The C++ program for ONNX Runtime, compiled as its README says: the same logits as from Python, bit for bit."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy.data.labelled import normalise
from intraq_deploy.data.resizing import to_network_size
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.pipeline.export import model_metadata
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Normalization
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"
HEADERS = [Path(prefix) / "include" / "onnxruntime" for prefix in ("/usr", "/usr/local")]
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
NAMES = ("tabby, tabby cat", 'the "best" dog', "naïve 🐶", "back\\slash", *"456789")
PLAIN = Preprocessing(SMALL_SHAPE[1:], MEAN, STD)


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """Runs the compiled program: exit code, lines, and what it says on standard error."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: sudo apt install g++")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").is_file()), None)
    if headers is None:
        pytest.skip("ONNX Runtime's C++ headers are missing: sudo sh tests/onnxruntime_headers.sh /usr/local")
    root = tmp_path_factory.mktemp("cpp")
    sources = shutil.copytree(EXAMPLE, root / "cpp")
    # A folder as the release for C++ has it, of the headers and of the library in Python's wheel.
    (root / "ort" / "lib").mkdir(parents=True)
    (root / "ort" / "include").symlink_to(headers)
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "ort" / "lib" / name).symlink_to(library)
    command = next(block for block in commands() if "classify_onnxruntime.cpp" in block)
    done = subprocess.run(
        ["bash", "-ec", command.replace("-std=c++17", "-std=c++17 -Wall -Wextra")],
        cwd=sources,
        env={"ORT": str(root / "ort"), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "classif" not in done.stderr, "a warning about our own lines"

    def call(*words):
        found = subprocess.run([sources / "classify", *words], capture_output=True, text=True, check=False)
        return found.returncode, found.stdout.splitlines(), found.stderr

    return call


def commands():
    return re.findall(r"^```sh\n(.*?)^```", (EXAMPLE / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def students(frozen):
    return {bits: frozen("resnet", "integer", bits, bits)[0] for bits in (4, 8)}


@pytest.fixture
def shipped(students, tmp_path):
    """Writes the file of a small network, with the properties that a run gives it."""

    def make(preprocessing=PLAIN, names=NAMES, bits=4, uint8=False):
        model = replace(
            model_of(small_network("resnet"), SMALL_SHAPE, 10), preprocessing=preprocessing, class_names=names
        )
        program = freeze(students[bits], Normalization(MEAN, STD) if uint8 else None)
        return export(program, load_profile("onnxruntime"), tmp_path, model_metadata(model)).path

    return make


def picture(path, height, width, grey=False):
    """A photo-like file: smooth shapes, and noise, which tells every pixel from its neighbours."""
    draw = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[:height, :width]
    waves = [100 + 80 * np.sin(rows / a + columns / b) for a, b in draw.uniform(2, 20, (1 if grey else 3, 2))]
    pixels = np.clip(np.stack(waves, -1) + draw.normal(0, 20, (height, width, len(waves))), 0, 255).astype(np.uint8)
    Image.fromarray(pixels.squeeze() if grey else pixels).save(path)
    return path


def logits_in_python(model, photo, preprocessing):
    """The logits from the package's own preprocessing and Python's ONNX Runtime, float32 [classes]."""
    pixels = torch.from_numpy(to_network_size(Image.open(photo).convert("RGB"), preprocessing)).permute(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = pixels if session.get_inputs()[0].type == "tensor(uint8)" else normalise(pixels, preprocessing)
    return session.run(["logits"], {"image": given.numpy()})[0][0]


def check(classify, model, photo, preprocessing=PLAIN):
    code, lines, said = classify(model, photo, "--logits")
    assert (code, said) == (0, "")
    expected = logits_in_python(model, photo, preprocessing)
    assert np.array_equal(np.array(lines[:10], dtype=np.float32), expected)
    return lines[10:], expected


@pytest.mark.parametrize(
    "preprocessing",
    [
        PLAIN,
        replace(PLAIN, interpolation="bicubic"),
        replace(PLAIN, resize=40, interpolation="bicubic"),
        replace(PLAIN, resize=37),
        replace(PLAIN, resize=36, interpolation="bicubic", squash=True),
        replace(PLAIN, resize=20),
    ],
    ids=lambda it: f"{it.interpolation}-{it.resize}{'-squash' if it.squash else ''}",
)
def test_logits_are_pythons(classify, shipped, preprocessing, tmp_path):
    model = shipped(preprocessing)
    for height, width in ((32, 32), (50, 41), (131, 64), (20, 90), (7, 5)):
        check(classify, model, picture(tmp_path / f"{height}x{width}.ppm", height, width), preprocessing)


@pytest.mark.parametrize("uint8", [False, True], ids=["float", "uint8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_inputs_of_both_types(classify, shipped, bits, uint8, tmp_path):
    model = shipped(bits=bits, uint8=uint8)
    check(classify, model, picture(tmp_path / "a.ppm", 40, 60))
    check(classify, model, picture(tmp_path / "grey.pgm", 40, 60, grey=True))


def test_the_five_likeliest_classes_with_their_names(classify, shipped, tmp_path):
    lines, logits = check(classify, shipped(), picture(tmp_path / "a.ppm", 40, 60))
    best = np.argsort(-logits, kind="stable")[:5]
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares *= 100 / shares.sum()
    assert lines == [f"{shares[index]:6.2f} %  {NAMES[index]}" for index in best]


@pytest.mark.parametrize("first", range(4))
def test_names_with_every_kind_of_character(classify, shipped, first, tmp_path):
    """Every name is among the five likeliest once."""
    photo = picture(tmp_path / "a.ppm", 40, 60)
    best = int(logits_in_python(shipped(), photo, PLAIN).argmax())
    names = list(NAMES)
    names[first], names[best] = names[best], names[first]
    assert classify(shipped(names=tuple(names)), photo)[1][0].endswith(f"%  {NAMES[first]}")


def test_classes_without_names_have_numbers(classify, shipped, tmp_path):
    photo = picture(tmp_path / "a.ppm", 40, 60)
    best = int(logits_in_python(shipped(), photo, PLAIN).argmax())
    assert classify(shipped(names=None), photo)[1][0].endswith(f"%  {best}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "photo.ppm cannot be read"),
        (b"", "photo.ppm is no .ppm or .pgm file"),
        (b"\xff\xd8\xff\xe0JFIF", "photo.ppm is no .ppm or .pgm file"),
        (b"P6 4 4 65535\n" + bytes(96), "photo.ppm is no .ppm or .pgm file with 8 bits"),
        (b"P6 4 4 255\nshort", "photo.ppm is cut off"),
        (b"P6 0 4 255\n", "photo.ppm is cut off"),
        (b"P6 # one\n# two\n2 2 255\n" + bytes(12), None),
    ],
)
def test_photos_that_are_none(classify, shipped, content, words, tmp_path):
    photo = tmp_path / "photo.ppm"
    if content is not None:
        photo.write_bytes(content)
    code, lines, said = classify(shipped(), photo)
    if words is None:
        assert (code, len(lines), said) == (0, 5, "")
        return
    assert (code, lines) == (1, [])
    assert said.startswith("Error: ")
    assert words in said
    assert said.count("\n") == 1


def test_models_that_are_none(classify, shipped, tmp_path):
    photo, model = picture(tmp_path / "a.ppm", 40, 60), shipped()
    for data in (b"", b"text\n", model.read_bytes()[:-20], model.read_bytes()[:5000]):
        (tmp_path / "cut.onnx").write_bytes(data)
        code, lines, said = classify(tmp_path / "cut.onnx", photo)
        assert (code, lines, said.count("\n")) == (1, [], 1)
        assert "export it again" in said
    code, _, said = classify(shipped(replace(PLAIN, interpolation="lanczos")), photo)
    assert code == 1
    assert "interpolation lanczos" in said
    assert classify(model)[0] == 2
