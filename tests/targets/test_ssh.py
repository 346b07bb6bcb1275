"""Copying and running over a real sshd on this machine."""

import os
import socket
import sys
from pathlib import PurePosixPath

import pytest
import sshd

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.targets.device import ssh
from intraq_deploy.targets.device.ssh import Remote, check_host, hashes, missing, quoted, send

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
    with pytest.raises(TargetError, match=r"there with spaces holds one, which is of no bundle: give --dir"):
        missing(device, PYTHON, str(there), source, files)
    (there / "manifest.json").write_text('{"format": 1, "models": []}')
    assert missing(device, PYTHON, str(there), source, files) == {"one": 0}
    assert send(device, PYTHON, str(there), source, files, counts.append) == 5000
    (there / "manifest.json").unlink()
    assert hashes(there) == files


@pytest.mark.parametrize("name", ["README.md", "one", "sub/deep.txt", "cache/x"])
def test_other_peoples_files_are_left_alone(device, source, tmp_path, name):
    there = tmp_path / "project"
    (there / name).parent.mkdir(parents=True)
    (there / name).write_text("mine")
    with pytest.raises(TargetError, match=rf"project holds {name}, which is of no bundle"):
        send(device, PYTHON, str(there), source, hashes(source), nothing)
    assert hashes(there).keys() == {name}
    assert (there / name).read_text() == "mine"


def test_what_is_there_stays_until_all_has_arrived(device, server, source, tmp_path):
    there, files = tmp_path / "there", hashes(source)
    (source / "manifest.json").write_text('{"format": 1, "models": []}')
    send(device, PYTHON, str(there), source, hashes(source), nothing)
    before = hashes(there)
    for name in files:
        (source / name).write_bytes(os.urandom(2000))
    (source / "one").write_bytes(os.urandom(24 << 20))

    def cut(count):
        if count >= 8 << 20:
            server.cut()

    with pytest.raises(TargetError, match="the connection failed"):
        send(device, PYTHON, str(there), source, hashes(source), cut)
    left = hashes(there)
    assert any(name.endswith(".part") for name in left)
    assert {name: sha256 for name, sha256 in left.items() if not name.endswith(".part")} == before
    send(device, PYTHON, str(there), source, hashes(source), nothing)
    assert hashes(there) == hashes(source)


def test_a_cut_copy_goes_on(device, server, source, tmp_path):
    there = tmp_path / "there"
    big = source / "big"
    big.write_bytes(os.urandom(24 << 20))
    files = hashes(source)

    def cut(count):
        if count >= 8 << 20:
            server.cut()

    with pytest.raises(TargetError, match="device: the connection failed, .*run it again, it goes on"):
        send(device, PYTHON, str(there), source, files, cut)
    assert not (there / "big").exists(), "nothing half-written under its own name"
    before = (there / "big.part").stat().st_size
    assert before > 0
    sent = send(device, PYTHON, str(there), source, files, nothing)
    assert sent <= sum((source / name).stat().st_size for name in files) - before
    assert hashes(there) == files


def test_a_part_of_another_file_is_sent_anew(device, source, tmp_path):
    there, files = tmp_path / "there", hashes(source)
    there.mkdir()
    (there / "one.part").write_bytes(b"x" * 100)
    (there / "empty.part").write_bytes(b"x")
    assert send(device, PYTHON, str(there), source, files, nothing) == 8000
    assert hashes(there) == files


def test_a_part_goes_on_where_it_ends(device, source, tmp_path):
    there, files = tmp_path / "there", hashes(source)
    there.mkdir()
    (there / "one.part").write_bytes(b"1" * 100)
    (there / "empty.part").touch()
    assert send(device, PYTHON, str(there), source, files, nothing) == 7900
    assert hashes(there) == files


def test_two_that_ship_into_one_folder(device, source, tmp_path, monkeypatch):
    """The first to end takes what both wrote."""
    place = ssh._run

    def late(remote, python, folder, script, given):
        if script is ssh._PLACE:
            place(remote, python, folder, script, given)
        return place(remote, python, folder, script, given)

    monkeypatch.setattr(ssh, "_run", late)
    with pytest.raises(TargetError, match="another command ships into the same folder: run it again"):
        send(device, PYTHON, str(tmp_path / "there"), source, hashes(source), nothing)


def test_what_arrives_otherwise_is_not_kept(device, source, tmp_path):
    there, files = tmp_path / "there", hashes(source)
    with pytest.raises(TargetError, match="one arrived otherwise than it was sent: run it again"):
        send(device, PYTHON, str(there), source, files | {"one": "0" * 64}, nothing)
    assert all(name.endswith(".part") for name in hashes(there))


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
        ("stranger", "stranger: its host key is not known: run `ssh stranger` once, and compare it"),
        ("changed", "changed: its host key has changed: find out why before you go on"),
        ("locked", "it does not let you in without a password: run ssh-copy-id"),
        ("nosuchuser@device", "it does not let you in without a password"),
        ("no-such-host.invalid", "its name is unknown: look at the spelling"),
    ],
)
def test_hosts_that_do_not_let_in(device, host, words):
    with pytest.raises(TargetError, match=words):
        Remote(host).run("true")


def test_what_a_command_says_is_not_taken_for_sshs(device, tmp_path):
    with pytest.raises(
        TargetError, match=r"device: you may not write there \(mkdir: .*Permission denied\): give --dir"
    ):
        device.run("echo 'mkdir: cannot create directory: Permission denied' >&2; exit 1")
    with pytest.raises(TargetError, match=r"device: TimeoutError: timed out \(exit code 1\)\."):
        device.run("echo TimeoutError: timed out >&2; exit 1")
    for killed in ("exit 137", "kill -9 $$"):
        with pytest.raises(
            TargetError, match=r"device: the connection failed, or the command was killed .*: run it again"
        ):
            device.run(killed)


def test_the_port_is_in_the_remedy(device, server):
    words = f"run `ssh -p {server.port} stranger` once"
    with pytest.raises(TargetError, match=words):
        Remote("stranger", server.port).run("true")


def test_nothing_listens(device):
    with pytest.raises(TargetError, match="nothing listens there: start its ssh server, or give --port"):
        Remote("device", sshd.free_port()).run("true")


def test_a_host_that_hangs(device, monkeypatch):
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TargetError, match=r"it does not answer: see that it is on, and in reach\.$"):
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
