"""trtexec in the place of TensorRT's Python bindings: what it is told, and how its answers are read.

The command here is a script that has trtexec's interface and lets ONNX Runtime compute.
"""

import json
import stat
import sys

import pytest
from support import random_images
from tensorrt_modules import install

from intraq_deploy.errors import TargetError
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.engine import build_here, open_engine
from intraq_deploy.targets.tensorrt.host import find_host
from intraq_deploy.targets.tensorrt.trtexec import Trtexec, find_trtexec

SCRIPT = """#!{python}
import json, pathlib, shutil, sys
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
folder = pathlib.Path(__file__).parent
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sorted(options)) + "\\n")
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{digits}] # trtexec")
if (folder / "fail").exists():
    print("[01/01/2026-00:00:00] [E] Error[10]: Could not find any implementation for node conv1")
    if "timingCacheFile" in options:
        pathlib.Path(options["timingCacheFile"]).write_bytes(b"half")
    sys.exit(1)
if "onnx" in options:
    shutil.copy(options["onnx"], options["saveEngine"])
    kernels = pathlib.Path(options["timingCacheFile"])
    kernels.write_bytes((kernels.read_bytes() if kernels.exists() else b"") + b"measured ")
if "exportLayerInfo" in options:
    import onnx
    names = [n.name for n in onnx.load(options["loadEngine"]).graph.node if n.op_type in ("Conv", "Gemm")]
    layers = [{{"Name": n, "LayerType": "CaskConvolution", "Inputs": [{{"Format/Datatype": "Row major Int8 format"}}],
               "Weights": {{"Type": "Int8", "Count": 1}}, "Metadata": f"[ONNX Layer: {{n}}]"}} for n in names]
    pathlib.Path(options["exportLayerInfo"]).write_text(json.dumps({{"Layers": layers}}))
if "loadInputs" in options:
    import numpy as np, onnxruntime
    name, _, file = options["loadInputs"].partition(":")
    shape = [int(n) for n in options["shapes"].partition(":")[2].split("x")]
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(options["loadEngine"], settings, providers=["CPUExecutionProvider"])
    found = session.run(None, {{name: np.fromfile(file, np.float32).reshape(shape)}})
    if (folder / "nan").exists():
        found[0].flat[3], found[0].flat[4] = np.nan, np.inf
    outputs = [{{"name": o.name, "dimensions": "x".join(map(str, x.shape)),
                "values": [float(f"{{v:.6g}}") for v in x.ravel()]}} for o, x in zip(session.get_outputs(), found)]
    pathlib.Path(options["exportOutput"]).write_text(
        json.dumps(outputs[::-1]).replace("NaN", "-nan").replace("Infinity", "inf"))
if "noDataTransfers" in options:
    percentiles = ", percentile(90%) = {{0}} ms, percentile(95%) = {{1}} ms, percentile(99%) = {{2}} ms"
    if (folder / "no percentiles").exists():
        percentiles = ""
    head = "[01/01/2026-00:00:00] [I] "
    print(head + "Timing trace has 5021 queries over 3.00014 s")
    for name, shift in (("Latency", 1), ("Enqueue Time", 2), ("GPU Compute Time", 0)):
        print(head + f"{{name}}: min = {{shift + 0.4}} ms, max = {{shift + 0.9}} ms, mean = {{shift + 0.55}} ms, "
              f"median = {{shift + 0.515}} ms" + percentiles.format(shift + 0.6, shift + 0.7, shift + 0.8))
    print(head + "Total GPU Compute Time: 2.58582 s")
"""


def install_trtexec(monkeypatch, tmp_path, digits):
    """The command on PATH, and no Python bindings. Gives its folder."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "trtexec"
    script.write_text(SCRIPT.format(python=sys.executable, digits=digits))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with trtexec of a version and no Python bindings. Gives the script's folder."""

    def make(digits, gpu=True):
        install(monkeypatch, "10.3.0", gpu)
        return install_trtexec(monkeypatch, tmp_path, digits)

    return make


@pytest.fixture(scope="module")
def program(frozen):
    return frozen("mobilenet")[1]


@pytest.fixture
def built(machine, program, tmp_path):
    def make(digits, target):
        folder, profile = machine(digits), load_profile(target)
        artifact = export(program, profile, tmp_path, {})
        host = find_host(profile)
        # Any model will do in float16's place: it is told apart by its flags.
        float16 = artifact.path.read_bytes()
        return folder, artifact, program, host, build_here(artifact, program, float16, host, tmp_path, tmp_path / "t")

    return make


@pytest.mark.parametrize(
    ("digits", "version", "target", "typing", "half"),
    [
        ("8502", "8.5.2", "tensorrt8-int8", {"int8", "buildOnly"}, {"fp16", "buildOnly"}),
        ("8602", "8.6.2", "tensorrt8-int8", {"int8", "skipInference"}, {"fp16", "skipInference"}),
        ("100300", "10.3.0", "tensorrt-int8", {"int8", "skipInference"}, {"fp16", "skipInference"}),
        ("101302", "10.13.2", "tensorrt-int8", {"stronglyTyped", "skipInference"}, {"stronglyTyped", "skipInference"}),
        ("110401", "11.4.1", "tensorrt-int8", {"skipInference"}, {"skipInference"}),
    ],
)
def test_each_version_is_told_what_it_knows(built, digits, version, target, tmp_path, typing, half):
    folder, _, _, host, engine = built(digits, target)
    assert isinstance(host, Trtexec)
    assert host.version == version
    calls = [set(json.loads(line)) for line in (folder / "calls").read_text().splitlines()]
    always = {
        "onnx", "saveEngine", "timingCacheFile", "minShapes", "optShapes", "maxShapes", "noTF32", "profilingVerbosity",
        "memPoolSize",
    }  # fmt: skip
    assert [call for call in calls if "onnx" in call] == [always | typing, always | typing, always | half]
    assert set(engine.layers.values()) == {"INT8"}
    assert (tmp_path / "t").read_bytes() == 3 * b"measured "


def test_its_integers_are_compared(built):
    _, artifact, program, host, engine = built("100300", "tensorrt-int8")
    found = validate(artifact, program, random_images(10), open_engine(engine, host))
    assert found.passes
    assert found.parity.compared > 50_000
    assert open_engine(engine, host).shipped.milliseconds(random_images(1)) == 0.515


def test_what_it_logs_is_the_error(built, machine, tmp_path):
    folder, artifact, program, host, _ = built("100300", "tensorrt-int8")
    (folder / "fail").touch()
    with pytest.raises(TargetError, match=r"TensorRT 10\.3\.0 \(trtexec\) refuses the model: memory did not suffice"):
        build_here(artifact, program, b"", host, tmp_path, tmp_path / "t")


def test_numbers_that_json_has_no_words_for_and_a_file_that_is_missing(built):
    folder, _, _, host, engine = built("100300", "tensorrt-int8")
    session, script = open_engine(engine, host).shipped, (folder / "trtexec").read_text()
    assert session.run(random_images(1)).isfinite().all()
    (folder / "nan").touch()
    assert session.run(random_images(1)).isnan().sum() == 2
    (folder / "trtexec").write_text(script.replace('if "loadInputs" in options', "if False"))
    with pytest.raises(TargetError, match="ended well and wrote no outputs.json"):
        session.run(random_images(1))


def test_no_gpu(machine):
    machine("100300", gpu=False)
    with pytest.raises(TargetError, match=r"TensorRT 10\.3\.0 is installed, but torch sees no GPU"):
        find_host(load_profile("tensorrt-int8"))


def test_a_trtexec_that_says_no_version(machine):
    folder = machine("100300")
    (folder / "trtexec").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(TargetError, match="does not say which TensorRT it is of"):
        find_trtexec()
