"""The run directory: stages are folders, each with the key of what made it.

A stage's key hashes its inputs, its configuration and the versions that compute it. A folder whose `stage.json` holds
the key is finished and is not made again; one without is unfinished and may hold parts to continue from, under the
same key; one with another key is cleared. Files are written beside and renamed, `stage.json` last.

A run is made in `RUN/unfinished`, itself a run directory, and takes the place of the run before it when it is whole,
with its report: until then that one stays as it is.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.cache import link_file, link_files, stage_cache
from intraq_deploy.version import __version__

CONFIG, REPORT = "config.json", "run.json"
UNFINISHED = "unfinished"
_STAGE, _PARTIAL = "stage.json", "unfinished.json"
_ASIDE, _OLD = ".going", ".old"


def hash_of(**inputs: Any) -> str:
    """The hash of named values: plain, or records that print all they hold."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def key_of(**inputs: Any) -> str:
    """The hash of named values, as `hash_of`, and of this package's and torch's versions."""
    return hash_of(**inputs, versions=[__version__, version("torch")])


@dataclass(slots=True)
class Stage:
    """The folder of one stage, open to be made."""

    folder: Path
    key: str
    seconds: float
    """Spent on it so far, earlier sessions included."""

    def clear(self) -> None:
        """Forgets what was made."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.seconds = 0.0


class RunDirectory:
    """A directory of one run; nothing is made before `opened`."""

    def __init__(self, path: Path, *, home: "RunDirectory | None" = None) -> None:
        """home: of an unfinished run, the directory that it will be in. What is finished there is taken over."""
        self.path = path
        self.home = home
        self.seconds: dict[str, float] = {}
        """Seconds of the stages that were kept or made in this session, by name, over all sessions that made them."""
        self._cache = stage_cache()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes it if needed, and keeps others out of it, and of its home.

        Raises RunError where it cannot be written, holds something that is not a run, or is in use.
        """
        if self.home is not None:
            with self.home.opened():
                self.path.mkdir(exist_ok=True)
                yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(
                f"The run directory {self.path} cannot be written ({error.strerror}): choose another with --out."
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"Another intraq-deploy works in {self.path}: wait for it, or choose another directory with --out."
                ) from error
            if (self.path / UNFINISHED / REPORT).exists():  # whole, and killed while it took its place
                unfinished(self.path).publish()
            for left in (_ASIDE, _OLD):
                shutil.rmtree(self.path / left, ignore_errors=True)
            entries = _entries(self.path)
            if entries and not {CONFIG, UNFINISHED} & set(entries):
                raise RunError(f"{self.path} holds other files ({entries[0]}): choose an empty directory with --out.")
            yield
        finally:
            os.close(handle)

    def finished(self, name: str, key: str) -> bool:
        """Whether stage `name` is finished under `key`, here or where it is taken over from. Nothing is changed,
        another key's folder included."""
        if _has(self.path, name, key) or (self.home is not None and _has(self.home.path, name, key)):
            return True
        return self._cache is not None and self._cache.holds(name, key)

    def stage(self, name: str, key: str) -> Stage:
        """The folder of stage `name`: as it is if it belongs to `key`, else taken over, else empty."""
        folder = self.path / name
        if not _has(self.path, name, key):
            self._take_over(name, key)
        kept = _read(folder / _STAGE) or _read(folder / _PARTIAL)
        if folder.exists() and kept.get("key") != key:
            shutil.rmtree(folder)
            kept = {}
        folder.mkdir(parents=True, exist_ok=True)
        return Stage(folder, key, float(kept.get("seconds") or 0.0))

    def _take_over(self, name: str, key: str) -> None:
        """Gives stage `name` the files of the finished run, or of the cache, if one of them has it."""
        source = None
        if self.home is not None and _has(self.home.path, name, key):
            source = self.home.path / name
        elif self._cache is not None:
            source = self._cache.find(name, key)
        if source is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=self.path, prefix=".taking-"))
        try:
            link_files(source, made)
            made.chmod(0o755)
            folder = self.path / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
        except FileNotFoundError:  # somebody cleans the cache
            pass
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def share(self, name: str, key: str) -> None:
        """Puts a finished stage into the cache of all runs."""
        if self._cache is not None:
            self._cache.keep(name, key, self.path / name)

    def forget(self, name: str, key: str) -> None:
        """Takes a damaged stage out of the cache."""
        if self._cache is not None:
            self._cache.drop(name, key)

    def is_as_before(self, name: str) -> bool:
        """Whether stage `name` of an unfinished run is the finished run's too."""
        key = _read(self.path / name / _STAGE).get("key")
        return self.home is not None and key is not None and _has(self.home.path, name, key)

    def inherit(self) -> None:
        """Takes over what else the finished run has: files for other targets, engines, bundles, what a person put
        there."""
        assert self.home is not None
        for name in _entries(self.home.path):
            if name != UNFINISHED:
                _link_missing(self.home.path / name, self.path / name)

    def clear(self) -> None:
        """Forgets all that was made."""
        shutil.rmtree(self.path)
        self.path.mkdir()

    def publish(self) -> None:
        """Puts a run that was unfinished, and has its report now, in the place of its home's, which goes.

        A killed process is no matter: the next one that opens the home goes on. The report comes last, so that it never
        vouches for another run's files.
        """
        assert self.home is not None
        home = self.home.path
        aside, old = home / _ASIDE, home / _OLD
        if not old.exists():
            aside.mkdir(exist_ok=True)
            for name in _report_first(_entries(home)):
                if name != UNFINISHED:
                    (home / name).rename(aside / name)
            aside.rename(old)
        for name in reversed(_report_first(_entries(self.path))):
            (self.path / name).rename(home / name)
        shutil.rmtree(self.path)
        shutil.rmtree(old)

    @contextmanager
    def running(self, stage: Stage) -> Iterator[Callable[[], None]]:
        """Marks a stage unfinished, times the block, and marks it finished if the block ends well.

        Yields what to call whenever a part has been saved, so that the time spent so far is kept with it.
        """
        before, start = stage.seconds, time.perf_counter()

        def note(name: str = _PARTIAL) -> None:
            stage.seconds = round(before + time.perf_counter() - start, 3)
            values = {"key": stage.key, "seconds": stage.seconds}
            write_atomically(stage.folder / name, json.dumps(values))

        note()
        yield note
        note(_STAGE)
        (stage.folder / _PARTIAL).unlink()

    def write(self, name: str, text: str) -> None:
        """A file at the top of the run directory."""
        write_atomically(self.path / name, text)


def unfinished(home: Path) -> RunDirectory:
    """Returns the directory in which a run is made that will be in `home`."""
    return RunDirectory(home / UNFINISHED, home=RunDirectory(home))


def recover(path: Path) -> None:
    """Ends what a killed process began: a run that is whole takes its place. Nothing is done where there is none.

    Raises RunError for a directory that is in use or cannot be written.
    """
    if (path / UNFINISHED / REPORT).exists():
        with RunDirectory(path).opened():
            pass


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _has(directory: Path, name: str, key: str) -> bool:
    return _read(directory / name / _STAGE).get("key") == key


def _link_missing(source: Path, target: Path) -> None:
    """Gives `target` the files of `source`, but for whole stages that it has itself."""
    if source.is_file():
        if not target.exists():
            link_file(source, target)
    elif not (target / _STAGE).exists():
        target.mkdir(exist_ok=True)
        for name in _entries(source):
            _link_missing(source / name, target / name)


def _entries(directory: Path) -> list[str]:
    """Returns the names in a directory, in order. Hidden files are not ours to judge; a killed process may have left
    a temporary one."""
    return sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))


def _report_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name != REPORT)
