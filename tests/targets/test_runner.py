"""Bundles as they are written; run.py in this process: its rule of comparing, its resizing, TensorRT's stand-ins."""

import ctypes
import importlib
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from enum import IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from PIL import Image
from runner_file import device
from support import random_images
from tensorrt_modules import FREE, VERSIONS, Seen, module_of
from test_trtexec import install_trtexec

from intraq_deploy.data.resizing import FILTERS, to_network_size
from intraq_deploy.errors import TargetError
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.targets.device.bundle import BundleDescription, archive, why_left_out, write_bundle
from intraq_deploy.targets.device.expected import expected, further_outputs, near_ties, pick_images, tensors_of
from intraq_deploy.targets.device.profile import load_device
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import instrument, serialize
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.arithmetic import TensorRTArithmetic
from intraq_deploy.targets.tensorrt.versions import switches_of

CLASSES = tuple(f"class {index}" for index in range(10))
PREPROCESSING = {
    "input_size": [32, 32],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.3],
    "resize": None,
    "interpolation": "bilinear",
    "squash": False,
}
NETWORK = {"architecture": "test:mobilenet", "bits": "W4A4", "scheme": "integer", "classes": 10}
DESCRIPTION = BundleDescription(
    name="small-w4a4-jetson",
    device=load_device("jetson-orin-nano"),
    network=NETWORK,
    preprocessing=PREPROCESSING,
    classes=CLASSES,
    versions={"torch": "2"},
    images="synthetic",
    left_out={"other": "why."},
)


@pytest.fixture(scope="module")
def program(frozen):
    return frozen("mobilenet")[1]


@pytest.fixture(scope="module")
def images(program):
    return pick_images(program, random_images(24), own_rounding=True)


@pytest.fixture(scope="module")
def artifacts(program, tmp_path_factory):
    profiles = [load_profile(target) for target in ("tensorrt-int8", "tensorrt8-int8", "onnxruntime")]
    return [(profile, export(program, profile, tmp_path_factory.mktemp(profile.name), {})) for profile in profiles]


@pytest.fixture
def bundle(program, artifacts, images, tmp_path, monkeypatch):
    """A bundle's folder, in which run.py thinks that it lies."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder, program, artifacts, images, DESCRIPTION)
    monkeypatch.setattr(device, "HERE", folder)
    return folder


@pytest.fixture
def call(bundle, capsys, tmp_path):
    """run.py's answer: exit code, and JSON or what it says."""

    def make(*words):
        code = device.main([*words, "--json", "--cache", str(tmp_path / "cache")])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else said.err

    return make


def test_a_manifest_says_what_is_there(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "manifest.json"}
    models = {model["target"]: (model["runtime"], model["since"], model["before"]) for model in manifest["models"]}
    assert models == {
        "tensorrt-int8": ("tensorrt", "10.0", "12.0"),
        "tensorrt8-int8": ("tensorrt", "8.5", "10.0"),
        "onnxruntime": ("onnxruntime", "1.23", None),
    }
    assert manifest["left_out"] == {"other": "why."}
    assert manifest["device"]["machine"] == "aarch64"
    assert "TensorRT with its Python bindings or trtexec, 8.5 to before 10.0" in (bundle / "README.md").read_text()


def test_the_same_inputs_give_the_same_bytes(bundle, program, artifacts, images, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    write_bundle(again, program, artifacts, images, DESCRIPTION)
    for path in again.rglob("*"):
        path.touch(mode=0o600)
    assert archive(again, "a") == archive(bundle, "a")
    (again / "README.md").write_text("other")
    assert archive(again, "a") != archive(bundle, "a")


def test_appended_outputs_are_the_instrumented_model(program, artifacts):
    for _, artifact in artifacts:
        model = ir.load(artifact.path)
        joined = ir.from_proto(ir.serde.onnx.ModelProto.FromString(
            artifact.path.read_bytes() + further_outputs(model, program)
        ))  # fmt: skip
        whole = ir.from_proto(ir.serde.onnx.ModelProto.FromString(serialize(instrument(model, program))))
        assert [(x.name, x.dtype, x.shape) for x in joined.graph.outputs] == [
            (x.name, x.dtype, x.shape) for x in whole.graph.outputs
        ]
        assert len(joined.graph) == len(whole.graph)


def test_images_without_near_ties_come_first(program, images):
    pool = random_images(24)
    counts = near_ties(program, pool)
    assert near_ties(program, images).tolist() == sorted(counts.tolist())[: len(images)]
    assert torch.equal(pick_images(program, pool, own_rounding=False), pool[:16])


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("onnxruntime", None),
        ("tensorrt-int8", None),
        ("tensorrt-int4", "multiply in float16"),
        ("tensorrt-rtx", "does not run tensorrt-rtx"),
        ("onnxruntime-tensorrt", "does not run onnxruntime-tensorrt"),
    ],
)
def test_what_a_bundle_can_hold(target, reason):
    found = why_left_out(load_profile(target))
    assert found is None if reason is None else reason in found


def test_nothing_left_to_bundle(program, images, tmp_path):
    with pytest.raises(TargetError, match=r"No target of small-w4a4-jetson can take this program \(a: b\)"):
        write_bundle(tmp_path, program, [], images, replace(DESCRIPTION, left_out={"a": "b."}))


# The rule of `check`.


def tensor(name="y", inputs=("x",), share=None):
    return {"name": name, "value": name, "zero_point": 0, "inputs": list(inputs), "share": share}


def compared(changes, near=None, share=None, behind=None):
    """x and y of two images with 100 codes each; changes: of y by flat position. behind: of x, which y is made from."""
    x, y = np.zeros((2, 100), np.int8), np.zeros((2, 100), np.int8)
    x_found, y_found = x.astype(np.int32), y.astype(np.int32)
    for place, by in changes.items():
        y_found.flat[place] += by
    for place, by in (behind or {}).items():
        x_found.flat[place] += by
    comparison = device.Comparison(2)
    at = None if near is None else np.array(near, dtype=np.int64)
    comparison.add(tensor("x", ()), x, x_found, at)
    comparison.add(tensor(share=share), y, y_found, at)
    return comparison


def test_where_the_order_is_the_programs_one_code_fails():
    assert not compared({}).failures
    assert "1 of 200 integers of y differ by up to 1 (0 may" in compared({7: 1}).failures[0]


def test_near_a_tie_one_code_may_differ_by_one():
    found = compared({7: 1, 120: -1}, near=[7, 120])
    assert (found.failures, found.differ, found.ties) == ([], 2, 2)
    assert compared({7: 2}, near=[7]).failures
    assert compared({8: 1}, near=[7]).failures


def test_behind_a_difference_nothing_is_judged_in_that_image_alone():
    found = compared({7: 5, 9: 1}, near=[3], behind={3: 1})
    assert (found.failures, found.behind, found.differ_behind) == ([], 100, 2)
    assert compared({107: 1}, near=[3], behind={3: 1}).failures
    assert compared({}, near=[3, 103], behind={3: 1, 103: 1}).never_judged == ["y"]


def test_a_toleranced_tensor_has_its_share():
    assert not compared({7: 1, 8: 1}, share=0.01).failures
    assert compared({7: 1, 8: 1, 9: 1}, share=0.01).failures
    assert compared({7: 2}, share=0.01).failures


def test_shapes_that_broadcast_fail():
    comparison = device.Comparison(2)
    comparison.add(tensor("x", ()), np.zeros((2, 4), np.int8), np.zeros((2, 1), np.int8), None)
    assert "shape (2, 1) in place of (2, 4)" in comparison.failures[0]


@pytest.mark.parametrize("fused", [False, True])
def test_tensorrts_arithmetic_passes_end_to_end(frozen, fused):
    """As it is simulated, over images in which it rounds otherwise somewhere; a wrong code in others still fails."""
    program = frozen("resnet", weight_bits=8, activation_bits=8)[1]
    images = random_images(512)
    arrays, tensors = expected(program, images, len(images)), tensors_of(program)
    logits, found = TensorRTArithmetic(program, fused=fused).observed(images)

    def judged(found):
        comparison = device.Comparison(len(images))
        for index, each in enumerate(tensors):
            near = arrays.get(f"near{index}", np.zeros(0, dtype=np.int64))
            comparison.add(each, arrays[f"codes{index}"], found[each["name"]].numpy().astype(np.int32), near)
        return comparison

    comparison = judged(found)
    assert comparison.failures == []
    assert comparison.ties > 0
    assert comparison.compared > 10_000_000
    allowed = device._allowed(comparison, arrays["near_ties"], {"own_rounding": True, "logits_share": 1e-5})
    failures = []
    device._judge_logits(logits.numpy(), arrays["logits"], allowed, failures)
    assert failures == []
    assert (allowed < device.AFTER_A_FLIP).sum() > len(images) // 4

    wrong = {name: codes.clone() for name, codes in found.items()}
    last = list(program.grids)[-1]
    clean = np.flatnonzero(~comparison.any_differs())[0]
    wrong[last][clean].view(-1)[0] += 1
    assert len(judged(wrong).failures) == 1


# From a file to the network's input.


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("resize", "squash", "size"),
    [(None, False, (32, 32)), (40, False, (32, 32)), (36, True, (32, 24)), (20, False, (32, 32))],
)
def test_resizing_is_the_packages_own(interpolation, resize, squash, size):
    draw = random.Random(0)
    preprocessing = Preprocessing(size, (0.5,) * 3, (0.2,) * 3, resize, interpolation, squash=squash)
    values = {"input_size": size, "resize": resize, "squash": squash, "interpolation": interpolation}
    for _ in range(12):
        height, width = draw.randint(1, 130), draw.randint(1, 130)
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = to_network_size(Image.fromarray(pixels), preprocessing)
        assert np.array_equal(device.to_network_size(pixels, values), wanted), (height, width)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".ppm", ".pgm", ".npy"])
def test_files_are_read_alike_with_and_without_pil(channels, suffix, tmp_path, monkeypatch):
    file = tmp_path / f"image{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L") if suffix == ".pgm" else Image.fromarray(pixels)
    if suffix == ".npy":
        np.save(file, pixels)
    else:
        image.save(file)
    (with_pil,) = device.read_images(file, channels)
    assert with_pil.shape == (9, 7, channels)
    assert np.array_equal(np.squeeze(with_pil), np.array(image.convert("L" if channels == 1 else "RGB")))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(
        sys.modules, "cv2", SimpleNamespace(imdecode=lambda data, how: pixels[:, :, ::-1], IMREAD_COLOR=1)
    )
    (without,) = device.read_images(file, channels)
    assert np.array_equal(without, with_pil)
    monkeypatch.setitem(sys.modules, "cv2", None)
    if suffix == ".png":
        with pytest.raises(device.Problem, match="needs PIL or OpenCV"):
            device.read_images(file, channels)
    else:
        assert np.array_equal(device.read_images(file, channels)[0], with_pil)


# TensorRT's versions, and its stand-ins.


@pytest.mark.parametrize("version", ["8.4.1", "7.1", "12.0.0", "abc"])
def test_other_versions_are_refused(version):
    with pytest.raises(device.Problem):
        device.switches_of(version)


class FakeCuda(ModuleType):
    """cuda-python, on the CPU's memory."""

    cudaDeviceAttr = IntEnum("cudaDeviceAttr", {"major": 75, "minor": 76})  # noqa: N815
    cudaMemcpyKind = IntEnum("cudaMemcpyKind", {"in": 1, "out": 2})  # noqa: N815

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory = {}
        self.devices = 1

    def cudaDeviceGetAttribute(self, attribute, index):  # noqa: N802
        return (0, 8) if self.devices else (100, 0)

    def cudaGetDeviceProperties(self, index):  # noqa: N802
        return 0, SimpleNamespace(name=b"Orin\0")

    def cudaMemGetInfo(self):  # noqa: N802
        return 0, FREE, 2 * FREE

    def cudaMalloc(self, size):  # noqa: N802
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (0,)

    def cudaMemcpy(self, to, source, size, kind):  # noqa: N802
        ctypes.memmove(to, source, size)
        return (0,)

    def cudaStreamCreate(self):  # noqa: N802
        return 0, 0

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (0,)


@pytest.fixture
def tensorrt(monkeypatch):
    """A machine with TensorRT and cuda-python, under the newer or the older name."""

    def make(version, name="cuda.bindings.runtime"):
        seen, cuda = Seen(), FakeCuda()
        monkeypatch.setitem(sys.modules, "tensorrt", module_of(version, seen))
        for other in ("cuda.bindings.runtime", "cuda.cudart"):
            monkeypatch.setitem(sys.modules, other, cuda if other == name else None)
        for package in {"cuda", *(["cuda.bindings"] if "bindings" in name else [])}:
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
        return seen, cuda

    return make


@pytest.mark.parametrize(
    ("version", "target", "name"),
    [
        ("8.6.2", "tensorrt8-int8", "cuda.cudart"),
        ("10.3.0", "tensorrt-int8", "cuda.bindings.runtime"),
        ("11.4.1", "tensorrt-int8", "cuda.bindings.runtime"),
    ],
)
def test_check_in_tensorrt(call, tensorrt, version, target, name):
    seen, cuda = tensorrt(version, name)
    code, found = call("check")
    assert code == 0, found
    assert (found["runtime"], found["gpu"], found["model"]) == ("tensorrt", "Orin", f"targets/{target}/model.onnx")
    assert found["integers"] > 50_000
    assert [build.builder for build in seen.builds] == [set(switches_of(version).builder)] * 2
    assert seen.builds[0].network <= set(VERSIONS[version][0])
    assert [build.workspace for build in seen.builds] == [FREE // 2] * 2
    assert not cuda.memory
    assert call("check")[0] == 0
    assert len(seen.builds) == 2, "engines are kept"


CUDA_LIBRARY = """
#include <stdlib.h>
#include <string.h>
int cudaDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 7; return device; }
int cudaGetDeviceProperties(void *properties, int device) { strcpy(properties, "Orin"); return device; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = 6ul << 30; *total = 8ul << 30; return 0; }
int cudaMalloc(void **address, size_t size) { *address = malloc(size); return *address == 0; }
int cudaFree(void *address) { free(address); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return kind % 3 == 0; }
int cudaStreamCreate(void **stream) { *stream = 0; return 0; }
int cudaStreamSynchronize(void *stream) { return stream != 0; }
"""


def test_without_cuda_python_the_library_gives_memory(call, tensorrt, monkeypatch, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler makes a stand-in for libcudart")
    seen, _ = tensorrt("10.3.0", "none")
    monkeypatch.setattr(device, "ROOT", tmp_path)
    monkeypatch.setattr(device, "CUDA_LIBRARIES", ())  # torch may have loaded a real one
    code, said = call("check", "--runtime", "tensorrt")
    assert code == 1
    assert "neither cuda-python nor libcudart.so can be loaded" in said
    library = tmp_path / "usr/local/cuda-12.6/lib64/libcudart.so.12"
    library.parent.mkdir(parents=True)
    (tmp_path / "cudart.c").write_text(CUDA_LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cudart.c"], check=True)
    code, found = call("check", "--runtime", "tensorrt")
    assert code == 0, found
    assert (found["runtime"], found["gpu"], found["differ"]) == ("tensorrt", "Orin", 0)
    assert [build.workspace for build in seen.builds] == [3 << 30] * 2


def test_a_damaged_engine_is_built_again(call, tensorrt, tmp_path):
    seen, _ = tensorrt("10.3.0")
    code, found = call("build")
    assert code == 0
    assert len(found["engines"]) == 2
    for plan in (tmp_path / "cache").glob("model-*.plan"):
        plan.write_bytes(b"half")
    assert call("build")[0] == 0
    assert len(seen.builds) == 3


def test_a_wrong_integer_in_an_engine(call, tensorrt, program):
    seen, _ = tensorrt("10.3.0")
    name = list(program.grids)[2]

    def change(output, array):
        if output == f"{name}.codes":
            array = array.copy()
            array.flat[3] += 2 if array.flat[3] < 0 else -2
        return array

    seen.change = change
    code, found = call("check")
    assert code == 3
    assert f"integers of {name} differ by up to 2" in found["failures"][0]


@pytest.fixture
def flipping(tensorrt, bundle):
    """TensorRT that gives another code at a place which the bundle says is near a tie: the fifth of the first image.

    batches: of how many the fifth code is flipped.
    """

    def make(batches):
        seen, _ = tensorrt("10.3.0")
        manifest = json.loads((bundle / "manifest.json").read_text())
        file = bundle / "parity" / "expected.npz"
        arrays = dict(np.load(file))
        arrays["near0"], arrays["near_ties"] = np.array([5]), arrays["near_ties"] + 1
        np.savez_compressed(file, **arrays)
        manifest["files"]["parity/expected.npz"] = {"sha256": device.sha256_of(file), "bytes": file.stat().st_size}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        flipped = []

        def change(output, array):
            if output == manifest["check"]["tensors"][0]["value"] and len(flipped) < batches:
                flipped.append(output)
                array = array.copy()
                array.flat[5] += 1 if array.flat[5] < 0 else -1
            return array

        seen.change = change

    return make


def test_a_flip_at_a_near_tie_passes_and_is_counted(call, flipping):
    flipping(batches=1)
    code, found = call("check")
    assert code == 0, found
    assert (found["differ"], found["at_near_ties"]) == (1, 1)


def test_the_same_flip_in_an_image_that_is_near_no_tie_fails(call, flipping):
    flipping(batches=2)
    code, found = call("check")
    assert code == 3, found
    assert found["images_with_codes"] > device.LARGEST_BATCH, "the second batch is compared too"
    assert (found["differ"], found["at_near_ties"], len(found["failures"])) == (2, 1, 1)


def test_refused_by_the_builder(call, tensorrt):
    seen, _ = tensorrt("10.3.0")
    seen.refuse = "Could not find any implementation for node conv1"
    code, said = call("check")
    assert code == 1
    assert "memory did not suffice" in said
    assert said.rstrip().splitlines()[-1].startswith("Error: TensorRT 10.3.0 refuses the model")


def test_without_a_gpu_the_next_runtime_is_taken(call, tensorrt):
    _, cuda = tensorrt("10.3.0")
    cuda.devices = 0
    code, found = call("check")
    assert code == 0
    assert found["runtime"] == "onnxruntime"
    assert found["differ"] == 0
    assert "CUDA refuses cudaDeviceGetAttribute (error 100)" in found["passed_over"][0]
    code, said = call("check", "--runtime", "tensorrt")
    assert code == 1
    assert "no runtime can run this bundle here" in said.lower()


@pytest.fixture
def trtexec(monkeypatch, tmp_path):
    return partial(install_trtexec, monkeypatch, tmp_path)


def told(folder):
    """The names of the options of each call of trtexec."""
    return [set(json.loads(line)) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize(
    ("digits", "version", "target", "flags"),
    [
        ("8502", "8.5.2", "tensorrt8-int8", {"int8", "buildOnly"}),
        ("8602", "8.6.2", "tensorrt8-int8", {"int8", "skipInference"}),
        ("100300", "10.3.0", "tensorrt-int8", {"int8", "skipInference"}),
        ("101302", "10.13.2", "tensorrt-int8", {"stronglyTyped", "skipInference"}),
        ("110401", "11.4.1", "tensorrt-int8", {"skipInference"}),
    ],
)
def test_each_trtexec_is_told_what_it_knows(call, trtexec, digits, version, target, flags, monkeypatch, tmp_path):
    folder = trtexec(digits)
    monkeypatch.setattr(device, "free_memory", lambda: 6 << 30)
    code, found = call("build")
    assert code == 0, found
    assert (found["runtime"], found["version"]) == ("trtexec", version)
    assert found["model"] == f"targets/{target}/model.onnx"
    always = {"onnx", "saveEngine", "timingCacheFile", "minShapes", "optShapes", "maxShapes", "noTF32", "memPoolSize"}
    assert [options for options in told(folder) if "onnx" in options] == [always | flags] * 2
    (timing,) = (tmp_path / "cache").glob("timing-*.cache")
    assert timing.read_bytes() == 2 * b"measured "
    for plan in (tmp_path / "cache").glob("*.plan"):
        plan.unlink()
    (folder / "fail").touch()
    assert call("build")[0] == 1
    assert timing.read_bytes() == 2 * b"measured ", "trtexec writes it in place, and here it is whole"


def test_trtexec_in_place_of_the_bindings(call, trtexec, monkeypatch):
    folder = trtexec("100300")
    monkeypatch.setattr(device, "free_memory", lambda: None)
    code, found = call("check")
    assert code == 0, found
    assert (found["runtime"], found["version"]) == ("trtexec", "10.3.0")
    assert found["integers"] > 50_000
    assert not any("memPoolSize" in options for options in told(folder))
    monkeypatch.setattr(device, "watts", lambda: {"VDD_IN": 6.0})
    code, found = call("bench", "--runs", "5")
    assert code == 0
    row = {"runs": 5021, "median_ms": 0.515, "p90_ms": 0.6, "p99_ms": 0.8, "watts": {}, "power_samples": 0}
    assert [row.items() <= each.items() for each in found["batches"]] == [True, True]
    (folder / "no percentiles").touch()
    code, found = call("bench", "--runs", "5")
    assert code == 0
    row |= {"p90_ms": None, "p99_ms": None}
    assert [row.items() <= each.items() for each in found["batches"]] == [True, True]
    assert "median 0.515 ms, 1,941.8 images/s" in device.bench_lines("", found)[1]


def test_numbers_that_are_none_fail_the_check(call, trtexec, capsys, tmp_path):
    (trtexec("100300") / "nan").touch()
    code, found = call("check")
    assert code == 3, found
    assert len(found["failures"]) > 1
    assert found["logits_difference"] is None
    json.dumps(found, allow_nan=False)
    assert device.main(["check", "--cache", str(tmp_path / "cache")]) == 3
    assert "Logits of 16 images are not all numbers" in capsys.readouterr().out


def test_a_code_that_is_no_number_is_no_code():
    found = device._integers(np.array([1.0, -3.2, np.nan, np.inf, -np.inf, 1e30], np.float32))
    assert found.tolist()[:2] == [1, -3]
    assert (np.abs(found[2:]) > 1000).all()


def test_trtexec_that_fails(call, trtexec):
    (trtexec("100300") / "fail").touch()
    code, said = call("check")
    assert code == 1
    assert "refuses the model: memory did not suffice" in said


def test_an_engine_of_other_settings_is_another_file(bundle, monkeypatch, tmp_path):
    opened = device.open_bundle(bundle)
    model = device.model_for(opened, "tensorrt", "10.3.0")

    def path(name="tensorrt", version="10.3.0"):
        """With the switches of a version, for an engine of 10.3.0."""
        backend = SimpleNamespace(name=name, version="10.3.0", gpu="Orin", switches=device.switches_of(version))
        return device.engine_path(backend, opened, model, tmp_path, with_codes=False)

    paths = [path(), path("trtexec"), path(version="10.12.0")]
    monkeypatch.setattr(device, "LARGEST_BATCH", 4)
    paths.append(path())
    assert len(set(paths)) == 4
    assert path() == paths[-1]


# Runtimes that are here and cannot be used.


@pytest.fixture
def said(bundle, capsys, tmp_path):
    """run.py's answer to a person: exit code, standard output, standard error."""

    def make(*words):
        code = device.main([*words, "--cache", str(tmp_path / "cache")])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return make


def findings(bundle, tmp_path):
    return {finding.what: finding for finding in device.doctor(bundle, tmp_path / "cache")}


@pytest.mark.parametrize(
    "error", [RuntimeError("its driver\nis too old"), ImportError("libnvinfer.so.10: cannot open"), AttributeError("x")]
)
def test_a_package_that_is_broken(said, bundle, error, monkeypatch, tmp_path):
    import_module = importlib.import_module

    def imported(name, *rest):
        if name == "tensorrt":
            raise error
        return import_module(name, *rest)

    monkeypatch.setattr(importlib, "import_module", imported)
    code, out, err = said("check")
    assert code == 0
    assert "in ONNX Runtime" in out
    reason = f"TensorRT is here and cannot be used ({type(error).__name__}: {' '.join(str(error).split())})"
    assert err == f"passed over: {reason}.\n"
    finding = findings(bundle, tmp_path)["TensorRT"]
    assert (finding.found, finding.remedy) == (reason, "mend what it names, or install it again")


@pytest.mark.parametrize("when", ["import", "call"])
def test_cuda_python_without_a_driver(said, bundle, tensorrt, when, monkeypatch, tmp_path):
    _, cuda = tensorrt("10.3.0")
    error = RuntimeError("Failed to dlopen libcuda.so.1")
    import_module = importlib.import_module

    def fail(*_):
        raise error

    def imported(name, *rest):
        return fail() if name == "cuda.bindings.runtime" else import_module(name, *rest)

    if when == "import":
        monkeypatch.setattr(importlib, "import_module", imported)
        monkeypatch.setattr(device, "cuda_library", lambda: None)
    else:
        cuda.cudaDeviceGetAttribute = fail
    code, _, err = said("check")
    assert code == 0
    why = {"import": "neither cuda-python nor libcudart.so can be loaded", "call": str(error)}[when]
    assert err.startswith("passed over: TensorRT is here")
    assert why in err
    assert why in findings(bundle, tmp_path)["TensorRT"].found


def test_a_trtexec_of_another_machine(said, bundle, trtexec, tmp_path):
    script = trtexec("100300") / "trtexec"
    script.write_bytes(b"\x7fELF of another architecture")
    code, _, err = said("check")
    assert code == 0
    assert err == f"passed over: {script} cannot be run (Exec format error).\n"
    assert findings(bundle, tmp_path)["trtexec"].remedy == "install TensorRT again"
    code, _, err = said("check", "--runtime", "trtexec")
    assert code == 1
    assert "Exec format error" in err


def test_a_version_that_the_bundle_has_no_file_for_is_said(said, bundle, tensorrt, tmp_path):
    tensorrt("11.4.1")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["models"] = [model for model in manifest["models"] if model["target"] != "tensorrt-int8"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    reason = "TensorRT 11.4.1 is here, and the bundle's files are for 8.5 to before 10.0"
    for command in ("build", "check", "bench"):
        code, out, err = said(command, *(["--runs", "3"] if command == "bench" else []))
        assert (code, err) == (0, f"passed over: {reason}.\n")
        assert "ONNX Runtime" in out
    finding = findings(bundle, tmp_path)["TensorRT"]
    assert (finding.found, finding.remedy) == (reason, "install a version that the bundle has a file for")


def test_what_is_not_installed_is_said_where_a_gpu_stays_idle(said, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(device, "find_trtexec", lambda: None)
    monkeypatch.setattr(device, "gpu_name", lambda: None)
    assert said("check")[::2] == (0, "")
    monkeypatch.setattr(device, "gpu_name", lambda: "Orin")
    code, _, err = said("check")
    assert code == 0
    assert "TensorRT's Python bindings are not installed" in err
    assert "trtexec is neither on PATH" in err
    assert err.count("\n") == 1
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["models"] = [model for model in manifest["models"] if model["runtime"] == "onnxruntime"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert said("check")[::2] == (0, ""), "the bundle has no file for it"


def test_trtexec_in_place_of_bindings_is_no_surprise(said, trtexec, monkeypatch):
    trtexec("100300")
    monkeypatch.setattr(device, "gpu_name", lambda: "Orin")
    code, _, err = said("build")
    assert code == 0
    assert "passed over" not in err


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("nothing is installed", "on a Jetson: sudo apt install python3-libnvinfer (JetPack brings it)"),
        ("another version", "install one of those"),
        ("no GPU", "look at nvidia-smi, or restart the device"),
        ("no memory", "pip install cuda-python, or add CUDA's lib64 to LD_LIBRARY_PATH"),
    ],
)
def test_the_remedy_is_for_what_is_missing(bundle, tensorrt, change, remedy, monkeypatch, tmp_path):
    _, cuda = tensorrt("10.3.0", "none" if change == "no memory" else "cuda.bindings.runtime")
    monkeypatch.setattr(device, "cuda_library", lambda: None)
    if change == "nothing is installed":
        monkeypatch.setitem(sys.modules, "tensorrt", None)
    if change == "another version":
        sys.modules["tensorrt"].__version__ = "12.0.1"
    cuda.devices = int(change != "no GPU")
    assert findings(bundle, tmp_path)["TensorRT"].remedy == remedy


def test_a_bundles_remedy_is_said_once(bundle, tmp_path):
    (bundle / "README.md").write_text("changed")
    finding = findings(bundle, tmp_path)["bundle"]
    assert finding.found == "README.md is not the file that manifest.json describes"
    assert (finding.remedy, finding.needed) == ("unpack the bundle again", True)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {"../x": {"sha256": "0", "bytes": 1}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    finding = findings(bundle, tmp_path)["bundle"]
    assert finding.found == "manifest.json lists '../x', which is no path inside the bundle"
    assert finding.remedy == "do not use this bundle"


@pytest.mark.parametrize("error", [ValueError("x\ny"), ZeroDivisionError("x y"), RuntimeError("x y")])
def test_what_nobody_foresaw_is_one_sentence_that_blames_no_file(said, error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(device, "_batched", fail)
    code, _, err = said("check")
    assert code == 1
    assert err.startswith(f"Error: unexpected {type(error).__name__} (x y) at line ")
    assert "report it with what `python3 run.py doctor --json` says." in err
    assert "unpack" not in err
    assert err.count("\n") == 1


def test_threads_are_those_of_the_call(call, monkeypatch):
    session, given = onnxruntime.InferenceSession, []

    def opened(data, settings, providers):
        given.append(settings.intra_op_num_threads)
        return session(data, settings, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    assert call("check", "--runtime", "onnxruntime", "--threads", "1")[0] == 0
    assert call("check", "--runtime", "onnxruntime")[0] == 0
    assert given == [1, 1, 0, 0]


# What a machine says of itself.


@pytest.mark.parametrize(
    ("script", "found", "name"),
    [
        ('echo "Orin, $1, $2"', "Orin, --query-gpu=name, --format=csv,noheader,nounits", "Orin"),
        ("echo it has failed; exit 9", "it has failed", None),
        ("echo no driver >&2; exit 1", "no driver", None),
        ("true", "it says nothing", None),
        (None, "no nvidia-smi", None),
    ],
)
def test_nvidias_driver(script, found, name, monkeypatch, tmp_path):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device, "ROOT", tmp_path)
    assert (device.gpu_name() or "").partition(",")[0] == (name or "")
    if name is not None:
        assert device.nvidia_smi("name") == [found]
    else:
        with pytest.raises(device.Problem) as error:
            device.nvidia_smi("name")
        assert error.value.found == found
        assert error.value.remedy


def test_sensors_and_release_of_a_jetson(tmp_path, monkeypatch, bundle):
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": "MemTotal:        7802456 kB\nMemAvailable:    6802456 kB\n",
        "var/lib/nvpmodel/status": "pmode:0000\n",
        "sys/class/hwmon/hwmon0/name": "other\n",
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon1/in1_input": "5000\n",
        "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
        "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone1/type": "off-thermal\n",
    }
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    monkeypatch.setattr(device, "ROOT", tmp_path / "root")
    monkeypatch.setattr(device, "SAMPLED", 1.2)
    monkeypatch.setenv("PATH", "")
    assert device.watts() == {"VDD_IN": 6.0}
    assert device.temperatures() == {"cpu-thermal": 48.5}
    assert device.power_mode() == "pmode:0000"
    assert device.measured(lambda: time.sleep(0.01), 3).watts == {"VDD_IN": 6.0}
    assert device.free_memory() == 6802456 << 10
    found = {finding.what: finding.found for finding in device.doctor(bundle, tmp_path / "cache")}
    assert found["JetPack"] == "L4T 36.4.3, nvidia-jetpack is not installed"
    assert found["GPU"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert "7.4 GiB" in found["machine"]


@pytest.fixture
def working(monkeypatch):
    """Work of 20 ms; the sensors show 7 W since it began, and 1 W before."""
    calls = []
    monkeypatch.setattr(device, "watts", lambda: {"VDD_IN": 7.0 if calls else 1.0})

    def work():
        calls.append(0)
        time.sleep(0.02)

    work.calls = calls
    return work


def test_power_is_sampled_while_work_runs_and_for_long_enough(working, monkeypatch):
    assert device.SAMPLED == 2
    monkeypatch.setattr(device, "SAMPLED", 1.2)
    start = time.perf_counter()
    found = device.measured(working, 3)
    assert time.perf_counter() - start > 1.2
    assert (found.runs, found.watts) == (3, {"VDD_IN": 7.0})
    assert 5 <= found.power_samples <= 12
    assert len(working.calls) > 10, "it goes on working, untimed"


def test_the_first_sample_is_not_of_what_was_before(monkeypatch):
    times = []
    monkeypatch.setattr(device, "watts", lambda: times.append(time.perf_counter()) or {"VDD_IN": 1.0})
    monkeypatch.setattr(device, "SAMPLED", 0.3)
    with device.Power() as power:
        start = time.perf_counter()
        while power.wants_more():
            time.sleep(0.01)
    assert len(power.samples) == len(times) - 1, "one look says whether there are sensors"
    assert all(each > start + 0.09 for each in times[1:])


def test_few_samples_are_no_watts(working, monkeypatch):
    monkeypatch.setattr(device, "SAMPLED", 0.25)
    found = device.measured(working, 3)
    assert found.watts == {}
    assert found.power_samples < 5


def test_without_sensors_nothing_runs_longer(working, call, monkeypatch):
    monkeypatch.setattr(device, "watts", dict)
    found = device.measured(working, 3)
    assert (found.runs, found.watts, found.power_samples) == (3, {}, 0)
    assert len(working.calls) == 6, "as many to warm up"
    code, found = call("bench", "--runs", "3", "--threads", "1")
    assert code == 0
    assert [(row["watts"], row["power_samples"]) for row in found["batches"]] == [({}, 0)] * 2


# What is no image.


@pytest.mark.parametrize("pil", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ppm", b"P6 0 4 255\n"),
        ("a.ppm", b"P6 4 0 255\n"),
        ("a.pgm", b"P5 0 0 255\n"),
        ("a.ppm", b""),
        ("a.png", b""),
        ("a.npy", b""),
        ("a.npy", np.uint8(3)),
        ("a.npy", np.zeros((0, 4, 3), np.uint8)),
        ("a.npy", np.zeros((4, 0), np.uint8)),
    ],
)
def test_an_image_without_pixels_is_one_sentence_with_its_name(said, name, content, pil, monkeypatch, tmp_path):
    class DecoderError(Exception):
        pass

    def decode(data, how):
        raise DecoderError("!buf.empty()")

    if not pil:
        monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(imdecode=decode, IMREAD_COLOR=1))
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content)
    code, _, err = said("classify", str(file), "--runtime", "onnxruntime")
    assert code == 1
    assert err.startswith("Error: ")
    assert str(file) in err
    assert "Unexpected" not in err
    assert err.count("\n") == 1
