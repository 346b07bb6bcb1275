"""Other machines, through the system's ssh: its configuration, agents, jump hosts and host-key checks are the user's.

Nothing is asked and nothing is kept: a connection that would need a password or an unknown host key fails, with what to
type instead. Files are written under a temporary name, continued where a broken copy stopped, and renamed when their
SHA-256 is right; what is there already is not sent again.
"""

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from intraq_deploy.targets.artifact import sha256_of

from intraq_deploy.errors import TargetError, UsageError

CONNECT_SECONDS = 15
"""Until a host that does not answer is given up; one that stops answering, about as long."""
_PART = ".part"
_BLOCK = 1 << 20
_ENDED = 128
"""From here on a command was ended by a signal, or, at 255, the connection was."""
_REASONS = (
    (
        "Host key verification failed",
        "its host key is not known, or has changed: run `ssh {host}` once, and compare it",
    ),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key has changed: find out why before you go on"),
    ("Permission denied", "it does not let you in without a password: run ssh-copy-id, or name the right user"),
    ("Could not resolve hostname", "its name is unknown: look at the spelling, or at ~/.ssh/config"),
    ("Connection refused", "nothing listens there: start its ssh server, or give --port"),
    ("No route to host|Network is unreachable|timed out|Timeout", "it does not answer: is it on, and in this network?"),
    ("No space left on device|Disk quota exceeded", "its disk is full: free some space, or give --dir"),
)
_HASHES = """
import hashlib, json, os, sys
root, found = sys.argv[1], {}
for name in json.load(sys.stdin):
    for path in (name, name + ".part"):
        full = os.path.join(root, path)
        if os.path.isfile(full):
            digest = hashlib.sha256()
            with open(full, "rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
            found[path] = [digest.hexdigest(), os.path.getsize(full)]
print(json.dumps(found))
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
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        port = [] if self.port is None else ["-p", str(self.port)]
        return ["ssh", *flags, *port, "--", self.host, remote]

    def run(self, remote: str, *, given: bytes = b"", codes: Iterable[int] = (0,)) -> "Answer":
        """Runs a shell command there. given: its standard input. codes: exit codes that are no error.

        Raises TargetError where the host cannot be reached, and for other exit codes, with the last line that it said.
        """
        try:
            done = subprocess.run(self.command(remote), input=given, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise TargetError("There is no ssh here: install OpenSSH's client.") from error
        answer = Answer(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        if answer.code not in codes:
            raise self.failure(answer)
        return answer

    def stream(self, remote: str, chunks: Iterable[bytes]) -> "Answer":
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
        answer = Answer(process.returncode, output, said.decode(errors="replace"))
        if answer.code:
            raise self.failure(answer)
        return answer

    def failure(self, answer: "Answer") -> TargetError:
        """What went wrong, in one sentence."""
        for pattern, meaning in _REASONS:
            if re.search(pattern, answer.said):
                return TargetError(f"{self.host}: {meaning.format(host=self.host)}.")
        lines = answer.said.strip().splitlines()
        last = lines[-1].rstrip(".") if lines else "it said nothing"
        if answer.code >= _ENDED:
            return TargetError(
                f"{self.host}: the connection failed ({last}): run it again, it goes on where it stopped."
            )
        return TargetError(f"{self.host}: {last} (exit code {answer.code}).")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gave."""

    code: int
    output: bytes
    said: str
    """On standard error."""


def values_of(host: str, what: str, output: bytes, *fields: str) -> dict[str, Any]:
    """The JSON that `what` printed on `host`, which has `fields`. Raises TargetError for anything else."""
    try:
        values: dict[str, Any] = json.loads(output)
        for field in fields:
            values[field]
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{host}: {what} answered no JSON: is something printed when a shell starts?") from error
    return values


def check_host(host: str) -> None:
    """Raises UsageError for what ssh would take for an option, or no host."""
    if not host or host.startswith("-") or re.search(r"\s", host):
        raise UsageError(f"The host is {host!r}: give user@host, or a name from ~/.ssh/config.")


def quoted(path: PurePosixPath | str) -> str:
    """For the shell there. A leading ~/ stays, so that it means the home directory."""
    text = str(path)
    if text == "~":
        return text
    if text.startswith("~/"):
        return "~/" + shlex.quote(text[2:])
    return shlex.quote(text)


def missing(remote: Remote, python: str, folder: str, files: Mapping[str, str]) -> dict[str, int]:
    """Which of `files` (SHA-256 by relative path) are not there as they should be, with how many bytes of them a broken
    copy left."""
    found = _there(remote, python, folder, files)
    return {
        name: found[name + _PART][1] if name + _PART in found else 0
        for name, sha256 in files.items()
        if name not in found or found[name][0] != sha256
    }


def _there(remote: Remote, python: str, folder: str, names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """SHA-256 and bytes of those of `names`, and of what is under their temporary names, that are there."""
    command = f"{python} -c {shlex.quote(_HASHES)} {quoted(folder)}"
    found = values_of(remote.host, python, remote.run(command, given=json.dumps(list(names)).encode()).output)
    return {name: (str(sha256), int(size)) for name, (sha256, size) in found.items()}


def send(
    remote: Remote, python: str, folder: str, source: Path, files: Mapping[str, str], sent: Callable[[int], None]
) -> int:
    """Copies what is missing of `files` (SHA-256 by path, relative to `source`) into `folder`, which is made.

    sent: told how many bytes have gone so far. Gives the bytes that were sent.

    Raises TargetError where the connection breaks or the disk is full, and for a file that arrives otherwise than it
    was; what had arrived by then is continued the next time.
    """
    total = 0
    for name, before in missing(remote, python, folder, files).items():
        path, size = source / name, (source / name).stat().st_size
        start = before if before <= size else 0
        place = PurePosixPath(folder) / name
        part = quoted(f"{place}{_PART}")
        command = f"mkdir -p {quoted(place.parent)} && cat {'>>' if start else '>'} {part}"
        total += _append(remote, path, start, command, partial(_add, sent, total))
        _finish(remote, python, folder, name, files[name])
    return total


def _add(sent: Callable[[int], None], before: int, count: int) -> None:
    sent(before + count)


def _append(remote: Remote, path: Path, start: int, command: str, sent: Callable[[int], None]) -> int:
    """Sends a file from byte `start` on."""
    count = 0

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


def _finish(remote: Remote, python: str, folder: str, name: str, sha256: str) -> None:
    """Renames what has arrived, if it is right; else it is removed, to be sent anew."""
    place = quoted(PurePosixPath(folder) / name)
    part = quoted(f"{PurePosixPath(folder) / name}{_PART}")
    found = _there(remote, python, folder, [name]).get(name + _PART)
    if found is None or found[0] != sha256:
        remote.run(f"rm -f {part}")
        raise TargetError(f"{remote.host}: {name} arrived otherwise than it was sent: run it again.")
    remote.run(f"mv -f {part} {place}")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by path, of all files below `folder`."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
