"""`bundle --triton`: config.pbtxt, read by the schema of Triton itself, says what the file beside it is."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from support import SMALL_SHAPE, model_of, random_images, small_network

from intraq_deploy.pipeline.export import model_metadata
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Normalization
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.gpu import tensorrt_options
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.triton import write_model

NAME = "small-w4a4"


@pytest.fixture(scope="session")
def schema():
    """Triton's model_config.proto, as its Python client has it; the client itself would need grpc."""
    client = importlib.util.find_spec("tritonclient")
    if client is None:
        pytest.skip("Triton's schema is missing: pip install tritonclient")
    (folder,) = client.submodule_search_locations
    spec = importlib.util.spec_from_file_location("model_config_pb2", Path(folder) / "grpc" / "model_config_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(schema):
    """Reads the config.pbtxt of a model's folder; a key that Triton does not know is an error."""

    def read(folder):
        return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())

    return read


def check(schema, config, folder):
    """The config says of the ONNX file what the file says itself."""
    graph = onnx.load(folder / "1" / "model.onnx").graph
    types = {"TYPE_FP32": onnx.TensorProto.FLOAT, "TYPE_UINT8": onnx.TensorProto.UINT8}
    assert (config.name, config.backend) == (folder.name, "onnxruntime")
    for described, held in ((config.input, graph.input), (config.output, graph.output)):
        assert [each.name for each in described] == [each.name for each in held]
        for each, value in zip(described, held, strict=True):
            batch, *sizes = value.type.tensor_type.shape.dim
            assert batch.dim_param, "Triton wants an open batch where max_batch_size is not 0"
            assert list(each.dims) == [size.dim_value for size in sizes]
            assert types[schema.DataType.Name(each.data_type)] == value.type.tensor_type.elem_type
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_model_repository(run, copied, schema, config):
    result = run("bundle", copied, "--triton", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    repository = Path(report["repository"])
    assert repository == copied / "bundles" / "triton"
    assert (report["model"], report["target"], report["onnxruntime"]) == (NAME, "onnxruntime", "1.23")
    found = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert found == set(report["files"]) == {f"{NAME}/config.pbtxt", f"{NAME}/1/model.onnx"}
    for name, sha256 in report["files"].items():
        assert hashlib.sha256((repository / name).read_bytes()).hexdigest() == sha256
        assert (repository / name).stat().st_mode & 0o444 == 0o444
    assert (repository / NAME).stat().st_mode & 0o555 == 0o555
    shipped = (repository / NAME / "1" / "model.onnx").read_bytes()
    assert shipped == (copied / "targets" / "onnxruntime" / "model.onnx").read_bytes()
    described = config(repository / NAME)
    check(schema, described, repository / NAME)
    assert [schema.ModelInstanceGroup.Kind.Name(group.kind) for group in described.instance_group] == ["KIND_CPU"]
    assert json.loads(described.parameters["mean"].string_value) == [0.5, 0.4, 0.3]
    assert json.loads(described.parameters["resize"].string_value) is None
    assert described.parameters["program_sha256"].string_value == json.loads(
        (copied / "targets" / "onnxruntime" / "manifest.json").read_text()
    )["program_sha256"]  # fmt: skip
    session = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    images = random_images(described.max_batch_size).numpy()
    (logits,) = session.run([described.output[0].name], {described.input[0].name: images})
    assert list(logits.shape) == [described.max_batch_size, *described.output[0].dims]


def test_what_people_read(run, copied, tmp_path):
    result = run("bundle", copied, "--triton", "--out", tmp_path / "models")
    assert result.exit_code == 0, result.stderr
    assert f"Serve it: tritonserver --model-repository={tmp_path / 'models'}" in result.stdout
    assert "batches of up to 8" in result.stdout


def test_tensorrt_on_the_gpu_is_set_up_as_this_package_does_it(run, copied, schema, config, tmp_path):
    result = run("bundle", copied, "--triton", "--target", "onnxruntime-tensorrt", "--out", tmp_path / "models")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "models" / NAME
    described = config(folder)
    check(schema, described, folder)
    assert [schema.ModelInstanceGroup.Kind.Name(group.kind) for group in described.instance_group] == ["KIND_GPU"]
    assert described.optimization.graph.level == 2, "none, in Triton's numbers"
    (accelerator,) = described.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    ours = tensorrt_options(folder / "1" / "model.onnx", tmp_path, None)
    shapes = {key: value for key, value in ours.items() if key.startswith("trt_profile_")}
    assert len(shapes) == 3
    assert dict(accelerator.parameters) == {"precision_mode": "INT8", **shapes}
    assert shapes["trt_profile_max_shapes"].startswith(f"image:{described.max_batch_size}x")


@pytest.mark.parametrize(("device", "target"), [("x86-cpu", "onnxruntime"), ("nvidia-gpu", "onnxruntime-tensorrt")])
def test_a_device_stands_for_its_first_target_that_triton_serves(run, copied, device, target):
    result = run("bundle", copied, "--triton", "--target", device, "--json")
    assert json.loads(result.stdout)["target"] == target


def test_a_repository_with_other_models(run, copied, tmp_path):
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    (models / "other" / "config.pbtxt").write_text("mine")
    for _ in range(2):
        assert run("bundle", copied, "--triton", "--out", models).exit_code == 0
    assert (models / "other" / "config.pbtxt").read_text() == "mine"
    assert sorted(path.name for path in models.iterdir()) == ["other", NAME]
    (models / NAME / "2").mkdir()
    (models / NAME / "2" / "model.onnx").write_text("mine")
    refused = run("bundle", copied, "--triton", "--out", models)
    assert refused.exit_code == 1
    assert "holds something that is no model of this command" in " ".join(refused.stderr.split())
    assert (models / NAME / "2" / "model.onnx").read_text() == "mine"
    assert sorted(path.name for path in models.iterdir()) == ["other", NAME]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "There is no --target: give a device or a target"),
        (("--triton", "--target", "tensorrt-int8"), 2, "--triton cannot serve tensorrt-int8, whose engine is built"),
        (("--triton", "--target", "jetson-xavier"), 2, "--triton cannot serve jetson-xavier"),
        (("--triton", "--target", "onnxrunt"), 2, "did you mean onnxruntime?"),
    ],
)
def test_what_cannot_be_served(run, finished, words, code, said):
    result = run("bundle", finished, *words)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.split())
    assert not (finished / "bundles").exists()


def test_a_run_that_failed_is_not_served(run, copied):
    report = json.loads((copied / "run.json").read_text())
    report |= {"status": "failed", "failures": [{"kind": "instruments-disturb", "target": "onnxruntime"}]}
    (copied / "run.json").write_text(json.dumps(report))
    result = run("bundle", copied, "--triton")
    assert result.exit_code == 1
    assert "failed its gate" in result.stderr
    assert not (copied / "bundles").exists()


def test_a_program_that_the_target_refuses(run, for_cpus, tmp_path):
    result = run("bundle", for_cpus, "--triton", "--target", "onnxruntime-tensorrt", "--out", tmp_path / "models")
    assert result.exit_code == 1
    assert "onnxruntime-tensorrt would refuse this program" in " ".join(result.stderr.split())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("uint8", [False, True])
def test_labels_and_pixels(frozen, schema, config, uint8, tmp_path):
    student, _ = frozen("resnet", "integer", 8, 8)
    program = freeze(student, Normalization((0.5,) * 3, (0.25,) * 3) if uint8 else None)
    names = ("tabby, tabby cat", 'the "best" dog', "naïve", "two\nlines", *"456789")
    profile = load_profile("onnxruntime")
    metadata = model_metadata(model_of(small_network("resnet"), SMALL_SHAPE, 10))
    artifact = export(program, profile, tmp_path, metadata)
    folder = tmp_path / "a-model"
    folder.mkdir()
    write_model(folder, "a-model", profile, artifact, names)
    described = config(folder)
    check(schema, described, folder)
    assert described.output[0].label_filename == "labels.txt"
    lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["tabby, tabby cat", 'the "best" dog', "naïve", "two lines", *"456789"]
    assert described.parameters["input"].string_value.startswith("uint8" if uint8 else "float32")
