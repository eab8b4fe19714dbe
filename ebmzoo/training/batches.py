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


class Share(NamedTuple):
    """Which part of every minibatch is taken: each of ``size`` processes takes another.

    Arguments:
        rank: The number of the part, from 0.
        size: How many parts there are.
    """

    rank: int = 0
    size: int = 1


class Batches:
    """Endless minibatches: the data in a new random order for each pass, incomplete batches left out.

    Arguments:
        data: The data, of shape (N, *).
        labels: Their classes, of shape (N,), or None.
        batch_size: The size of every batch, at most N.
        rng: The generator of the orders; it belongs to this object alone.
        restored: Makes of data as they are held, (B, *), what is learnt from; nothing by default.
        share: The part of every minibatch that is taken.

    Attributes:
        batch_size: The size of what is taken of a minibatch.
        drawn: How many data were drawn by this object, in this process.

    Raises:
        ValueError: If there are fewer data than a minibatch has, or it cannot be shared out.
    """

    def __init__(
        self,
        data: Tensor,
        labels: Tensor | None,
        batch_size: int,
        rng: Generator,
        restored: Callable[[Tensor], Tensor] = lambda data: data,
        share: Share = Share(),  # noqa: B008
    ):
        if batch_size > len(data):
            raise ValueError(
                f"a batch of {batch_size} cannot be taken from {len(data)} data; lower batch_size"
            )
        if data.is_floating_point() and not data.isfinite().all():
            wrong = int((~data.isfinite().flatten(1).all(1)).sum())
            raise ValueError(
                f"{wrong} of {len(data)} data are not finite, so nothing can be learnt from them"
            )
        if batch_size % share.size:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared by {share.size} processes; let batch_size be a "
                "multiple of their number"
            )
        self.data, self.labels, self.rng = data, labels, rng
        self.whole, self.batch_size = batch_size, batch_size // share.size
        self.restored, self.share = restored, share
        self.order = torch.empty(0, dtype=torch.long, device=data.device)
        self.cursor = 0
        self.drawn = 0

    def draw(self) -> Batch:
        """Returns the next minibatch."""
        if self.cursor + self.whole > len(self.order):
            self.order = torch.randperm(len(self.data), generator=self.rng, device=self.data.device)
            self.cursor = 0
        index = self.order[self.cursor + self.share.rank : self.cursor + self.whole : self.share.size]
        self.cursor += self.whole
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
