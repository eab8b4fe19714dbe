"""Data of one's own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebmzoo.data.dataset import DataError, Dataset, check_split
from ebmzoo.fields import FieldError

SEED = 0
"""The seed of the rows' order."""


@dataclass(frozen=True)
class NumpyFile(Dataset):
    """The rows of an array of one's own, in a file that ``numpy.save`` wrote.

    They are put in a random order, which is always the same. Of N rows the last tenth is the test split, and
    of the rest the last tenth the valid split. Values are taken as they are: scale and whiten them before.

    A recipe must determine what it makes, so the file's checksum is part of it: another file under the same
    name is refused, and not taken for the one that a kept model learnt from.

    Arguments:
        path: The file, an array of shape (N, *), below the folder that ``EBMZOO_DATA`` names or from ``/``.
        sha256: Its SHA-256, in hexadecimal digits, as ``sha256sum`` prints it.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise FieldError(self, "sha256", f"64 hexadecimal digits, which `sha256sum {self.path}` prints")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self._rows().shape[1:])

    def load(self, split: str) -> Tensor:
        """Returns the rows of a split, of shape (N, *shape), in a tensor of the caller's own.

        Raises:
            DataError: If the file is absent or another one, or holds no such array.
            ValueError: If there is no such split.
        """
        check_split(split)
        rows = self._rows()
        test = max(1, len(rows) // 10)
        valid = max(1, (len(rows) - test) // 10)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
        parts = order.split([len(rows) - test - valid, valid, test])
        return rows[dict(zip(("train", "valid", "test"), parts, strict=True))[split]]

    def _rows(self) -> Tensor:
        path = Path(os.environ.get("EBMZOO_DATA", "")) / self.path
        try:
            facts = path.stat()
        except OSError:
            raise DataError(
                f"{path} is absent; put the file there, or name its folder by --data or EBMZOO_DATA"
            ) from None
        return _read(path, self.sha256, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, expected: str, size: int, changed: int) -> Tensor:
    """Returns all rows; the file's size and time of change are there to read again when they differ."""
    del size, changed
    found = sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} has the SHA-256 {found}, not {expected}; if that is the file you mean, bind "
            "NumpyFile.sha256 to the former, and what is made of it will be made anew"
        )
    try:
        rows = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no array of numbers that numpy.save wrote ({error})") from None
    if rows.ndim < 2 or len(rows) < 3 or not rows.numel():
        raise DataError(f"{path} should hold three rows or more, (N, *), not shape {tuple(rows.shape)}")
    return rows
