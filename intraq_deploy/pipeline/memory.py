"""Memory that does not suffice: said before a stage begins as far as it can be known, and where a stage meets it.

What is free on a CPU is the least of what Linux can give, of what the process's control group may still take (as a
container's limit is set), and of its address space's limit (`ulimit -v`). Other systems are not asked.
"""

import resource
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from intraq_deploy.errors import ShortageError
from intraq_deploy.pipeline.run import Run
from intraq_deploy.wording import MIB

_BESIDE = 1.2
"""The memory that a process takes, as a multiple of its tensors': libraries have their own, and gaps stay between
tensors."""
_FEWEST = 2
"""The least batch of a recipe."""
_GIB = 1 << 30
_GROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_REFUSED = "can't allocate memory"
"""Part of what torch raises, as a RuntimeError, where the system gives a CPU no memory."""


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operators make, as long as these live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Views of what was there before count too: rather too many than too few.
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known and self._known[key]() is storage:
            return

        def gone(_: object) -> None:
            self._now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.most = max(self.most, self._now)


def most_bytes(work: Callable[[], object]) -> int:
    """Returns how many bytes of tensors that `work` makes live at one time, at most, on any device."""
    with _Alive() as alive:
        work()
    most: int = alive.most
    return most


def free_bytes(device: torch.device) -> int | None:
    """Returns how many bytes a device can still give; None where that cannot be known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    found = [value for value in (_of_system(), _of_group(), _of_address_space()) if value is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    with suppress(OSError, ValueError):
        for line in (_PROC / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    return None


def _of_group() -> int | None:
    """Returns the bytes that control groups (version 2) leave: the least of the process's own and of those around."""
    with suppress(OSError, ValueError, IndexError):
        own = (_PROC / "self/cgroup").read_text().partition("0::/")[2].splitlines()[0]
        folder = _GROUPS / own
        left = [_left(each) for each in (folder, *folder.parents) if each.is_relative_to(_GROUPS)]
        return min((value for value in left if value is not None), default=None)
    return None


def _left(folder: Path) -> int | None:
    with suppress(OSError, ValueError):
        most, now = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return max(0, most - now + cached)  # files that are cached are let go first
    return None


def _of_address_space() -> int | None:
    with suppress(OSError, ValueError):
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            pages = int((_PROC / "self/statm").read_text().split()[0])
            return max(0, most - pages * resource.getpagesize())
    return None


def check_batch(run: Run, what: str, section: str, batch: int, image: float, always: float) -> None:
    """Checks that there is memory for `batch` images at a time. Raises ShortageError, with the number that would fit.

    what: the work, as a sentence begins with it. section: the recipe's, that has the batch. image, always: bytes of
    tensors of each image, and beside them, in each of the run's processes.
    """
    free = free_bytes(run.device)
    if free is None:
        return
    if run.device.type == "cpu":  # where all processes share what there is
        free //= run.team.size
    needed, fit = _BESIDE * (always + batch * image), int((free / _BESIDE - always) // image)
    if fit >= batch:
        return
    at_once = f"{batch:,} images of {_pixels(run)} at a time"
    few = f"{fit:,} fit: set batch = {fit} under [{section}] in a recipe (--recipe)"
    raise ShortageError(
        f"{what} needs {_size(needed)} of memory for {at_once}, and {_size(free)} are free on {run.device}: "
        f"{few if fit >= _FEWEST else 'not even two fit'}, or free some memory."
    )


def _pixels(run: Run) -> str:
    return "x".join(map(str, run.image_shape[1:]))


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / MIB:.0f} MiB"


@contextmanager
def shortage_explained(stage: str) -> Iterator[None]:
    """Explains what is raised where memory ends. stage: the work that is done inside. Raises ShortageError for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out = isinstance(error, MemoryError | torch.OutOfMemoryError) or _REFUSED in str(error)
        if not out:
            raise
        raise ShortageError(
            f"Memory ran out in {stage}: free some, or set a smaller batch under [synthesis] or [training] in a recipe "
            "(--recipe); the same command goes on from what is saved."
        ) from error
