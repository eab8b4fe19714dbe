"""TensorBoard: what a run reports, in the ``log`` folder of its artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PICTURED = 64
"""How many images a logged grid shows."""


class Log:
    """Writes scalars, histograms and pictures of a run, each at its own interval.

    Arguments:
        folder: The folder of the event file, or None to write nothing.
        steps: The length of the run; about 200 points of each scalar are written, and five pictures.
    """

    def __init__(self, folder: Path | None, steps: int):
        self.folder = folder
        self.scalar_interval = max(1, steps // 200)
        self.picture_interval = max(1, steps // 5)
        self._writer: SummaryWriter | None = None

    def wants(self, step: int) -> bool:
        """Whether anything is written at this step."""
        return self.folder is not None and step % self.scalar_interval == 0

    def write(self, step: int, scalars: Mapping[str, float], values: Mapping[str, Tensor]) -> None:
        """Writes what is due at this step."""
        self.note(step, scalars)
        writer = self._open(step)
        if step % self.picture_interval == 0:
            for name, points in values.items():
                self._picture(writer, name, points, step)

    def note(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars at this step, whether anything else is due or not."""
        if self.folder is None:
            return
        for name, value in scalars.items():
            self._open(step).add_scalar(name, value, step)

    def _picture(self, writer: SummaryWriter, name: str, value: Tensor, step: int) -> None:
        if value.ndim == 1:
            writer.add_histogram(name, value, step)
        elif value.ndim == 4 and value.shape[1] in (1, 3):
            images = (value[:PICTURED].float().cpu().clamp(-1, 1) + 1) / 2
            writer.add_images(name, images, step)
        elif value.ndim == 2 and value.shape[1] == 2:
            writer.add_image(name, scatter(value), step, dataformats="HW")

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        return self._writer

    def close(self) -> None:
        """Writes out what is still in memory."""
        if self._writer is not None:
            self._writer.close()


def scatter(points: Tensor, pixels: int = 200, reach: float = 2.0) -> Tensor:
    """Returns points (B, 2) as a picture (pixels, pixels) of the square of half-width ``reach``."""
    counts = torch.zeros(pixels, pixels)
    cells = ((points.float().cpu() / reach + 1) / 2 * pixels).long()
    inside = ((cells >= 0) & (cells < pixels)).all(1)
    across, up = cells[inside].unbind(1)
    counts.index_put_((pixels - 1 - up, across), torch.ones(len(up)), accumulate=True)
    return 1.0 - counts.clamp(max=3.0) / 3.0
