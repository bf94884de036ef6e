"""The processes of one training or attack: alone, or one of several that ``torchrun`` started.

Between two optimiser steps all processes hold the same state, so any of them could write the
files; the first one does. They differ in the samples they take, and talk through gloo (CPU) or
NCCL (CUDA).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sepdeploy.errors import BadInput, SepdeployError, ToldElsewhere

T = TypeVar("T")
# With a process that attacks its last images; one that has died is noticed at once.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Team:
    """This process among those of its training.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
        local_rank: Number among the processes of this machine, which is the GPU it takes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes files."""
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Let backward passes through a network end with the mean gradient of all processes."""
        if self.world == 1:
            return network
        exchanging = DistributedDataParallel(
            network, device_ids=None if device.type == "cpu" else [device]
        )
        # Batch statistics are averaged after each step instead of being broadcast in the middle
        # of one, where objectives that run the network twice would trip over the change. (The
        # constructor's argument of that name changed between torch versions.)
        exchanging.broadcast_buffers = False
        return exchanging

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's part of a list: a contiguous run of it."""
        start, end = (len(items) * r // self.world for r in (self.rank, self.rank + 1))
        return list(items[start:end])

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def average_buffers(self, net: nn.Module) -> None:
        """Give a network's running statistics the mean of all processes."""
        self.average([b for b in net.buffers() if b.is_floating_point()])

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors, of the same shapes in all processes, the mean of all."""
        if self.world == 1 or not tensors:
            return
        with torch.no_grad():
            mean = self.total(torch.cat([t.flatten() for t in tensors])) / self.world
            means = torch.split(mean, [t.numel() for t in tensors])
            for tensor, part in zip(tensors, means, strict=True):
                tensor.copy_(part.view_as(tensor))

    def copy_first(self, net: nn.Module) -> None:
        """Give a network the first process's weights and running statistics."""
        if self.world > 1:
            for tensor in (*net.parameters(), *net.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def from_first(self, call: Callable[[], T]) -> T:
        """Return what ``call`` gives in the first process, where alone it runs.

        Raises:
            SepdeployError: What it raised there.
        """
        if self.world == 1:
            return call()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = call()
            except SepdeployError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise self._seen_here(0, outcome[1])
        result: T = outcome[0]
        return result

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Let all processes leave the block together, or fail with the first failure of any.

        Raises:
            SepdeployError: What went wrong in the block, here or in another process.
        """
        if self.world == 1:
            yield
            return
        failure: SepdeployError | None = None
        try:
            yield
        except SepdeployError as error:
            failure = error
        failures: list[SepdeployError | None] = [None] * self.world
        dist.all_gather_object(failures, failure)
        for rank, found in enumerate(failures):
            if found is not None:
                raise self._seen_here(rank, found) from failure

    def everyones(self, value: T) -> list[T]:
        """Return what each process has, in their order."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def check_same(self, values: dict[str, Any]) -> None:
        """Check that all processes were given the same.

        Args:
            values: Plain values by what they are, in words.

        Raises:
            BadInput: They differ; naming the process and in what.
        """
        if self.world == 1:
            return
        everywhere: list[dict[str, Any]] = [{}] * self.world
        dist.all_gather_object(everywhere, values)
        for rank, theirs in enumerate(everywhere):
            other = [name for name in values if theirs[name] != everywhere[0][name]]
            if other:
                error = BadInput(
                    f"process {rank} was given another {', '.join(other)} than process 0",
                    hint="all processes need the same command line, recipe and data",
                )
                raise self._seen_here(0, error)

    @contextmanager
    def outlived(self, next_step: str) -> Iterator[None]:
        """Turn what the exchange raises when another process is gone into one line.

        Args:
            next_step: What to do then.

        Raises:
            BadInput: Another process ended in the block; it says itself why.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise BadInput(
                "another process has ended; it or torchrun says why",
                hint=next_step,
            ) from error

    def failure(self, error: BadInput) -> BadInput:
        """Return an error that all processes meet at once, as this one should raise it."""
        return error if self.first else ToldElsewhere(error.message, hint=error.hint)

    def _seen_here(self, rank: int, error: SepdeployError) -> SepdeployError:
        if not self.first:
            return ToldElsewhere(error.message, hint=error.hint)
        if rank:
            error.message = f"process {rank}: {error.message}"
            error.args = (error.message,)
        return error


ALONE = Team()


def bare(network: nn.Module) -> nn.Module:
    """Return a network without what synchronises its gradients: what attacks run."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Let backward passes in the block add to this process's own gradients only."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


@contextmanager
def joined() -> Iterator[Team]:
    """Join the processes that ``torchrun`` started; they stay together until they end.

    A program that catches a failure of the block has to destroy their group itself: only it knows
    whether the others still answer.

    A process group that the caller has set up is used as it is; without one and without
    ``torchrun`` this process is alone.
    """
    if not dist.is_available() or not (dist.is_initialized() or dist.is_torchelastic_launched()):
        yield ALONE
        return
    if not dist.is_initialized():
        # Functions of this module take the group of the moment as a default when it is imported,
        # as DistributedDataParallel does on the way: then nothing could end the group any more.
        importlib.import_module("torch.distributed.nn")
        # gloo stays for the CPU tensors of decisions and checkpoints
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_part)
    try:
        with _ended_politely():
            yield Team(
                dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0"))
            )
    except BaseException:
        atexit.unregister(_part)  # the others may never answer: then the processes just end
        raise


def is_first_process() -> bool:
    """Return whether this process speaks: it is alone or the first of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _part() -> None:
    """Leave the group and wait for its threads.

    A thread that still drops a tensor while the interpreter goes down kills the process (SIGABRT,
    pytorch issue 190489): a training that has ended well would be one that failed.
    """
    if dist.is_initialized():
        gc.collect()  # wrapped networks are cycles, and hold the group
        dist.destroy_process_group()


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Let SIGTERM, by which ``torchrun`` ends the others after a failure, clean up on its way."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
