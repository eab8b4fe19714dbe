"""What changes no number: device, compilation, the deadline, memory, and how progress and errors are told.

None of it is part of an artifact's name.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


class OutOfTime(Exception):
    """The deadline has come. What was done is kept, and the same command goes on from there."""


class UnknownDevice(ValueError):
    """The device that was asked for is not there."""


class Deadline:
    """A moment at which work stops cleanly.

    Arguments:
        seconds: How many seconds from now, or None for never.
    """

    def __init__(self, seconds: float | None = None):
        self.end = None if seconds is None else time.monotonic() + seconds
        self.asked = False

    def ask_to_stop(self) -> None:
        """Lets the deadline come now, as a signal handler does."""
        self.asked = True

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.asked or (self.end is not None and time.monotonic() >= self.end)

    def check(self) -> None:
        """Raises :class:`OutOfTime` once the moment has come."""
        if self.passed:
            raise OutOfTime


@dataclass(frozen=True)
class Runtime:
    """How work is done, as against what is made.

    Arguments:
        device: The device of networks and chains, as torch names it.
        compiled: Whether chains' steps and gradients are compiled.
        deadline: When to stop.
        command: The command line, for the record.
    """

    device: str = "cpu"
    compiled: bool = False
    deadline: Deadline = field(default_factory=Deadline)
    command: str = ""

    def torch_device(self) -> torch.device:
        """Returns the device as a torch object."""
        import torch

        return torch.device(self.device)


def worded(error: BaseException) -> str:
    """Returns what there is to say of an error, in one paragraph."""
    words = " ".join(str(error).split())
    if isinstance(error, OSError) and (error.errno or words):
        where = f": {error.filename}" if error.filename else ""
        trouble = f"{os.strerror(error.errno)}{where}" if error.errno else words
        return f"{trouble}. What was made is kept; mend the cause and say the command again."
    ours = isinstance(error, ValueError) or type(error).__module__.startswith("ebmzoo")
    return words if ours and words else f"{type(error).__name__}: {words}".rstrip(": ")


def keep_freed_memory() -> None:
    """Lets the process keep freed memory for its next step instead of giving it back to the system.

    A step allocates the same activations again and again. By default glibc returns large blocks at once, and
    the kernel has to find and clear every page anew: up to a quarter of the time of a convolutional energy's
    gradient on a CPU. Resident memory stays at its peak. Where the C library is another, nothing happens.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC_OPTIONS.items():
            mallopt(parameter, value)


_MALLOC_OPTIONS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: how much free memory at the end of the heap is given back
    -4: 0,  # M_MMAP_MAX: how many blocks live outside the heap
}


def progress(items: Iterable[Item], label: str, total: int, done: int = 0) -> Iterator[Item]:
    """Yields ``items`` under a progress bar on stderr.

    It appears where stderr is a terminal, in the process that was asked; the bars of several would write over
    one another.
    """
    from multiprocessing.process import parent_process

    import tqdm

    quiet = parent_process() is not None or not sys.stderr.isatty()
    yield from tqdm.tqdm(
        items,
        desc=label,
        total=total,
        initial=done,
        disable=quiet,
        leave=False,
        file=sys.stderr,
        mininterval=0.5,
    )


def say(message: str) -> None:
    """Prints a line to stderr, above any progress bar, and says what it is about where that is not clear."""
    import tqdm

    about = _subject.get()
    tqdm.tqdm.write(f"{about}: {message}" if about else message, file=sys.stderr)


_subject: ContextVar[str] = ContextVar("subject", default="")


@contextmanager
def speaking_of(subject: str) -> Iterator[None]:
    """Lets every line that is said name its subject, as it must where several processes say theirs."""
    before = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(before)
