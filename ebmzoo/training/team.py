"""Training by several processes at once, as each of them sees it.

Every process makes every update: on its part of the minibatch, with chains of its own, from the mean of all
gradients. Networks therefore stay equal, and chains never meet. What only one can do, such as writing to the
shelf, the first one does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ebmzoo.training.learner import Learner

R = TypeVar("R")


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
        """Gives all processes the first one's networks and parameters, and leaves them their chains.

        What is set from a first minibatch, as activation normalisation is, or from first samples, as an
        amortised log-partition is, differs between processes until then; so do averages over minibatches,
        such as those of batch normalisation, of which the first process's are kept in the end.
        """
        if self.size == 1:
            return
        for part in (learner.model, *learner.parts.values()):
            if isinstance(part, nn.Parameter):
                self._broadcast(part.detach())
            if isinstance(part, nn.Module):
                for name, tensor in (*part.named_parameters(), *part.named_buffers()):
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
