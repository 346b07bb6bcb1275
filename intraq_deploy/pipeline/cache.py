"""The cache of stages, which all runs of a person share: what took long is made once, in whichever directory.

An entry is a folder named by the stage and its key. Its files are the run's own (hard links), or copies where a file
system has none; `.entry.json` has their hashes, and an entry that is not what they say is no entry.
"""

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from intraq_deploy.files import sha256_of, write_atomically

VARIABLE = "INTRAQ_DEPLOY_CACHE"
"""The environment variable that moves the cache, or switches it off."""
OFF = "off"
_LIMIT = 10 << 30
_ENTRY = ".entry.json"
_TEMPORARY = ".making-"
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Pruned:
    """The stages that were removed from the cache, or would be."""

    folder: str
    """The folder of the cache."""
    removed: int
    """Number of stages."""
    bytes: int
    """Bytes of their files; a run that holds them too still does."""
    kept: int
    """Number of stages that stay."""

    def to_json(self) -> str:
        """Returns the record as JSON."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True)
class _Entry:
    used: float
    """The time of its last use, in seconds of the system's clock."""
    bytes: int
    folder: Path


@dataclass(frozen=True, slots=True)
class StageCache:
    """Finished stages by name and key. What cannot be read or written there is as if it were not there."""

    folder: Path
    limit: int = _LIMIT
    """Bytes above which the entries go that were used longest ago; the newest stays."""

    def find(self, name: str, key: str) -> Path | None:
        """Returns the folder of a stage; None where there is none that is whole."""
        entry = self._entry(name, key)
        try:
            files = json.loads((entry / _ENTRY).read_text())
            whole = all(sha256_of(entry / file) == value for file, value in files.items())
        except (OSError, ValueError, AttributeError):
            return None
        if not whole:
            self.drop(name, key)
            return None
        os.utime(entry)
        return entry

    def holds(self, name: str, key: str) -> bool:
        """Whether there is such a stage, whole or not."""
        return (self._entry(name, key) / _ENTRY).is_file()

    def keep(self, name: str, key: str, stage: Path) -> None:
        """Takes in a finished stage's folder, which stays as it is."""
        entry = self._entry(name, key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=self.folder, prefix=_TEMPORARY))
            try:
                link_files(stage, made)
                files = {str(file.relative_to(made)): sha256_of(file) for file in _files(made)}
                write_atomically(made / _ENTRY, json.dumps(files))
                shutil.rmtree(entry, ignore_errors=True)
                made.rename(entry)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError:  # a full or read-only disk: a cache is a convenience
            return
        self._shrink()

    def drop(self, name: str, key: str) -> None:
        """Forgets a stage."""
        shutil.rmtree(self._entry(name, key), ignore_errors=True)

    def prune(self, older_than: float = 0.0, *, dry: bool = False) -> Pruned:
        """Removes what was not used for `older_than` days, and what killed processes left. dry: nothing is removed."""
        now, entries = time.time(), self._entries()
        old = [entry for entry in entries if now - entry.used >= older_than * _DAY]
        if not dry:
            for entry in old:
                shutil.rmtree(entry.folder, ignore_errors=True)
        size = sum(entry.bytes for entry in old)
        return Pruned(str(self.folder), removed=len(old), bytes=size, kept=len(entries) - len(old))

    def _shrink(self) -> None:
        entries = self._entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries[:-1]:
            if total <= self.limit:
                return
            total -= entry.bytes
            shutil.rmtree(entry.folder, ignore_errors=True)

    def _entries(self) -> list[_Entry]:
        """Returns the entries, and what is left of unfinished ones, the one that was used longest ago first."""
        entries = []
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(OSError):  # somebody else removes it
                size = sum(file.stat().st_size for file in _files(folder))
                entries.append(_Entry(folder.stat().st_mtime, size, folder))
        return sorted(entries, key=lambda entry: entry.used)

    def _entry(self, name: str, key: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}-{key}"


def stage_cache() -> StageCache | None:
    """Returns the cache: where INTRAQ_DEPLOY_CACHE says, or in the user's cache folder.

    None where it is switched off, or the user has no home.
    """
    where = os.environ.get(VARIABLE, "")
    if where == OFF:
        return None
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return StageCache(Path(where or f"{root}/intraq-deploy/stages").expanduser())
    except RuntimeError:  # a user without a home, as in containers
        return None


def link_files(source: Path, target: Path) -> None:
    """Gives `target`, a folder, the files of `source`: hard links, or copies where they lie on two file systems.

    Raises OSError as the system does.
    """
    shutil.copytree(source, target, copy_function=link_file, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_ENTRY))


def link_file(source: Path | str, target: Path | str) -> None:
    """Gives a file a second name, or copies it where the names lie on two file systems. Raises OSError as the system
    does."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())
