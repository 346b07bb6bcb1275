"""Other machines, through the system's ssh: its configuration, agents, jump hosts and host-key checks are the user's.

Nothing is asked and nothing is kept: a connection that would need a password or an unknown host key fails, with what to
type instead. Files are written under a temporary name, continued where a broken copy stopped, and renamed when all of
them are there and have the right SHA-256: until then the folder is as it was. What is there already is not sent again.
"""

import contextlib
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.files import sha256_of

CONNECT_SECONDS = 15
"""How long a host that does not answer is waited for; one that stops answering, twice as long."""
_PART = ".part"
_BLOCK = 1 << 20
_SIGNAL, _BROKEN = 128, 255
"""Exit codes: above the first a command was ended by a signal; ssh's own where it does not reach the host."""
_CONNECTION = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key has changed: find out why before you go on"),
    ("Host key verification failed", "its host key is not known: run `{ssh}` once, and compare it"),
    ("Permission denied", "it does not let you in without a password: run ssh-copy-id, or name the right user"),
    ("Could not resolve hostname", "its name is unknown: look at the spelling, or at ~/.ssh/config"),
    ("Connection refused", "nothing listens there: start its ssh server, or give --port"),
    (
        "No route to host|Network is unreachable|timed out|Timeout",
        "it does not answer: see that it is on, and in reach",
    ),
)
_THERE = (
    ("No space left on device|Disk quota exceeded", "its disk is full: free some space, or give --dir"),
    ("Permission denied|Read-only file system", "you may not write there ({last}): give --dir"),
    ("^mkdir: ", "the folder cannot be made ({last}): give --dir"),
    ("FileNotFoundError.*part", "another command ships into the same folder: run it again when that one has ended"),
)
"""Messages of commands that fail on a host, and their meaning."""
_LOOK = """
import hashlib, json, os, sys
root, part = sys.argv[1:3]
wanted, found, others = json.load(sys.stdin), {}, []
def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
for name in [each + end for each in wanted for end in ("", part)]:
    path = os.path.join(root, name)
    if os.path.isfile(path):
        found[name] = [sha256(path), os.path.getsize(path)]
try:
    with open(os.path.join(root, "manifest.json")) as file:
        manifest = json.load(file)
    is_bundle = "format" in manifest and "models" in manifest
except (OSError, ValueError, TypeError):
    is_bundle = False
if not is_bundle:
    for folder, _, names in os.walk(root):
        names = [os.path.relpath(os.path.join(folder, name), root) for name in names if not name.endswith(part)]
        others += [name for name in names if name not in wanted or found.get(name, [""])[0] != wanted[name]]
print(json.dumps({"found": found, "others": sorted(others)}))
"""
"""A script that says what is in a folder, and, where that is no bundle, which files are others."""
_PLACE = """
import json, os, sys
root, part = sys.argv[1:3]
for name in json.load(sys.stdin):
    path = os.path.join(root, name)
    os.replace(path + part, path)
"""


@dataclass(frozen=True, slots=True)
class Remote:
    """A host, as ssh takes it: "user@host" or a name from its configuration."""

    host: str
    port: int | None = None

    def command(self, remote: str) -> list[str]:
        """The local command line that runs `remote` there, in its shell."""
        options = {
            "BatchMode": "yes",  # no questions: neither a password nor an unknown host key is accepted
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3",
            # Of a person's configuration, what would mix with the command's own bytes or take its place.
            "RequestTTY": "no",
            "RemoteCommand": "none",
            "ClearAllForwardings": "yes",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", *flags, *self._port(), "--", self.host, remote]

    def _port(self) -> list[str]:
        return [] if self.port is None else ["-p", str(self.port)]

    def run(self, remote: str, *, given: bytes = b"", codes: Iterable[int] = (0,)) -> "Completed":
        """Runs a shell command there. given: its standard input. codes: exit codes that are no error.

        Raises TargetError where the host cannot be reached, and for other exit codes, with the last line that it said.
        """
        try:
            done = subprocess.run(self.command(remote), input=given, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise TargetError("There is no ssh here: install OpenSSH's client.") from error
        completed = Completed(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        if completed.code not in codes:
            raise self.failure(completed)
        return completed

    def stream(self, remote: str, chunks: Iterable[bytes]) -> "Completed":
        """Runs a shell command there, whose standard input is written as it comes.

        Raises TargetError where the connection breaks or the command fails, with the last line that it said.
        """
        with subprocess.Popen(
            self.command(remote), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            # What it says on standard error tells why it does not read on.
            with contextlib.suppress(BrokenPipeError):
                for chunk in chunks:
                    process.stdin.write(chunk)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdin = None
            output, said = process.communicate()
        completed = Completed(process.returncode, output, said.decode(errors="replace"))
        if completed.code:
            raise self.failure(completed)
        return completed

    def failure(self, completed: "Completed") -> TargetError:
        """The error that says what went wrong."""
        lines = completed.said.strip().splitlines()
        last = lines[-1].rstrip(".") if lines else "it said nothing"
        for pattern, meaning in _CONNECTION if completed.code == _BROKEN else _THERE:
            if re.search(pattern, completed.said):
                ssh = shlex.join(["ssh", *self._port(), self.host])
                return TargetError(f"{self.host}: {meaning.format(ssh=ssh, last=last)}.")
        if completed.code > _SIGNAL:  # a host's shell and ssh both end so, whichever was ended
            return TargetError(
                f"{self.host}: the connection failed, or the command was killed ({last}): run it again, it goes on "
                "where it stopped; if it is killed again, free some memory there."
            )
        return TargetError(f"{self.host}: {last} (exit code {completed.code}).")


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended."""

    code: int
    output: bytes
    said: str
    """The text that it wrote to standard error."""


def values_of(host: str, what: str, output: bytes, *fields: str) -> dict[str, Any]:
    """The values of the JSON object with `fields` that `what` printed on `host`. Raises TargetError for other text."""
    try:
        values: dict[str, Any] = json.loads(output)
        for field in fields:
            values[field]
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{host}: {what} answered no JSON: is something printed when a shell starts?") from error
    return values


def check_host(host: str, port: int | None = None) -> None:
    """Checks a host's name and port. Raises UsageError for what ssh would take for an option, or that is none."""
    if port is not None and not 0 < port < 1 << 16:
        raise UsageError(f"--port is {port}: give a number from 1 to 65535.")
    if not host.rpartition("@")[2] or host.startswith(("-", "@")) or re.search(r"\s", host):
        raise UsageError(f"The host is {host!r}: give user@host, or a name from ~/.ssh/config.")


def quoted(path: PurePosixPath | str) -> str:
    """A path, quoted for the shell of a host. A leading ~/ stays, so that it means the home directory."""
    text = str(path)
    if text == "~":
        return text
    if text.startswith("~/"):
        return "~/" + shlex.quote(text[2:])
    return shlex.quote(text)


def missing(remote: Remote, python: str, folder: str, source: Path, files: Mapping[str, str]) -> dict[str, int]:
    """The files that are not there as they should be, with how many of their first bytes a broken copy left.

    files: SHA-256 by path, relative to `source`. python: quoted for the shell there. Raises TargetError for a folder
    that holds something else than a bundle.
    """
    found, others = _look(remote, python, folder, files)
    if others:
        raise TargetError(
            f"{remote.host}: {folder} holds {others[0]}, which is of no bundle: give --dir with a folder that is empty "
            "or not there."
        )
    return {
        name: _begun(source / name, *found.get(f"{name}{_PART}", ("", 0)))
        for name, sha256 in files.items()
        if name not in found or found[name][0] != sha256
    }


def _look(
    remote: Remote, python: str, folder: str, files: Mapping[str, str]
) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """The SHA-256 and size of each of `files` that is there, also under its temporary name; and what else is there,
    where that is no bundle."""
    said = values_of(remote.host, python, _run(remote, python, folder, _LOOK, files), "found", "others")
    found = {name: (str(sha256), int(size)) for name, (sha256, size) in said["found"].items()}
    return found, [str(name) for name in said["others"]]


def _run(remote: Remote, python: str, folder: str, script: str, given: Any) -> bytes:
    command = f"{python} -c {shlex.quote(script)} {quoted(folder)} {shlex.quote(_PART)}"
    return remote.run(command, given=json.dumps(given).encode()).output


def _begun(path: Path, sha256: str, size: int) -> int:
    """How many bytes of a file need not be sent: `size`, if what has arrived is how the file begins, else 0."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(size))
    return size if size <= path.stat().st_size and digest.hexdigest() == sha256 else 0


def send(
    remote: Remote, python: str, folder: str, source: Path, files: Mapping[str, str], sent: Callable[[int], None]
) -> int:
    """Copies what is missing of `files` (SHA-256 by path, relative to `source`) into `folder`, which is made.

    python: quoted for the shell there. sent: is called with the number of bytes that have gone so far. Gives how many
    bytes were sent.

    Raises TargetError where the connection breaks or the disk is full, for a file that arrives otherwise than it was,
    and for a folder that holds something else; what had arrived by then is continued the next time.
    """
    absent, total = missing(remote, python, folder, source, files), 0
    if not absent:
        return 0
    for name, begun in absent.items():
        place = PurePosixPath(folder) / name
        command = f"mkdir -p {quoted(place.parent)} && cat {'>>' if begun else '>'} {quoted(f'{place}{_PART}')}"
        if begun < (source / name).stat().st_size or not begun:
            total = _append(remote, source / name, begun, command, total, sent)
    expected = {name: files[name] for name in absent}
    arrived, _ = _look(remote, python, folder, expected)
    for name, sha256 in expected.items():
        if arrived.get(f"{name}{_PART}", ("",))[0] != sha256:
            raise TargetError(f"{remote.host}: {name} arrived otherwise than it was sent: run it again.")
    _run(remote, python, folder, _PLACE, list(absent))
    return total


def _append(remote: Remote, path: Path, start: int, command: str, before: int, sent: Callable[[int], None]) -> int:
    """Sends a file from byte `start` on. Gives how many bytes were sent so far: `before`, and those of this file."""
    count = before

    def blocks() -> Iterator[bytes]:
        nonlocal count
        with path.open("rb") as file:
            file.seek(start)
            while block := file.read(_BLOCK):
                yield block
                count += len(block)
                sent(count)

    remote.stream(command, blocks())
    return count


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of all files below `folder`, by path."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
