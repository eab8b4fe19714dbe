"""Training by several processes at once.

Every process makes every update: on its part of the minibatch, with chains of its own, from the mean of all
gradients. Networks therefore stay equal, and chains never meet. What only one can do, such as writing to the
shelf, the first one does.
"""

from __future__ import annotations

import io
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ebmzoo.runtime import OutOfTime, UnknownDevice, keep_freed_memory
from ebmzoo.training.divergence import Diverged
from ebmzoo.training.learner import Learner

R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""How long a process waits for the others. A dead one is noticed at once, so this is only for slow ones."""


class LostProcess(RuntimeError):
    """One of the processes of a training run has ended before its time."""


class Team:
    """The processes that make one training run together, as one of them sees it.

    Arguments:
        rank: The number of this process; that of the first one is 0.
        size: How many there are.
        device: The device of this process.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu"):
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @property
    def leads(self) -> bool:
        """Whether this process does what only one can do."""
        return self.rank == 0

    def name(self, purpose: str) -> str:
        """Returns the name of a purpose of random numbers that are this process's own."""
        return f"{purpose} of process {self.rank}" if self.rank else purpose

    def part(self, points: Tensor | None) -> Tensor | None:
        """Returns this process's part of points (N, *): one run of them, in the order of ranks."""
        if points is None or self.size == 1:
            return points
        return points.tensor_split(self.size)[self.rank].clone()

    def joined(self, points: Tensor | None) -> Tensor | None:
        """Returns what all have of points, in the order of ranks, to the first process.

        The others keep their own.
        """
        if points is None or self.size == 1:
            return points
        parts = self.gathered(points)
        return torch.cat([part.to(points.device) for part in parts]) if parts else points

    def share_gradients(self, learner: Learner) -> None:
        """Lets every gradient of what the learner's optimizers move be the mean over all processes."""
        if self.size == 1:
            return
        optimizers = [part for part in learner.parts.values() if isinstance(part, torch.optim.Optimizer)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.register_post_accumulate_grad_hook(self._average)

    def agree(self, learner: Learner) -> None:
        """Gives all processes the first one's networks, and leaves them their chains.

        What is set from a first minibatch, as activation normalisation is, differs between processes until
        then; so do averages over minibatches, such as those of batch normalisation, of which the first
        process's are kept in the end.
        """
        if self.size == 1:
            return
        networks = [part for part in learner.parts.values() if isinstance(part, nn.Module)]
        for network in (learner.model, *networks):
            for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                if name != "chains":
                    self._broadcast(tensor.detach())

    def _broadcast(self, tensor: Tensor) -> None:
        _together(lambda: distributed.broadcast(tensor, 0))

    def _average(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        _together(lambda: distributed.all_reduce(gradient))
        gradient.div_(self.size)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the means over all processes, which report the same names."""
        if self.size == 1 or not values:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        _together(lambda: distributed.all_reduce(numbers))
        return dict(zip(values, (numbers / self.size).tolist(), strict=True))

    def total(self, count: int) -> int:
        """Returns the sum over all processes."""
        return round(self.mean({"count": float(count)})["count"] * self.size)

    def told(self, *flags: bool) -> Sequence[bool]:
        """Returns the flags of the first process."""
        if self.size == 1:
            return flags
        said = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        self._broadcast(said)
        return [bool(flag) for flag in said.tolist()]

    def from_first(self, make: Callable[[], R]) -> R:
        """Returns what the first process makes."""
        if self.size == 1:
            return make()
        made = [make() if self.leads else None]
        _together(lambda: distributed.broadcast_object_list(made, 0, device=self.device))
        return made[0]  # type: ignore[return-value]

    def gathered(self, value: Any) -> list[Any]:
        """Returns to the first process what all have, in the order of ranks, and to others nothing."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leads else None
        _together(lambda: distributed.gather_object(_packed(value), found, 0))
        return [_unpacked(each) for each in found or []]

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.told(True)


def _together(operation: Callable[[], object]) -> None:
    """Does what all processes do at once.

    Raises:
        LostProcess: If one of the others does not, because it has ended.
    """
    try:
        operation()
    except RuntimeError as error:
        raise LostProcess(f"a process of the training ended before its time ({error})") from error


def _packed(value: Any) -> bytes:
    """Returns plain values and tensors as bytes, wherever the tensors are."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


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
                return (
                    f"process {rank} of {self.size} was ended from outside, with exit code "
                    f"{process.exitcode}; the system kills what needs too much memory. Say the command "
                    "again: it goes on from the last checkpoint"
                )
        return None


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
