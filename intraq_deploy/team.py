"""Processes that make one run together. What they compute does not depend on how many they are.

The first one leads: it alone reads and writes the run directory, and calls the others for what can be shared. Sums over
images are cut into PARTS parts whose sums are added in the order of the parts: each process makes the parts that are
its own, sends them to all others, and all add the same numbers in the same order. Float sums depend on that order.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from intraq_deploy.errors import LostProcessError
from intraq_deploy.wording import reason

PARTS = 4
"""The number of parts of a sum over images: more processes than these wait while images are summed over."""
_PATIENCE = timedelta(days=7)
"""How long a process waits for the others, which are restarted by whoever started them if one is lost."""


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of one run, as one of them sees them."""

    rank: int = 0
    """The number of this process, from 0, which leads."""
    size: int = 1
    """The number of processes."""
    shares: bool = False
    """Whether the run was started for any number of processes, of which one is one."""

    @property
    def parts(self) -> int:
        """The number of parts into which a step of training is cut."""
        return PARTS if self.shares else 1

    def owns(self, part: int) -> bool:
        """Whether part number `part` is made by this process."""
        return part % self.size == self.rank

    def sum(
        self, own: Mapping[int, Sequence[Tensor]], parts: Sequence[int], like: Callable[[], Sequence[Tensor]]
    ) -> list[Tensor]:
        """Returns the sums over `parts`, added in their order, tensor by tensor: the same in every process.

        own: the tensors, float32 or float64 of any shapes, of the parts that are this process's; those of the first
        part are changed. like: makes tensors like them, for those of others. The result is like them too.
        """
        total: list[Tensor] = []
        for part in parts:
            values = list(own[part] if self.owns(part) else like())
            if self.size > 1:  # what is sent is memory: it must lie alike in all processes
                values = [value.contiguous() for value in values]
            with _others_there():
                for value in values if self.size > 1 else ():
                    dist.broadcast(value, part % self.size)
            total = [a.add_(b) for a, b in zip(total, values, strict=True)] if total else values
        return total

    def gather(self, value: object) -> list[Any]:
        """Returns what every process gives here, in the order of their numbers. value: anything that can be pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _others_there():
            dist.all_gather_object(found, value)
        return found

    def call(self, job: str, *arguments: object) -> None:
        """Tells the others to do a job, in which the leader takes part next. Others do nothing here."""
        if self.size > 1 and self.rank == 0:
            with _others_there():
                dist.broadcast_object_list([(job, arguments)])

    def serve(self, jobs: Mapping[str, Callable[..., object]]) -> None:
        """Does what the leader calls for, until it ends the team. jobs: by name; they take what `call` gave."""
        while True:
            order: list[Any] = [None]
            with _others_there():
                dist.broadcast_object_list(order)
            if order[0] is None:
                return
            job, arguments = order[0]
            jobs[job](*arguments)

    def end(self) -> None:
        """Lets the others go, where this process leads. They may be gone already."""
        if self.size > 1 and self.rank == 0:
            with suppress(LostProcessError), _others_there():
                dist.broadcast_object_list([None])


ALONE = Team()


@contextmanager
def _others_there() -> Iterator[None]:
    """Turns what a backend raises where another process is gone into LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"Another process of this run is gone ({reason(error)}): the same command goes on from what is saved."
        ) from error


def join() -> Team:
    """Meets the other processes, where several were started (torchrun's environment variables); else returns ALONE."""
    given = os.environ
    if "RANK" not in given or "WORLD_SIZE" not in given:
        return ALONE
    team = Team(int(given["RANK"]), int(given["WORLD_SIZE"]), shares=True)
    if team.size > 1:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(given.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        leads = team.rank == 0 and given.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), team.size, leads)
        # Processes that start again find the addresses of those before them in torch's own store (2.15).
        own = PrefixStore(given.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=own, rank=team.rank, world_size=team.size, timeout=_PATIENCE)
    return team
