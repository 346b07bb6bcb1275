"""Run directories that are used again: nothing stale is kept, nothing damaged is trusted, nothing is silently lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from support import NETWORK, TINY, small_network

from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.rundir import RunDirectory

WRONG = {"kind": "instruments-disturb"}
VARIANT = """
import torch
from support import SmallResNet

print("a line on standard output")

class Clipped(SmallResNet):
    def forward(self, x):
        x = self.maxpool(torch.clamp(self.bn1(self.conv1(x)), -0.5, 0.5))
        return self.fc(self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))
"""


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def again(run, checkpoint, directory):
    """The command that made the run, with further options."""
    return lambda *options: run("quantize", checkpoint, *NETWORK, *TINY, "--out", directory, *options)


def report_of(directory):
    return json.loads((directory / "run.json").read_text())


def test_another_network_around_the_same_tensors_is_another_network(run, checkpoint, directory, tmp_path):
    (tmp_path / "variant.py").write_text(VARIANT)
    arch = ["--arch", f"{tmp_path / 'variant.py'}:Clipped", *NETWORK[2:]]
    command = ["quantize", checkpoint, *arch, *TINY, "--out", directory, "--json"]
    before = report_of(directory)
    result = run(*command)
    assert result.exit_code == 1
    assert "holds a run with other options (arch " in result.stderr
    assert report_of(directory) == before
    result = run(*command, "--overwrite")
    assert result.exit_code == 0, result.output
    assert "kept from before" not in result.stderr
    assert "a line on standard output" in result.stderr
    assert json.loads(result.stdout) == report_of(directory)
    nodes = json.loads((directory / "program" / "program.json").read_text())["graph"]["nodes"]
    assert "-0.5" in json.dumps(nodes)


def test_another_mean_is_another_program_for_pixels(again, directory):
    def shift():
        return json.loads((directory / "program" / "program.json").read_text())["normalization"]["shift"]

    assert again("--input", "uint8", "--overwrite").exit_code == 0
    before = shift()
    result = again("--input", "uint8", "--mean", "0.1,0.2,0.3", "--overwrite")
    assert result.exit_code == 0
    assert "synthesis: done" in result.stderr, "bounds of pixels, and the sheet, are others"
    assert shift() == pytest.approx([25.5, 51, 76.5])
    assert shift() != before


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("targets/onnxruntime/model.onnx", "targets/onnxruntime"),
        ("targets/onnxruntime/manifest.json", "targets/onnxruntime"),
        ("fine-tuning/student.safetensors", "fine-tuning"),
        ("program/program.json", "program"),
        ("synthesis/batch-0000.safetensors", "synthesis"),
        ("synthesis/quality.json", "synthesis"),
        ("validation/run.json", "validation"),
    ],
)
@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_a_damaged_stage_is_made_again(again, finished, directory, file, stage, damage):
    if damage == "gone":
        (directory / file).unlink()
    else:
        (directory / file).write_text("[]")
    result = again()
    assert result.exit_code == 0, result.output
    assert f"{stage} is made again" in result.stderr
    whole, mended = report_of(finished), report_of(directory)
    assert mended["artifacts"] == whole["artifacts"]
    assert mended["parity"] == whole["parity"]


def test_checking_one_target_leaves_what_was_found_of_others(run, directory):
    found = {"status": "failed", "failures": [{"target": "tensorrt-int8"} | WRONG, {"target": "onnxruntime"} | WRONG]}
    (directory / "run.json").write_text(json.dumps(report_of(directory) | found))
    result = run("validate", directory, "--target", "onnxruntime")
    assert result.exit_code == 3
    report = report_of(directory)
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    assert (report["status"], report["failures"]) == ("failed", [{"target": "tensorrt-int8"} | WRONG])
    assert run("bundle", directory, "--target", "onnxruntime").exit_code == 1


def test_export_mends_what_validate_misses(run, directory):
    (directory / "targets" / "onnxruntime" / "model.onnx").unlink()
    refused = run("validate", directory)
    assert refused.exit_code == 1
    assert "model.onnx is missing: run export again" in refused.stderr
    assert run("export", directory).exit_code == 0
    assert run("validate", directory).exit_code == 0


def test_what_other_commands_added_stays_with_its_program_and_goes_with_it(run, again, directory):
    assert run("export", directory, "--target", "onnxruntime-arm64").exit_code == 0
    assert run("validate", directory, "--target", "onnxruntime-arm64").exit_code == 0
    assert run("bundle", directory, "--target", "onnxruntime").exit_code == 0
    (directory / "notes.txt").write_text("mine")
    before = report_of(directory)
    result = again()
    assert result.exit_code == 0, result.output
    assert {each.name for each in (directory / "targets").iterdir()} == {"onnxruntime", "onnxruntime-arm64"}
    assert (directory / "bundles" / "onnxruntime.tar.gz").is_file()
    assert (directory / "notes.txt").read_text() == "mine"
    after = report_of(directory)
    assert after["artifacts"] == before["artifacts"]
    assert after["parity"] == before["parity"]
    result = again("--target", "tensorrt8-int8", "--bits", "8", "--overwrite")
    assert result.exit_code == 0, result.output
    assert {each.name for each in (directory / "targets").iterdir()} == {"tensorrt8-int8"}
    assert not (directory / "bundles").exists()


def test_labelled_images_of_before_still_measure(again, directory, labelled, tmp_path):
    labelled = shutil.copy(labelled, tmp_path / "images.npz")
    assert again("--eval", labelled).exit_code == 0
    before = report_of(directory)
    assert before["accuracy"]["images"] == 40
    result = again()
    assert f"Accuracy is measured on {labelled}, as before." in result.stderr
    assert report_of(directory) == before
    labelled.unlink()
    result = again()
    assert result.exit_code == 0
    assert f"{labelled} is not there any more: give --eval" in result.stderr


def test_a_run_with_other_options_is_not_replaced_without_a_word(again, directory):
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    result = again("--bits", "8")
    assert result.exit_code == 1
    sentence = "holds a run with other options (weight bits 4, activation bits 4): give another directory with --out"
    assert sentence in result.stderr
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before
    assert again("--bits", "8", "--overwrite").exit_code == 0
    assert report_of(directory)["bits"]["weights"] == 8
    assert not (directory / "unfinished").exists()


def test_the_run_of_another_network_is_not_erased(run, directory, tmp_path):
    torch.save(small_network("resnet", seed=1).state_dict(), tmp_path / "other.pth")
    before = report_of(directory)
    result = run("quantize", tmp_path / "other.pth", *NETWORK, *TINY, "--out", directory)
    assert result.exit_code == 1
    assert "holds a run of another network" in result.stderr
    assert report_of(directory) == before


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_finished_run_stays_whole_until_its_successor_is(run, again, directory, monkeypatch):
    before = report_of(directory)
    with monkeypatch.context() as patched:
        patched.setattr(stages, "fine_tune", interrupted)
        assert again("--bits", "8", "--overwrite").exit_code == 130
    assert report_of(directory) == before
    assert run("export", directory).exit_code == 0
    assert run("validate", directory).exit_code == 0
    result = again("--bits", "8", "--overwrite")
    assert result.exit_code == 0
    assert "synthesis: kept from before" in result.stderr
    assert report_of(directory)["bits"]["weights"] == 8


def test_what_an_interrupted_run_left_is_not_mixed_into_another(again, directory, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(stages, "fine_tune", interrupted)
        assert again("--bits", "8", "--overwrite", "--average-bits", "6").exit_code == 130
    assert (directory / "unfinished" / "mixed-precision").is_dir()
    before = {each.name for each in directory.iterdir()} - {"unfinished"}
    assert again().exit_code == 0
    assert {each.name for each in directory.iterdir()} == before


@pytest.mark.parametrize("moved", [0, 1, 5, 8, 9, 12, 15])
def test_a_process_killed_while_a_run_takes_its_place(run, again, directory, monkeypatch, moved):
    """After so many of the renames with which it does: the next command ends it, whichever that is."""
    rename, done = Path.rename, []

    def killed(self, target):
        if self.parent in (directory, directory / "unfinished") and (directory / "unfinished" / "run.json").exists():
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(self.name)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        code = again("--weight-bits", "3", "--overwrite").exit_code
    assert code == 130
    result = run("validate", directory)
    assert result.exit_code == 0, result.output
    assert report_of(directory)["bits"]["weights"] == 3
    assert not {".going", ".old", "unfinished"} & {each.name for each in directory.iterdir()}


def test_runs_have_directories_of_their_own(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRAQ_DEPLOY_CACHE", str(tmp_path / "cache"))
    first = run("quantize", checkpoint, *NETWORK, *TINY)
    assert first.exit_code == 0, first.output
    assert run("quantize", checkpoint, *NETWORK, *TINY).exit_code == 0
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["small-w4a4"]
    budget = ["--images", "8", "--iterations", "3"]
    second = run("quantize", checkpoint, *NETWORK, *budget, "--steps", "1")
    assert "synthesis: kept from before" in second.stderr, "from the cache"
    assert "fine-tuning: done" in second.stderr
    assert run("synthesize", checkpoint, *NETWORK, *budget).exit_code == 0
    torch.save(small_network("resnet", seed=1).state_dict(), tmp_path / "small.pth")
    assert run("quantize", tmp_path / "small.pth", *NETWORK, *TINY).exit_code == 0
    names = sorted(each.name for each in (tmp_path / "runs").iterdir())
    assert names == ["small-images", "small-w4a4", "small-w4a4-2", "small-w4a4-3"]
    again = run("quantize", checkpoint, *NETWORK, *budget, "--steps", "1")
    assert "8 images in runs/small-w4a4-2/synthesis" in again.stdout


def test_clean_empties_the_cache_and_leaves_runs(run, again, directory, tmp_path, monkeypatch):
    assert run("clean").exit_code == 2
    monkeypatch.setenv("INTRAQ_DEPLOY_CACHE", str(tmp_path / "cache"))
    assert again("--bits", "8", "--overwrite").exit_code == 0
    assert "would be removed from" in run("clean", "--dry-run").stdout
    kept = json.loads(run("clean", "--older-than", "1", "--json").stdout)
    assert (kept["removed"], kept["kept"]) == (0, 2), (
        "the images were there before: what is made is kept, fitted and trained"
    )
    assert run("clean", "--older-than", "-1").exit_code == 2
    result = run("clean")
    assert "2 stages (" in result.stdout
    assert list((tmp_path / "cache").iterdir()) == []
    assert run("validate", directory).exit_code == 0


def test_a_damaged_entry_of_the_cache_is_made_again(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAQ_DEPLOY_CACHE", str(tmp_path / "cache"))
    assert run("quantize", checkpoint, *NETWORK, *TINY, "--out", tmp_path / "one").exit_code == 0
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    result = run("quantize", checkpoint, *NETWORK, *TINY, "--out", tmp_path / "two")
    assert result.exit_code == 0
    assert "kept from before" not in result.stderr


def test_a_directory_in_use_is_left_alone(again, directory):
    with RunDirectory(directory).opened():
        result = again()
    assert result.exit_code == 1
    assert "Another intraq-deploy works in" in result.stderr


def test_a_run_made_with_relative_paths_can_be_validated_from_elsewhere(run, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(checkpoint, tmp_path / "home" / "net.pth")
    shutil.copy(support.__file__, tmp_path / "home" / "network.py")
    rng = np.random.default_rng(0)
    images = {"images": rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), "labels": rng.integers(0, 10, 8)}
    np.savez(tmp_path / "home" / "images.npz", **images)
    monkeypatch.chdir(tmp_path / "home")
    arch = ["--arch", "network.py:SmallResNet", *NETWORK[2:]]
    result = run("quantize", "net.pth", *arch, *TINY, "--eval", "images.npz", "--out", "run")
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = run("validate", "../home/run")
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path / "home" / "run")
    assert report["accuracy"]["images"] == 8
    assert report["eval"].endswith("images.npz")
    torch.save(small_network("resnet", seed=1).state_dict(), tmp_path / "home" / "net.pth")
    result = run("validate", "../home/run")
    assert result.exit_code == 1
    assert "net.pth is not the network that ../home/run was made from" in result.stderr


def test_consent_to_run_code_is_not_kept(again, directory):
    assert again("--trust-pickle").exit_code == 0
    assert "trust_pickle" not in (directory / "config.json").read_text()
