"""Minibatches from data that stay whole on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor


class Batch(NamedTuple):
    """A minibatch.

    Arguments:
        data: The data, of shape (B, *).
        labels: Their classes, of shape (B,), or None for data without classes.
    """

    data: Tensor
    labels: Tensor | None


class Batches:
    """Endless minibatches: the data in a new random order for each pass, incomplete batches left out.

    Arguments:
        data: The data, of shape (N, *).
        labels: Their classes, of shape (N,), or None.
        batch_size: The size of every batch, at most N.
        rng: The generator of the orders; it belongs to this object alone.
        restored: Makes of data as they are held, (B, *), what is learnt from; nothing by default.

    Attributes:
        drawn: How many data were drawn by this object, in this process.
    """

    def __init__(
        self,
        data: Tensor,
        labels: Tensor | None,
        batch_size: int,
        rng: Generator,
        restored: Callable[[Tensor], Tensor] = lambda data: data,
    ):
        if batch_size > len(data):
            raise ValueError(
                f"a batch of {batch_size} cannot be taken from {len(data)} data; lower batch_size"
            )
        self.data, self.labels, self.batch_size, self.rng = data, labels, batch_size, rng
        self.restored = restored
        self.order = torch.empty(0, dtype=torch.long, device=data.device)
        self.cursor = 0
        self.drawn = 0

    def draw(self) -> Batch:
        """Returns the next minibatch."""
        if self.cursor + self.batch_size > len(self.order):
            self.order = torch.randperm(len(self.data), generator=self.rng, device=self.data.device)
            self.cursor = 0
        index = self.order[self.cursor : self.cursor + self.batch_size]
        self.cursor += self.batch_size
        self.drawn += self.batch_size
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return Batch(self.restored(self.data.index_select(0, index)), labels)

    def state(self) -> dict[str, Any]:
        """Returns what :meth:`restore` needs to go on with the same batches."""
        return {"order": self.order, "cursor": self.cursor, "rng": self.rng.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was taken."""
        self.order = state["order"].to(self.data.device)
        self.cursor = state["cursor"]
        self.rng.set_state(state["rng"])


class Mapped(Batches):
    """The minibatches of another object, whose data go through a map first. It has no state of its own.

    Arguments:
        batches: Where the minibatches come from.
        change: The map, from data (B, *) to what is learnt from instead.
    """

    def __init__(self, batches: Batches, change: Callable[[Tensor], Tensor]):
        self.batches, self.change = batches, change
        self.batch_size = batches.batch_size

    def draw(self) -> Batch:
        """Returns the next minibatch."""
        batch = self.batches.draw()
        return Batch(self.change(batch.data), batch.labels)

    def state(self) -> dict[str, Any]:
        """Returns the state of the object that the minibatches come from."""
        return self.batches.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the object that the minibatches come from."""
        self.batches.restore(state)
