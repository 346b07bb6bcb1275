"""A real sshd on this machine, with keys and a port of its own, and an ssh that knows it from its configuration."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Known to ssh as "device" and "also"; "stranger" is the same host with a key that nobody has confirmed, "changed"
    one whose key was another, "locked" one that this user may not enter."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        for name in ("host", "user", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {key}\n")
        other = " ".join((folder / "other.pub").read_text().split()[:2])
        (folder / "before").write_text(f"[127.0.0.1]:{self.port} {other}\n")
        (folder / "unknown").touch()
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        )
        common = f"HostName 127.0.0.1\nPort {self.port}\nUser {getpass.getuser()}\nIdentitiesOnly yes\n"
        (folder / "config").write_text(
            f"Host device also\n{common}IdentityFile {folder}/user\nUserKnownHostsFile {folder}/known\n"
            f"Host stranger\n{common}IdentityFile {folder}/user\nUserKnownHostsFile {folder}/unknown\n"
            f"Host changed\n{common}IdentityFile {folder}/user\nUserKnownHostsFile {folder}/before\n"
            f"Host locked\n{common}IdentityFile {folder}/other\nUserKnownHostsFile {folder}/known\n"
            f"Host *\nUserKnownHostsFile {folder}/unknown\nGlobalKnownHostsFile /dev/null\nLogLevel ERROR\n"
        )
        self.bin = folder / "bin"
        self.bin.mkdir()
        wrapper = self.bin / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        self.process = None

    def start(self):
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def cut(self):
        """Ends every connection, and what runs in it; new ones are taken."""
        for child in _children(self.process.pid):
            _kill_tree(child)

    def stop(self):
        if self.process is not None:
            self.cut()
            self.process.terminate()
            self.process.wait()
            self.process = None


def _children(pid):
    found = []
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat_file.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat_file.parent.name))
    return found


def _kill_tree(pid):
    for child in _children(pid):
        _kill_tree(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def make(tmp_path_factory):
    """A server that runs. Skips where there is no sshd."""
    if shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin") is None or shutil.which("ssh") is None:
        pytest.skip("no sshd: apt install openssh-server openssh-client")
    server = Server(tmp_path_factory.mktemp("sshd"))
    server.start()
    return server
