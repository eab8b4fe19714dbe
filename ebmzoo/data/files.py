"""Data sets that are read from files in the folder that the environment variable ``EBMZOO_DATA`` names."""

from __future__ import annotations

import os
import shlex
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ebmzoo.data.dataset import DataError, Dataset


class FromFiles(Dataset):
    """A data set of a public archive. Every file is compared with its checksum before it is read."""

    files: ClassVar[Mapping[str, str | None]]
    """Every file, by its path below the data folder, and its MD5, or None where none is published."""

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Downloads the files to below ``folder``, and compares them with their checksums."""

    def states(self, folder: Path) -> dict[str, str]:
        """Returns for every file whether it is ``whole``, ``unchecked``, ``damaged`` or ``absent``."""
        return {name: _state(folder / name, md5) for name, md5 in self.files.items()}

    def folder(self) -> Path:
        """Returns the data folder, after a look at the files.

        Raises:
            DataError: If no folder is named, or files are absent or damaged; the message says what to do.
        """
        name, root = type(self).__name__, os.environ.get("EBMZOO_DATA")
        if not root:
            raise DataError(
                f"{name} is read from files, and the environment variable EBMZOO_DATA, which names their "
                f"folder, is not set. Needed below it: {', '.join(self.files)}. To download them, set "
                f"EBMZOO_DATA to a folder of yours, then: ebmzoo data fetch {name}"
            )
        states = self.states(Path(root))
        absent = [file for file, state in states.items() if state == "absent"]
        damaged = [file for file, state in states.items() if state == "damaged"]
        if absent or damaged:
            troubles = [("absent", absent), ("damaged", damaged)]
            stated = "; ".join(f"{trouble}: {', '.join(files)}" for trouble, files in troubles if files)
            raise DataError(
                f"{name} cannot be read from {root}, the folder that EBMZOO_DATA or --data names; {stated}. "
                f"To mend that: {fetching([name], root)}"
            )
        return Path(root)


def fetching(names: Iterable[str], root: Path | str) -> str:
    """Returns the command that downloads what is absent or damaged of these sets into a folder."""
    return f"ebmzoo data fetch {' '.join(names)} --data {shlex.quote(str(root))}"


class ImageFiles(FromFiles):
    """Images that are held as bytes; brightness 0 to 255 becomes -1 to 1."""

    @abstractmethod
    def stored(self, split: str) -> Tensor:
        """Returns the images of a split as bytes, of shape (N, *shape).

        What is returned belongs to all callers: change a copy of it.

        Raises:
            DataError: If the files are absent or damaged; the message says how to get them.
            ValueError: If there is no such split.
        """

    def restored(self, stored: Tensor) -> Tensor:
        """Returns images in [-1, 1] for images as bytes, (B, *shape)."""
        return stored.float().div_(127.5).sub_(1)

    def load(self, split: str) -> Tensor:
        """Returns the images of a split, of shape (N, *shape), in a tensor of the caller's own."""
        return self.restored(self.stored(split))


def _state(path: Path, md5: str | None) -> str:
    if not path.is_file():
        return "absent"
    if md5 is None:
        return "unchecked"
    facts = path.stat()
    return "whole" if _matches(path, md5, facts.st_size, facts.st_mtime_ns) else "damaged"


@lru_cache(maxsize=256)
def _matches(path: Path, md5: str, size: int, changed: int) -> bool:
    """Whether a file has a checksum; its size and time of change are there to ask again when they differ."""
    from torchvision.datasets.utils import check_integrity

    del size, changed
    return check_integrity(path, md5)
