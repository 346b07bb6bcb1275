"""Reading checkpoint files: every format, every wrapper, every kind of damage."""

import argparse
import hashlib
import json
import os
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from intraq_deploy.errors import CheckpointError
from intraq_deploy.models.checkpoint import read_checkpoint


def refusal(path: Path, **options: object) -> str:
    """The message that reading `path` gives, on one line."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Pickled(nn.Linear):
    """A whole network in a pickle; at module level, as pickles need."""


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/must-not-exist",)


# --- formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_torch_save(tmp_path, tiny, zipped):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_dict(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert equal(checkpoint.tensors, tiny.state_dict())
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.module is None


def test_safetensors_whatever_the_suffix(tmp_path, tiny):
    path = tmp_path / "weights.bin"
    save_file(tiny.state_dict(), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == tiny.state_dict().keys()
    assert torch.equal(checkpoint.tensors["conv.weight"], tiny.conv.weight)


def test_an_index_of_safetensors(tmp_path, tiny):
    state, index = tiny.state_dict(), tmp_path / "model.safetensors.index.json"
    names = {name: f"model-{1 + number % 2:05}-of-00002.safetensors" for number, name in enumerate(state)}
    for shard in set(names.values()):
        save_file({name: tensor for name, tensor in state.items() if names[name] == shard}, tmp_path / shard)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    checkpoint = read_checkpoint(index)
    assert equal(checkpoint.tensors, state)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "names 2 files, of which 1 are not beside it (the first: model-00002" in refusal(index)
    index.write_text(json.dumps({"weight_map": {"conv.weight": "../weights.safetensors"}}))
    assert "of which 1 are not beside it (the first: ../weights" in refusal(index)
    for text in ("{}", "[1]", "{", '{"weight_map": 3}'):
        index.write_text(text)
        assert "is no index of safetensors files" in refusal(index)


@pytest.mark.filterwarnings("ignore:No complete tensor")
def test_exported_program(tmp_path, tiny):
    path = tmp_path / "network.pt2"
    tiny.fc.weight = nn.Parameter(tiny.fc.weight.detach().t().contiguous().t())  # strides are kept
    torch.export.save(torch.export.export(tiny, (torch.zeros(2, 3, 8, 8),)), path)
    checkpoint = read_checkpoint(path)
    assert equal(checkpoint.tensors, dict(tiny.state_dict()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_floats_become_float32(tmp_path, dtype):
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.tensor([[0.5, -2.0]], dtype=dtype)}, path)
    tensor = read_checkpoint(path).tensors["fc.weight"]
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[0.5, -2.0]]


# --- wrappers and prefixes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "net", "module"])
def test_wrapped(tmp_path, tiny, name):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, name: tiny.state_dict(), "optimizer": {"lr": 0.1}}, path)
    assert equal(read_checkpoint(path).tensors, tiny.state_dict())


def test_wrapped_twice(tmp_path, tiny):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"state_dict": tiny.state_dict()}}, path)
    assert equal(read_checkpoint(path).tensors, tiny.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes(tmp_path, tiny, prefix):
    path = tmp_path / "checkpoint.pth"
    torch.save({prefix + key: value for key, value in tiny.state_dict().items()}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == tiny.state_dict().keys()
    assert all(key.startswith(prefix) for key in checkpoint.original)


def test_a_prefix_that_some_names_have_stays(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model.weight": torch.ones(2), "head.weight": torch.ones(2)}, path)
    assert set(read_checkpoint(path).tensors) == {"model.weight", "head.weight"}


def test_published_densenet_names(tmp_path):
    path = tmp_path / "densenet.pth"
    torch.save({"features.denseblock1.denselayer2.norm.1.weight": torch.ones(2)}, path)
    assert set(read_checkpoint(path).tensors) == {"features.denseblock1.denselayer2.norm1.weight"}


@pytest.mark.parametrize("ema", ["ema", "model_ema", "state_dict_ema"])
def test_averaged_weights_beside_others_are_asked_for(tmp_path, tiny, ema):
    path = tmp_path / "checkpoint.pth"
    averaged = {key: torch.zeros_like(value) for key, value in tiny.state_dict().items()}
    torch.save({ema: averaged, "model": tiny.state_dict(), "criterion": {"weight": torch.ones(3)}}, path)
    words = f"holds weights in 'model' and in {ema!r} (averaged ones); choose with --weights model or --weights {ema}."
    assert words in refusal(path)
    assert equal(read_checkpoint(path, weights="model").tensors, tiny.state_dict())
    assert equal(read_checkpoint(path, weights=ema).tensors, averaged)


@pytest.mark.parametrize("name", ["model_ema", "params_ema"])
def test_averaged_weights_alone_are_taken_and_named(tmp_path, tiny, name, caplog):
    path = tmp_path / "checkpoint.pth"
    torch.save({name: tiny.state_dict(), "epoch": 1}, path)
    assert equal(read_checkpoint(path).tensors, tiny.state_dict())
    assert f"holds only averaged weights ({name!r})" in caplog.text


@pytest.mark.parametrize("name", ["net_state_dict", "model_state", "weights", "G"])
def test_any_one_key_that_holds_weights(tmp_path, tiny, name):
    """An optimizer's state is none, nor are a scheduler's, a metric's or a list of losses."""
    path = tmp_path / "checkpoint.pth"
    optimizer = torch.optim.Adam(tiny.parameters())
    tiny(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    others = {
        "optimizer": optimizer.state_dict(),
        "scheduler": {"base_lrs": [0.1], "last_epoch": 3},
        "metrics": {"confusion": torch.zeros(3, 3, dtype=torch.int64), "losses": torch.ones(4)},
        "rng": {"torch": torch.get_rng_state()},
        "epoch": torch.tensor(3),
    }
    torch.save({name: tiny.state_dict(), **others}, path)
    assert equal(read_checkpoint(path).tensors, tiny.state_dict())


def test_two_state_dicts_are_asked_for(tmp_path, tiny):
    path = tmp_path / "checkpoint.pth"
    other = {key: torch.ones_like(value) for key, value in tiny.state_dict().items()}
    torch.save({"student": tiny.state_dict(), "teacher": other}, path)
    assert "in 'student' and in 'teacher'; choose with --weights student or --weights teacher." in refusal(path)
    assert equal(read_checkpoint(path, weights="teacher").tensors, other)
    assert "no weights of the key or prefix 'ema', which --weights names" in refusal(path, weights="ema")


def test_a_prefix_can_be_chosen(tmp_path, tiny):
    path = tmp_path / "checkpoint.pth"
    state = tiny.state_dict()
    torch.save({**{f"net.{key}": value for key, value in state.items()}, "head.weight": torch.ones(2)}, path)
    assert equal(read_checkpoint(path, weights="net").tensors, state)


def test_averaged_models_count_how_often(tmp_path, tiny):
    path = tmp_path / "checkpoint.pth"
    torch.save(torch.optim.swa_utils.AveragedModel(tiny).state_dict(), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == tiny.state_dict().keys() | {"n_averaged"}


def test_counters_of_profilers_are_left_out(tmp_path, tiny):
    path = tmp_path / "checkpoint.pth"
    counted = {"total_ops": torch.zeros(1), "conv.total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1)}
    torch.save(tiny.state_dict() | counted, path)
    assert equal(read_checkpoint(path).tensors, tiny.state_dict())


# --- files that are no checkpoint ----------------------------------------------------------------------


def test_missing(tmp_path):
    message = refusal(tmp_path / "resnet18.pth")
    assert "does not exist" in message
    assert "torchvision:resnet18" in message


def test_directory(tmp_path):
    (tmp_path / "model.safetensors").touch()
    message = refusal(tmp_path)
    assert "is a directory; it contains model.safetensors; give the checkpoint file" in message


def test_empty(tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()
    assert "is empty (0 bytes); copy or save it again" in refusal(path)


def test_random_bytes(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(np.random.default_rng(1).bytes(5000))
    message = refusal(path)
    assert f"begins with the bytes {path.read_bytes()[:8].hex(' ')}" in message
    assert "torch.save, safetensors, torch.export or torch.onnx.export" in message


@pytest.mark.parametrize(
    ("text", "beginning"),
    [("epochs: 30\nlr: 0.1\n", "'epochs: 30'"), ("é" * 99, repr("é" * 32)), ("xé" * 99, repr("xé" * 20))],
)
def test_a_text_is_shown_as_one(tmp_path, text, beginning):
    """Also where its beginning ends within a character."""
    path = tmp_path / "weights.pth"
    path.write_text(text)
    assert f"it is a text file, which begins with {beginning}; give a file" in refusal(path)


def test_jpeg(tmp_path):
    path = tmp_path / "weights.pth"
    Image.new("RGB", (8, 8)).save(path, "JPEG")
    assert "is a JPEG image; give a file written by" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>" + bytes(99), "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (b"\x1c\0\0\0TFL3" + bytes(99), "a TensorFlow Lite model"),
    ],
    ids=["web-page", "lfs-pointer", "keras", "tflite"],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert words in refusal(path)


def test_zip_of_something_else(tmp_path):
    path = tmp_path / "weights.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive, but no checkpoint (it holds readme.txt)" in refusal(path)


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path, tiny):
    path = tmp_path / "network.pt"
    torch.jit.trace(tiny, torch.zeros(1, 3, 8, 8)).save(str(path))
    message = refusal(path)
    assert "TorchScript" in message
    assert "torch.jit.load(file).state_dict()" in message


# --- damage --------------------------------------------------------------------------------------------


def _write(kind: str, path: Path, network: nn.Module) -> None:
    if kind == "safetensors":
        save_file(network.state_dict(), path)
    elif kind == "exported":
        torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 8, 8),)), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "before-1.6", "safetensors", "exported"])
def test_truncated_anywhere(tmp_path, tiny, kind):
    suffix = {"safetensors": ".safetensors", "exported": ".pt2"}.get(kind, ".pth")
    whole = tmp_path / f"whole{suffix}"
    _write(kind, whole, tiny)
    content = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    for share in (0.002, 0.02, 0.2, 0.5, 0.9, 0.999):
        path.write_bytes(content[: max(4, int(share * len(content)))])
        message = refusal(path)
        assert re.search("cut off|damaged|begins with the bytes", message), message
        assert re.search("copy or save it again|with torch.save|give a file", message), message


@pytest.mark.parametrize("kind", ["zip", "before-1.6"])
def test_flipped_bytes_never_escape(tmp_path, tiny, kind):
    """Whatever is damaged, the answer is a state_dict or one sentence."""
    whole = tmp_path / "whole.pth"
    _write(kind, whole, tiny)
    content = whole.read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "flipped.pth"
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in generator.integers(0, 700, 3):
            damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 30


# --- pickles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_a_pickle_that_needs_more_is_refused_by_name(tmp_path, tiny, zipped):
    path = tmp_path / "checkpoint.pth"
    content = {"model": tiny.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "it needs argparse.Namespace" in message
    assert "--arch" in message
    assert "--trust-pickle" in message
    assert equal(read_checkpoint(path, trust_pickle=True).tensors, tiny.state_dict())


def test_a_pickle_never_runs_without_trust(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": Malicious()}, path)
    assert re.search(r"it needs (posix|nt|os)\.system", refusal(path))
    assert not Path("/tmp/must-not-exist").exists()


WRAPPINGS = [lambda network: network, nn.DataParallel, lambda network: {"model": network}]


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=["bare", "parallel", "dict"])
def test_a_whole_module(tmp_path, wrap):
    path = tmp_path / "network.pth"
    network = Pickled(2, 3)
    torch.save(wrap(network), path)
    assert "Pickled" in refusal(path)
    checkpoint = read_checkpoint(path, trust_pickle=True)
    assert type(checkpoint.module) is Pickled
    assert torch.equal(checkpoint.tensors["weight"], network.weight)


def test_a_pickle_whose_code_is_gone(tmp_path, monkeypatch):
    path = tmp_path / "network.pth"
    torch.save(Pickled(2, 3), path)
    monkeypatch.delattr(f"{__name__}.Pickled")
    assert re.search("cannot be unpickled.*Pickled.*make the code.*importable", refusal(path, trust_pickle=True))


# --- contents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "an empty dictionary"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors where a state_dict is looked for (its keys: 'epoch', "),
        ({"weights": {"conv": torch.ones(1)}}, "(its keys: 'weights')"),
        ([torch.ones(2)], "holds a list, not a state_dict"),
        (torch.ones(2), "holds a Tensor, not a state_dict"),
    ],
    ids=["empty", "no-tensors", "no-weights", "list", "tensor"],
)
def test_no_state_dict(tmp_path, content, words):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    message = refusal(path)
    assert words in message
    assert "save model.state_dict()" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(tmp_path, tiny, value):
    path = tmp_path / "checkpoint.pth"
    with torch.no_grad():
        tiny.bn.bias[2:5] = value
        tiny.fc.bias[0] = value
    torch.save(tiny.state_dict(), path)
    assert "3 of 8 values of bn.bias are NaN or infinite; give a checkpoint from before" in refusal(path)


def test_too_large_for_float32(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"fc.weight": torch.tensor([1e300], dtype=torch.float64)}, path)
    assert "1 of 1 values of fc.weight are NaN or infinite" in refusal(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex (torch.complex64)"),
        (torch.ones(2, 2).to_sparse(), "sparse (torch.sparse_coo)"),
        (torch.ones(2).to(torch.float8_e4m3fn), "torch.float8_e4m3fn, which needs scales"),
        (torch.ones(2, device="meta"), "on the meta device"),
    ],
    ids=["complex", "sparse", "float8", "meta"],
)
def test_strange_tensors(tmp_path, tensor, words):
    path = tmp_path / "checkpoint.pth"
    torch.save(OrderedDict(weight=tensor), path)
    message = refusal(path)
    assert f"the tensor weight is {words}" in message
    assert "give the weights of the float network" in message


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensor(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"weight": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, path)
    assert "the tensor weight is quantized (torch.qint8)" in refusal(path)
