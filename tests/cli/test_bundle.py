"""`bundle`, and run.py as a device has it: another process, with numpy and ONNX Runtime, or numpy, or nothing.

The environments are folders of links to what is installed here; -S keeps everything else out.
"""

import ast
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch
from device_python import ONNX_RUNTIME, linked
from PIL import Image
from support import NETWORK, TINY
from typer.testing import CliRunner

from intraq_deploy.cli.main import app
from intraq_deploy.data.labelled import normalise
from intraq_deploy.data.resizing import to_network_size
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.pipeline import stages
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.storage import load_program
from intraq_deploy.targets.device.join import runner

JETSON = "jetson-orin-nano"
PYTHONS = [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.[678].*/bin/python"))]
"""Older ones, where pyenv has them."""


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    root = tmp_path_factory.mktemp("environments")
    wanted = {"onnxruntime": ONNX_RUNTIME, "pil": (*ONNX_RUNTIME, "PIL"), "numpy": ("numpy",), "nothing": ()}
    for name, packages in wanted.items():
        (root / name).mkdir()
        linked(root / name, packages)
        if "PIL" in packages:
            libraries = Path(importlib.util.find_spec("PIL").submodule_search_locations[0]).with_name("pillow.libs")
            if libraries.exists():
                (root / name / "pillow.libs").symlink_to(libraries)
    return root


@pytest.fixture(scope="session")
def made(checkpoint, tmp_path_factory):
    """A run for a Jetson, and what bundling it says."""
    root = tmp_path_factory.mktemp("bundled")
    targets = ("--target", "tensorrt-int8", "--target", "onnxruntime")
    arguments = ["quantize", str(checkpoint), *NETWORK, *TINY, *targets, "--out", str(root / "run")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    result = CliRunner().invoke(
        app, ["bundle", str(root / "run"), "--target", JETSON, "--out", str(root / "b"), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    return root, json.loads(result.stdout)


@pytest.fixture
def bundle(made, tmp_path):
    """Unpacked as a person would."""
    with tarfile.open(made[1]["archive"]) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith("small-w4a4-")]
    return folder


@pytest.fixture
def on_device(bundle, environments):
    """Runs run.py in one of the environments: exit code, and JSON, or what it says on stderr."""

    def call(*words, environment="onnxruntime", json_too=True):
        command = [sys.executable, "-S", "run.py", *map(str, words), *(["--json"] if json_too else [])]
        done = subprocess.run(
            command,
            cwd=bundle,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(environments / environment), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        )
        assert "Traceback" not in done.stderr, done.stderr
        if json_too and done.stdout:
            return done.returncode, json.loads(done.stdout)
        return done.returncode, done.stdout + done.stderr

    return call


def rewrite(bundle, name, data):
    """Changes a file, and the manifest with it."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_what_is_packed(made, bundle):
    root, report = made
    assert report["targets"][0] == "tensorrt-int8"
    assert report["integers"] > 50_000
    data = Path(report["archive"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (report["bytes"], report["sha256"])
    assert bundle.name == f"small-w4a4-{JETSON}"
    packed = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert packed == {path.relative_to(root / "b").as_posix() for path in (root / "b").rglob("*") if path.is_file()}
    assert os.access(bundle / "run.py", os.X_OK)


def test_the_same_run_gives_the_same_archive(made, run, tmp_path):
    root, report = made
    again = run("bundle", root / "run", "--target", JETSON, "--out", tmp_path / "other", "--json")
    assert json.loads(again.stdout)["sha256"] == report["sha256"]
    over = run("bundle", root / "run", "--target", JETSON, "--out", tmp_path / "other")
    assert over.exit_code == 0
    assert "`check` compares" in " ".join(over.stdout.split())


def test_the_default_run_reaches_the_jetsons_gpu(run, finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "run")
    result = run("bundle", directory, "--target", JETSON, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["targets"] == ["tensorrt-int8", "tensorrt8-int8", "onnxruntime-arm64"]
    assert report["left_out"] == {}
    assert run("validate", directory, "--target", "tensorrt-int8").exit_code == 0


def test_targets_that_refuse_the_program_are_left_out_with_the_reason(run, for_cpus, tmp_path):
    """A program for CPUs alone has unsigned bytes. The device's best file is missing then."""
    directory = tmp_path / "run"
    shutil.copytree(for_cpus, directory)
    said = run("bundle", directory, "--target", JETSON)
    assert said.exit_code == 3
    assert "tensorrt-int8, the device's best file, is missing: " in said.stdout
    assert "avgpool.codes stores UINT8" in said.stdout
    remedy = said.stdout.partition("The command that makes it: ")[2].splitlines()[0]
    assert remedy.endswith(f"--target {JETSON}")
    again = run(*shlex.split(remedy)[1:], "--out", tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    assert run("bundle", tmp_path / "again", "--target", JETSON).exit_code == 0
    result = run("bundle", directory, "--target", JETSON, "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert "avgpool.codes stores UINT8" in report["left_out"]["tensorrt-int8"]
    assert all(target.startswith("onnxruntime") for target in report["targets"])
    manifest = json.loads((directory / "bundles" / JETSON / "manifest.json").read_text())
    assert manifest["left_out"] == report["left_out"]
    alone = run("bundle", directory, "--target", "tensorrt-int8", "--out", tmp_path / "b")
    assert alone.exit_code == 1
    assert "nothing is left to bundle" in alone.stderr
    assert not (tmp_path / "b").exists()


def test_what_bundle_refuses(run, made, tmp_path):
    root, _ = made
    unknown = run("bundle", root / "run", "--target", "jetson-orin-nan")
    assert unknown.exit_code == 2
    assert f"did you mean {JETSON}?" in unknown.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    taken = run("bundle", root / "run", "--target", "onnxruntime", "--out", tmp_path / "mine")
    assert taken.exit_code == 1
    assert "holds something that is no bundle" in taken.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    shutil.copytree(root / "run", tmp_path / "failed")
    report = json.loads((tmp_path / "failed" / "run.json").read_text())
    report |= {"status": "failed", "failures": [{"kind": "instruments-disturb", "target": "onnxruntime"}]}
    (tmp_path / "failed" / "run.json").write_text(json.dumps(report))
    failed = run("bundle", tmp_path / "failed", "--target", "onnxruntime")
    assert failed.exit_code == 1
    said = "failed its gate (onnxruntime: instruments-disturb; run.json has the figures): a bundle would ship that."
    assert said in " ".join(failed.stderr.split())


def test_a_persons_own_images_stay_at_home(run, checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels)
    arguments = (checkpoint, *NETWORK, "--steps", "2", "--input", "uint8", "--calibration", tmp_path / "own.npz")
    assert run("quantize", *arguments, "--out", tmp_path / "run").exit_code == 0
    result = run("bundle", tmp_path / "run", "--target", "onnxruntime", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["check"]["images_are"] == "noise"
    assert manifest["input"]["type"] == "uint8"
    sent = np.load(tmp_path / "b" / "parity" / "images.npy")
    assert sent.dtype == np.uint8
    assert not any((own.transpose(2, 0, 1) == image).all() for own in pixels for image in sent)


def test_check_on_the_device(on_device, made):
    code, found = on_device("check")
    assert (code, found["differ"], found["failures"]) == (0, 0, [])
    assert found["integers"] == made[1]["integers"]
    assert found["top1_agreement"] == 100
    assert found["logits_difference"] == 0
    code, said = on_device("check", json_too=False)
    assert code == 0
    assert f"0 of {found['integers']:,} integers differ" in said


def test_doctor_with_everything_and_with_nothing(on_device):
    code, found = on_device("doctor")
    findings = {finding["what"]: finding for finding in found["findings"]}
    assert (code, found["ready"]) == (0, True)
    assert findings["runtime"]["found"] == "ONNX Runtime would be taken"
    for environment in ("numpy", "nothing"):
        code, found = on_device("doctor", environment=environment)
        findings = {finding["what"]: finding for finding in found["findings"]}
        assert (code, found["ready"]) == (1, False)
        assert findings["ONNX Runtime"]["remedy"] == "pip install onnxruntime"
        assert (findings["numpy"]["remedy"] is None) == (environment == "numpy")
    code, said = on_device("doctor", environment="nothing", json_too=False)
    assert "NO  numpy" in said
    assert "Not ready" in said


@pytest.mark.parametrize(
    ("environment", "words"),
    [("nothing", "Error: numpy is missing: sudo apt"), ("numpy", "Error: no runtime can run this bundle here")],
)
def test_what_is_missing_is_one_sentence(on_device, environment, words):
    code, said = on_device("check", environment=environment)
    assert code == 1
    assert said.startswith(words)
    assert said.count("\n") == 1


def test_bench_on_the_device(on_device):
    code, found = on_device("bench", "--runs", "10", "--batch", "4", "--threads", "1")
    assert code == 0
    assert [row["batch"] for row in found["batches"]] == [1, 4]
    for row in found["batches"]:
        assert 0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert on_device("build")[1]["engines"] == []


def test_classify_gives_the_programs_answer(on_device, made, tmp_path):
    program = load_program(made[0] / "run" / stages.FREEZING)
    preprocessing = Preprocessing((32, 32), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    draw, files, expected = np.random.default_rng(0), [], []
    for index, suffix in enumerate([".png", ".ppm", ".npy", ".png", ".ppm", ".npy"]):
        pixels = draw.integers(0, 256, (37 + 9 * index, 60 - 4 * index, 3), dtype=np.uint8)
        files.append(tmp_path / f"{index}{suffix}")
        if suffix == ".npy":
            np.save(files[-1], pixels)
        else:
            Image.fromarray(pixels).save(files[-1])
        small = torch.from_numpy(to_network_size(Image.fromarray(pixels), preprocessing)).permute(2, 0, 1)[None]
        expected.append(int(Reference(program).run(normalise(small, preprocessing)).argmax()))
    code, found = on_device("classify", *files, environment="pil")
    assert code == 0, found
    assert [each["top"][0]["class"] for each in found["images"]] == expected
    assert all(len(each["top"]) == 5 for each in found["images"])
    without = [file for file in files if file.suffix != ".png"]
    assert on_device("classify", *without)[1]["images"] == [
        each for each in found["images"] if not each["image"].endswith(".png")
    ]
    code, found = on_device("classify", *files[:2])
    assert code == 1
    assert "needs PIL or OpenCV" in found["images"][0]["error"]
    assert len(found["images"][1]["top"]) == 5, "the others are answered all the same"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ppm", b"P6 4 4 255\nshort", "it is cut off"),
        ("a.ppm", b"P6 4 4 65535\n" + bytes(96), "convert it to 8 bits"),
        ("a.npy", b"no array", "cannot be read"),
        ("absent.ppm", None, "No such file"),
    ],
)
def test_images_that_are_none(on_device, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, said = on_device("classify", tmp_path / name, json_too=False)
    assert code == 1
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        "run.py", "README.md", "parity/images.npy", "parity/expected.npz", "targets/tensorrt-int8/model.onnx",
        "targets/tensorrt-int8/outputs.bin",
    ],
)  # fmt: skip
def test_a_changed_byte_in_any_file(on_device, bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    if name == "run.py":
        data[-1:] = b"#\n"
    (bundle / name).write_bytes(bytes(data))
    code, said = on_device("check")
    assert code == 1
    assert said == f"Error: {name} is not the file that manifest.json describes: unpack the bundle again.\n"
    (bundle / name).unlink()
    if name != "run.py":
        assert "is missing" in on_device("check")[1]


@pytest.mark.parametrize("change", [{"models": 3}, {"device": None}, {"check": {}}, {"files": {}}, {"format": "1"}])
def test_a_manifest_with_other_values(on_device, bundle, change):
    manifest = json.loads((bundle / "manifest.json").read_text()) | change
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, answer = on_device("doctor", environment="nothing")
    assert code == 1
    finding = next(finding for finding in answer["findings"] if finding["what"] == "bundle")
    assert finding["remedy"] == "unpack the bundle again"
    assert finding["needed"]


def test_a_manifest_without_an_end(on_device, bundle):
    (bundle / "manifest.json").write_text("[" * 200_000)
    code, said = on_device("check")
    assert code == 1
    assert "is no manifest" in said


def test_files_beside_it_are_no_modules(on_device, bundle):
    (bundle / "json.py").write_text("raise SystemExit('evil ran')")
    assert on_device("doctor")[0] == 0


def test_whoever_reads_may_stop(bundle, environments):
    """As `run.py doctor | head -1` does."""
    command = f'{sys.executable} -S run.py doctor | read -r line; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(environments / "onnxruntime"), "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
    )
    assert done.stderr == ""


def test_names_in_another_script(bundle, environments):
    np.save(bundle / "фото.npy", np.zeros((16, 16, 3), np.uint8))
    done = subprocess.run(
        [sys.executable, "-S", "run.py", "classify", "фото.npy", "no.npy"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": str(environments / "onnxruntime"),
            "PATH": os.environ["PATH"],
            "PYTHONIOENCODING": "ascii",
            "PYTHONUTF8": "1",
        },
    )
    assert done.returncode == 1
    assert "\\u0444" in done.stdout
    assert done.stdout.count("%") == 5, "the image that can be read is answered"
    assert done.stderr.startswith("Error: the image no.npy cannot be read")


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/../../x", "a//b", "..", "link/x"])
def test_paths_out_of_the_bundle(on_device, bundle, name):
    (bundle.parent / "x").write_text("x")
    (bundle / "link").symlink_to(bundle.parent)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, said = on_device("check")
    assert code == 1
    assert "do not use this bundle" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"format": 2, "files": {}}', b'{"format": 1, "files": {}}', None]
)
def test_a_manifest_that_is_none(on_device, bundle, content):
    (bundle / "manifest.json").unlink()
    if content is not None:
        (bundle / "manifest.json").write_bytes(content)
    code, said = on_device("check")
    assert code == 1
    assert said.count("\n") == 1
    code, found = on_device("doctor")
    assert (code, found["ready"]) == (1, False)


def test_a_truncated_model_whose_hash_is_right(on_device, bundle):
    (name,) = [path.relative_to(bundle).as_posix() for path in bundle.glob("targets/onnxruntime*/model.onnx")]
    rewrite(bundle, name, (bundle / name).read_bytes()[:-100])
    code, said = on_device("check")
    assert code == 1
    assert "ONNX Runtime" in said
    assert said.count("\n") == 1


def test_wrong_expected_integers_fail(on_device, bundle):
    arrays = dict(np.load(bundle / "parity" / "expected.npz"))
    arrays["codes3"] = arrays["codes3"].copy()
    arrays["codes3"].flat[5] += 1
    np.savez_compressed(bundle / "expected.npz", **arrays)
    rewrite(bundle, "parity/expected.npz", (bundle / "expected.npz").read_bytes())
    code, found = on_device("check")
    assert code == 3
    assert (found["differ"], len(found["failures"])) == (1, 1)
    arrays["codes3"].flat[5] -= 1
    arrays["logits"] = arrays["logits"][:, ::-1].copy()
    np.savez_compressed(bundle / "expected.npz", **arrays)
    rewrite(bundle, "parity/expected.npz", (bundle / "expected.npz").read_bytes())
    code, said = on_device("check", json_too=False)
    assert code == 3
    assert "Check failed: the logits of image" in said


def test_usage(on_device):
    assert on_device("check", "--runtime", "other")[0] == 2
    assert on_device("bench", "--batch", "9")[0] == 2
    assert on_device(json_too=False)[0] == 2


@pytest.mark.parametrize("python", PYTHONS or [pytest.param("", marks=pytest.mark.skip(reason="no older Python"))])
def test_older_pythons(bundle, python):
    """3.8 works; those before it get one sentence."""
    done = subprocess.run([python, "run.py", "doctor"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    if "/3.8." in python:
        assert "numpy" in done.stdout
        assert done.stderr == ""
    else:
        assert "run it with Python 3.8 or newer" in done.stderr
        assert done.stderr.count("\n") == 1


def test_run_py_imports_nothing_of_ours():
    text = runner()
    assert "import intraq" not in text
    assert "from intraq" not in text
    ast.parse(text, feature_version=(3, 6))  # so that older ones come to the sentence that refuses them


@pytest.mark.arm64
@pytest.mark.parametrize("bits", ["4", "8"])
def test_the_same_integers_on_arm64(checkpoint, tmp_path, bits):
    """The archive as a device gets it, run by another architecture's Python and ONNX Runtime."""
    arguments = ["quantize", str(checkpoint), *NETWORK, *TINY, "--target", "arm64-cpu", "--bits", bits]
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")]).exit_code == 0
    folder = tmp_path / "bundle"
    packed = CliRunner().invoke(app, ["bundle", str(tmp_path / "run"), "--target", "arm64-cpu", "--out", str(folder)])
    assert packed.exit_code == 0, packed.output
    command = [*emulation.arm64(), str(folder / "run.py")]
    done = subprocess.run([*command, "check", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passes"]
    assert found["differ"] == 0
    assert found["integers"] > 100_000
    doctor = subprocess.run([*command, "doctor"], capture_output=True, text=True, check=False)
    assert "aarch64" in doctor.stdout
    assert "Ready" in doctor.stdout
