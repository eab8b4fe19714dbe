"""CelebA, as tensors (N, 3, 64, 64) in [-1, 1]."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ebmzoo.data.dataset import DataError, check_split
from ebmzoo.data.files import ImageFiles

PARTITIONS = {"train": "0", "valid": "1", "test": "2"}
"""What the archive's list of partitions calls the splits."""


@dataclass(frozen=True)
class CelebA(ImageFiles):
    """Faces of 64×64 pixels: 162 770 to learn from, 19 867 to choose by, 19 962 to report on, as archived.

    Of each aligned image of 178×218 pixels the middle 140×140 are taken and shrunk, with antialiasing;
    brightness 0 to 255 becomes -1 to 1. That takes minutes, so the bytes are kept beside the archive, some
    2 GB for the training split, and read from there from then on.

    References:
        | Deep Learning Face Attributes in the Wild (Liu et al., 2015)
        | https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html

    Arguments:
        side: The height and width of the images.
        crop: The height and width of what is taken of the aligned image.
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "celeba/img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
        "celeba/list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
    }
    side: int = 64
    crop: int = 140

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (3, self.side, self.side)

    def stored(self, split: str) -> Tensor:
        """Returns the images of a split as bytes, of shape (N, 3, side, side); every call the same tensor."""
        check_split(split)
        return _shrunk(self.folder() / "celeba", split, self.side, self.crop)

    def fetch(self, folder: Path) -> None:
        """Downloads the files, by torchvision."""
        from torchvision import datasets

        datasets.CelebA(str(folder), download=True)


@lru_cache(maxsize=3)
def _shrunk(folder: Path, split: str, side: int, crop: int) -> Tensor:
    kept = folder / f"ebmzoo-{split}-{side}-of-{crop}.npy"
    if not kept.is_file():
        images = _decoded(folder, split, side, crop)
        part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.save(file, images)
            part.replace(kept)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DataError(f"CelebA, shrunk, cannot be kept as {kept}: {error.strerror}") from error
    try:
        return torch.from_numpy(np.load(kept))
    except ValueError as error:
        raise DataError(f"{kept} is damaged; delete it, and it is made again from the archive") from error


def _decoded(folder: Path, split: str, side: int, crop: int) -> np.ndarray:
    """Returns the images of a split, bytes of shape (N, 3, side, side), in the archive's order."""
    from PIL import Image

    lines = (folder / "list_eval_partition.txt").read_text().split()
    names = [name for name, part in zip(lines[::2], lines[1::2], strict=True) if part == PARTITIONS[split]]
    images = np.empty((len(names), 3, side, side), np.uint8)
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        for index, name in enumerate(names):
            image = Image.open(io.BytesIO(archive.read(f"img_align_celeba/{name}"))).convert("RGB")
            left, top = (image.width - crop) // 2, (image.height - crop) // 2
            middle = image.crop((left, top, left + crop, top + crop))
            shrunk = middle.resize((side, side), Image.Resampling.BILINEAR)
            images[index] = np.asarray(shrunk).transpose(2, 0, 1)
    return images
