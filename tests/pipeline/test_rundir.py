"""Run directories: stages are kept, continued or cleared by their keys."""

import os
import time

import pytest

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline import cache as cache_module
from intraq_deploy.pipeline.cache import StageCache
from intraq_deploy.pipeline.directories import default_name
from intraq_deploy.pipeline.options import MixedOptions, ModelOptions, OwnRecipe, make_options
from intraq_deploy.pipeline.rundir import CONFIG, RunDirectory, key_of

JETSON = ("tensorrt-int8",)


@pytest.fixture
def directory(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.opened():
        run.write(CONFIG, "{}")
        yield run


def test_a_finished_stage_is_kept_and_an_unfinished_one_continues(directory):
    stage = directory.stage("work", "key")
    assert not directory.finished("work", "key")
    with pytest.raises(KeyboardInterrupt), directory.running(stage) as note:
        (stage.folder / "part").write_text("1")
        time.sleep(0.01)  # seconds are kept to a thousandth
        note()
        raise KeyboardInterrupt
    again = directory.stage("work", "key")
    assert not directory.finished("work", "key")
    assert (again.folder / "part").exists()
    assert 0 < again.seconds < 5
    with directory.running(again):
        pass
    assert directory.finished("work", "key")
    assert sorted(file.name for file in again.folder.iterdir()) == ["part", "stage.json"]


def test_another_key_clears_the_stage(directory):
    stage = directory.stage("work", "key")
    with directory.running(stage):
        (stage.folder / "part").write_text("1")
    assert list(directory.stage("work", "other").folder.iterdir()) == []


def test_asking_changes_nothing(directory):
    assert not directory.finished("work", "key")
    assert not (directory.path / "work").exists()
    with directory.running(directory.stage("work", "key")):
        assert not directory.finished("work", "key")
    assert directory.finished("work", "key")
    assert not directory.finished("work", "other")
    assert directory.finished("work", "key"), "asking for another key has cleared nothing"


def test_time_adds_up_over_sessions(directory):
    stage = directory.stage("work", "key")
    write_atomically(stage.folder / "unfinished.json", '{"key": "key", "seconds": 100}')
    stage = directory.stage("work", "key")
    with directory.running(stage):
        time.sleep(0.01)
    assert 100 < directory.stage("work", "key").seconds < 101


def test_keys_depend_on_every_input():
    keys = {key_of(a=1, b="x"), key_of(a=2, b="x"), key_of(a=1, b="y"), key_of(a=1)}
    assert len(keys) == 4
    assert key_of(a=1, b="x") == key_of(b="x", a=1)


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="holds other files \\(thesis.tex\\).*--out"), RunDirectory(tmp_path).opened():
        pass


def test_what_a_killed_process_left_is_no_reason_to_refuse(tmp_path):
    (tmp_path / ".config.json.abcd").write_text("")
    with RunDirectory(tmp_path).opened():
        pass


def test_a_directory_is_for_one_process_at_a_time(directory):
    second = RunDirectory(directory.path)
    with pytest.raises(RunError, match="Another intraq-deploy works in .*: wait for it"), second.opened():
        pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    run = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="cannot be written.*--out"), run.opened():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"), RunDirectory(tmp_path).opened():
        pass


def test_nothing_is_made_before_opening(tmp_path):
    RunDirectory(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "options", "name"),
    [
        ("builtin:resnet20-cifar10", {}, "resnet20-cifar10-w4a8"),
        ("models/net.v2.pth", {"method": "ptq"}, "net.v2-w4a8-ptq"),
        (
            "net.onnx",
            {"targets": JETSON, "made_for": JETSON, "preset": "best"},
            "net-w4a8-best-tensorrt-int8",
        ),
        ("net.safetensors", {"scheme": "paper", "seed": 2}, "net-w4a8-paper-seed2"),
        ("n.pt", {"mixed": MixedOptions(average_bits=5), "depthwise_bits": 8}, "n-average-bits5-depthwise8a8"),
        ("n.pt", {"recipe": OwnRecipe(name="a/mine.toml", values={})}, "n-w4a8-mine"),
    ],
)
def test_default_names(source, options, name):
    assert default_name(make_options(ModelOptions(source=source), activation_bits=8, **options)) == name


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path):
    """Above its limit; what was used again stays, and so do the files of the run."""
    cache, stage = StageCache(tmp_path / "cache", limit=400), tmp_path / "stage"
    stage.mkdir()
    (stage / "data").write_bytes(bytes(100))
    for number, name in enumerate(("first", "second")):
        cache.keep(name, "key", stage)
        os.utime(tmp_path / "cache" / f"{name}-key", (number, number))
    found = cache.find("first", "key")
    assert found is not None
    assert (found / "data").samefile(stage / "data")
    cache.keep("third", "key", stage)
    assert [cache.holds(name, "key") for name in ("first", "second", "third")] == [True, False, True]
    assert (stage / "data").read_bytes() == bytes(100)


def test_a_full_disk_costs_the_cache_alone(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "stage").mkdir()
    cache = StageCache(tmp_path / "cache")
    monkeypatch.setattr(cache_module, "write_atomically", full)
    cache.keep("name", "key", tmp_path / "stage")
    assert not cache.holds("name", "key")
    assert cache.find("name", "key") is None


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
