"""How the processes of a training run are started, meet, and end.

The first process is the one that was asked to train. It starts the others, tells what becomes of them, and
takes them with it when it ends, however it ends: whoever waits for a process that is gone notices at once.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ebmzoo.runtime import OutOfTime, UnknownDevice, keep_freed_memory
from ebmzoo.training.divergence import Diverged
from ebmzoo.training.team import LostProcess, Team

PATIENCE = timedelta(days=1)
"""How long a process waits for the others. A dead one is noticed at once, so this is only for slow ones."""


@contextmanager
def gather_team(size: int, device: str, assist: Callable[..., object], *arguments: Any) -> Iterator[Team]:
    """Starts the other processes of a training run, and ends them with this block.

    Arguments:
        size: How many processes there are with this one, which is the first.
        device: The device, as torch names it; with CUDA each process has one of its own.
        assist: What the others call, with their team and the arguments. All of it must be picklable.
        arguments: The arguments.

    Raises:
        LostProcess: If one of the others fails or is killed.
        UnknownDevice: If there are too few devices.
    """
    if size == 1:
        yield Team(device=device)
        return
    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory() as folder:
        member = _Member(Path(folder), size, device, threads)
        member.device_of(0)
        others = [member.started(rank, assist, arguments) for rank in range(1, size)]
        try:
            member.wait_for(others)
            with member.joined(0) as first:
                yield first
        except LostProcess as error:
            raise LostProcess(member.failure(others) or str(error)) from error
        finally:
            _end(others)


@dataclass(frozen=True)
class _Member:
    """What every process of a team knows.

    Arguments:
        meeting: The folder in which they find each other.
        size: How many there are.
        device: The device of the run.
        threads: The number of threads that each has.
    """

    meeting: Path
    size: int
    device: str
    threads: int

    def started(self, rank: int, assist: Callable[..., object], arguments: tuple[Any, ...]) -> BaseProcess:
        """Starts another process."""
        context = get_context("forkserver")  # forks a process that has imported torch and never used it
        context.set_forkserver_preload([assist.__module__, "torch._dynamo"])  # which optimizers import late
        process = context.Process(target=_assist, args=(self, rank, assist, arguments), daemon=True)
        process.start()
        return process

    def wait_for(self, others: Sequence[BaseProcess]) -> None:
        """Waits until the others have begun.

        Raises:
            LostProcess: If one of them has ended.
        """
        while sum(1 for _ in self.meeting.glob("here-*")) < len(others):
            if not all(process.is_alive() for process in others):
                raise LostProcess("a process of the training ended before it began")
            time.sleep(0.02)

    @contextmanager
    def joined(self, rank: int) -> Iterator[Team]:
        """Meets the others, and leaves them at the end of the block."""
        mine = self.device_of(rank)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        backend = "nccl" if mine.type == "cuda" else "gloo"
        store = distributed.FileStore(str(self.meeting / "store"), self.size)
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=self.size, timeout=PATIENCE
        )
        try:
            yield Team(rank, self.size, mine)
        finally:
            distributed.destroy_process_group()
            torch.set_num_threads(before)

    def device_of(self, rank: int) -> torch.device:
        """Returns the device of one of the processes."""
        device = torch.device(self.device)
        if device.type != "cuda":
            return device
        if torch.cuda.device_count() < self.size:
            raise UnknownDevice(
                f"{self.size} processes on CUDA need as many devices, and {torch.cuda.device_count()} were "
                "found; lower Trained.processes, or say --device cpu"
            )
        return torch.device("cuda", rank)

    def failure(self, others: Sequence[BaseProcess]) -> str | None:
        """Returns what became of the others, in words, or None if nothing went wrong with them."""
        for rank, process in enumerate(others, 1):
            process.join(1.0)
            said = self.meeting / f"failed-{rank}"
            if said.exists():
                return f"process {rank} of {self.size} failed: {said.read_text()}"
            if process.exitcode:
                return ended_from_outside(f"process {rank} of {self.size}", process.exitcode)
        return None


def ended_from_outside(process: str, exit_code: int | None) -> str:
    """Returns in words that a process has been killed."""
    return (
        f"{process} was ended from outside, with exit code {exit_code}; the system kills what needs too much "
        "memory. Say the command again: it goes on from the last checkpoint"
    )


def _assist(member: _Member, rank: int, assist: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Is what the other processes run: the first one hears signals, and says when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    (member.meeting / f"here-{rank}").touch()
    try:
        with suppress(OutOfTime, Diverged, LostProcess), member.joined(rank) as other:
            assist(other, *arguments)  # what is suppressed befalls the first one too, which tells of it
    except Exception as error:
        with suppress(OSError):  # the folder is gone when the first process is
            (member.meeting / f"failed-{rank}").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def _end(others: Sequence[BaseProcess]) -> None:
    """Lets the others come to their end, which is near, and ends those that do not."""
    for process in others:
        process.join(10.0)
        if process.is_alive():
            process.kill()
            process.join()
