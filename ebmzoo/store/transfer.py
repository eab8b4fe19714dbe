"""Artifacts in one file, on their way to another store."""

from __future__ import annotations

import re
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ebmzoo.store.errors import StoreError, store_command
from ebmzoo.store.files import replace
from ebmzoo.store.inspection import Kept, inspect
from ebmzoo.store.shelf import Store

MEMBER = re.compile(r"(?P<folder>[a-z0-9_]+-[0-9a-f]{12})/(?P<name>recipe\.json|run\.json|artifact\.[a-z]+)")

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file within, so that equal artifacts make equal files."""


class Arrivals(NamedTuple):
    """What came of a file of artifacts.

    Arguments:
        new: The names of the artifacts that the store has now and had not before.
        known: The names of those that it had; they were left as they are.
    """

    new: list[str]
    known: list[str]


def export(contents: Sequence[Kept], file: Path) -> None:
    """Writes whole artifacts with their recipes and provenance into a zip file. Logs are left out.

    Arguments:
        contents: The artifacts' folders, all of them whole.
        file: The file. It is there as a whole or not at all.
    """
    part = file.with_name(file.name + ".part")
    with zipfile.ZipFile(part, "w") as archive:
        for path in sorted(path for kept in contents for path in kept.folder.iterdir()):
            name = f"{path.parent.name}/{path.name}"
            if MEMBER.fullmatch(name):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    replace(part, file)


def bring(file: Path, store: Store) -> Arrivals:
    """Puts the artifacts of an exported file on the shelf, each after its checksum was compared.

    What the shelf has already stays as it is; what was begun there is finished by what comes.

    Raises:
        StoreError: If the file is no such export, or something in it or in its place is damaged. What came
            before it is kept.
    """
    new: list[str] = []
    known: list[str] = []
    store.root.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(file) as archive:
            for folder, members in _by_folder(file, archive).items():
                arrived = _put(archive, members, store.root / folder, store)
                (new if arrived else known).append(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise StoreError(
            f"{file} cannot be read as an exported file ({error}), after {len(new)} new artifacts were taken "
            "from it; export it again"
        ) from None
    return Arrivals(new, known)


def _by_folder(file: Path, archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """Returns the names within an archive by their folder, after a look whether they may be written."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in archive.namelist():
        match = MEMBER.fullmatch(name)
        if match is None:
            raise StoreError(f"{file} is no export of a store: it holds {name!r}; nothing of it was taken")
        found[match["folder"]].append(name)
    return found


def _put(archive: zipfile.ZipFile, members: list[str], folder: Path, store: Store) -> bool:
    """Puts one artifact into its folder, unless a whole one is there. Returns whether it did."""
    with store.locked(folder):
        there = inspect(folder)
        if there.state == "whole":
            return False
        if there.state == "damaged":
            raise StoreError(
                f"{folder} is damaged ({there.reason}); `{store_command(store.root, 'prune')}` removes it, "
                "then import again"
            )
        with tempfile.TemporaryDirectory(dir=store.root, prefix=".import-") as arrivals:
            archive.extractall(arrivals, members)
            came = inspect(Path(arrivals) / folder.name)
            if came.state != "whole":
                raise StoreError(
                    f"{folder.name} of {archive.filename} is not whole ({came.reason or came.state}); "
                    "export it again"
                )
            for path in sorted(came.folder.iterdir(), key=lambda path: path.name.startswith("artifact.")):
                replace(path, folder / path.name)
        store.tidy(folder)
    return True
