"""Copying and running over a real sshd on this machine."""

import os
import socket
import sys
from pathlib import PurePosixPath

import pytest
import sshd
from intraq_deploy.targets.device import ssh
from intraq_deploy.targets.device.ssh import Remote, check_host, hashes, missing, quoted, send

from intraq_deploy.errors import TargetError, UsageError

PYTHON = sys.executable


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = sshd.make(tmp_path_factory)
    yield made
    made.stop()


@pytest.fixture
def device(server, monkeypatch):
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    return Remote("device")


@pytest.fixture
def source(tmp_path):
    """Files to send: a name with a space, one with quotes, a folder."""
    folder = tmp_path / "source"
    (folder / "a folder").mkdir(parents=True)
    (folder / "one").write_bytes(b"1" * 5000)
    (folder / "a folder" / "it's $HOME").write_bytes(os.urandom(3000))
    (folder / "empty").touch()
    return folder


def nothing(_):
    pass


def test_a_command_there(device):
    answer = device.run("cat; echo said >&2; exit 3", given=b"given", codes=(3,))
    assert (answer.code, answer.output, answer.said.strip()) == (3, b"given", "said")
    with pytest.raises(TargetError, match=r"device: oh no \(exit code 4\)\."):
        device.run("echo oh no. >&2; exit 4")


def test_files_arrive_once(device, source, tmp_path):
    there, files = tmp_path / "there with spaces", hashes(source)
    assert set(files) == {"one", "a folder/it's $HOME", "empty"}
    counts = []
    assert send(device, PYTHON, str(there), source, files, counts.append) == 8000
    assert counts[-1] == 8000
    assert hashes(there) == files
    assert send(device, PYTHON, str(there), source, files, counts.append) == 0
    (there / "one").write_bytes(b"2" * 5000)
    assert set(missing(device, PYTHON, str(there), files)) == {"one"}
    assert send(device, PYTHON, str(there), source, files, counts.append) == 5000
    assert hashes(there) == files


def test_a_cut_copy_goes_on(device, server, source, tmp_path):
    there = tmp_path / "there"
    big = source / "big"
    big.write_bytes(os.urandom(24 << 20))
    files = hashes(source)

    def cut(count):
        if count >= 8 << 20:
            server.cut()

    with pytest.raises(TargetError, match="device: the connection failed .*run it again, it goes on"):
        send(device, PYTHON, str(there), source, files, cut)
    assert not (there / "big").exists(), "nothing half-written under its own name"
    before = (there / "big.part").stat().st_size
    assert before > 0
    sent = send(device, PYTHON, str(there), source, files, nothing)
    assert sent <= sum((source / name).stat().st_size for name in files) - before
    assert hashes(there) == files


def test_a_part_that_is_another_file_is_not_kept(device, source, tmp_path):
    there, files = tmp_path / "there", hashes(source)
    there.mkdir()
    (there / "one.part").write_bytes(b"x" * 100)
    with pytest.raises(TargetError, match="one arrived otherwise than it was sent: run it again"):
        send(device, PYTHON, str(there), source, files, nothing)
    assert not (there / "one").exists()
    send(device, PYTHON, str(there), source, files, nothing)
    assert hashes(there) == files


def test_a_full_disk(device, source, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "one.part").symlink_to("/dev/full")
    with pytest.raises(TargetError, match="device: its disk is full: free some space, or give --dir"):
        send(device, PYTHON, str(there), source, {"one": hashes(source)["one"]}, nothing)
    assert not (there / "one").exists()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("stranger", r"its host key is not known, or has changed: run `ssh stranger` once"),
        ("locked", "it does not let you in without a password: run ssh-copy-id"),
        ("nosuchuser@device", "it does not let you in without a password"),
        ("no-such-host.invalid", "its name is unknown: look at the spelling"),
    ],
)
def test_hosts_that_do_not_let_in(device, host, words):
    with pytest.raises(TargetError, match=words):
        Remote(host).run("true")


def test_nothing_listens(device):
    with pytest.raises(TargetError, match="nothing listens there: start its ssh server, or give --port"):
        Remote("device", sshd.free_port()).run("true")


def test_a_host_that_hangs(device, monkeypatch):
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TargetError, match="it does not answer: is it on, and in this network"):
            Remote("device", silent.getsockname()[1]).run("true")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/x", "a b", "a\nb"])
def test_what_is_no_host(host):
    with pytest.raises(UsageError, match=r"give user@host, or a name from ~/\.ssh/config"):
        check_host(host)


def test_no_ssh(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="There is no ssh here"):
        Remote("device").run("true")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("~/x y", "~/'x y'"),
        ("~", "~"),
        ("/a/b", "/a/b"),
        (PurePosixPath("a b"), "'a b'"),
        ("a;rm -rf b", "'a;rm -rf b'"),
    ],
)
def test_paths_are_quoted(path, text):
    assert quoted(path) == text
