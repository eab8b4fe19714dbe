"""Where tables and their files are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ebmzoo.config.errors import ConfigError, nearest
from ebmzoo.config.registry import registry

SCALES = ("paper", "laptop", "smoke")
"""How much compute a table spends. ``paper`` is the table itself; the others are overlays of it."""

BASES = "bases"
"""The folder of files that are no tables, but are included by several."""


def roots() -> tuple[Path, ...]:
    """Returns the folders in which tables are looked for, the first first."""
    local = Path.cwd() / "reproductions"
    return (*([local] if local.is_dir() else []), *registry().folders.values())


def tables() -> dict[str, Path]:
    """Returns every table's file by its name, ``<paper>/<table>``.

    ``./reproductions`` of the working directory comes before what plugins offer. A plugin that offers a table
    of a name that is taken offers none, and :func:`~ebmzoo.config.plugins` says so.
    """
    registered = registry()
    offered: dict[str, Path] = {}
    for plugin, folder in list(registered.folders.items()):
        own = dict(_tables_in(folder))
        if taken := sorted(own.keys() & offered.keys()):
            registered.blame(plugin, f"another plugin offers the table {taken[0]!r} already")
            del registered.folders[plugin]
        else:
            offered |= own
    local = dict(_tables_in(Path.cwd() / "reproductions"))
    return dict(sorted({**offered, **local}.items()))


def _tables_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob("*/*.gin")):
        paper = path.parent.name
        if "." not in path.stem and paper != BASES and not paper.startswith(".") and path.is_file():
            yield f"{paper}/{path.stem}", path


def find(name: str) -> Path:
    """Returns the file of a table, given its name or the path of a gin file.

    Raises:
        ConfigError: If there is none.
    """
    known = tables()
    if name in known:
        return known[name]
    if not name.endswith(".gin"):
        alike = [table for table in known if table.endswith(f"/{name}")]
        hint = f"; did you mean {alike[0]!r}?" if alike else nearest(name, known)
        if not hint and "/" not in name:
            hint = "; if it is a row or a column, put it behind a comma, as in --rows 'VAE*,GLF*';"
        raise ConfigError(f"There is no table {name!r}{hint or ';'} `ebmzoo list tables` shows all of them.")
    path = Path(name)
    table, _, scale = path.stem.rpartition(".")
    if table and scale in SCALES:
        raise ConfigError(
            f"{name} is the overlay of a table and no table; ask for {path.with_name(table)}.gin and "
            f"--scale {scale}."
        )
    if not os.path.lexists(path):
        raise ConfigError(f"There is no file {name!r}{nearest(name.removesuffix('.gin'), known)}")
    return path


def overlay(path: Path, scale: str) -> Path | None:
    """Returns the file that a scale lays over a table, which is None for ``paper``.

    Raises:
        ConfigError: If there is no such scale, or the table has none of it.
    """
    if scale not in SCALES:
        remedy = nearest(scale, SCALES) or f"; scales are {', '.join(SCALES)}."
        raise ConfigError(f"There is no scale {scale!r}{remedy}")
    files = {other: path.with_name(f"{path.stem}.{other}.gin") for other in SCALES[1:]}
    if scale == "paper" or os.path.exists(files[scale]):
        return files.get(scale)
    there = ["paper", *(other for other in files if os.path.exists(files[other]))]
    raise ConfigError(
        f"The table {shown(path)} has no scale {scale!r}, whose file would be {shown(files[scale])}; it has "
        f"{' and '.join(there)}: choose with --scale."
    )


def included(name: str, where: object) -> Path:
    """Returns the file that an include statement names by its path within a folder of tables.

    Raises:
        ConfigError: If there is none.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(
            f"Cannot include {name!r} ({where}): an include names a file by its path within the folder "
            "reproductions, such as 'bases/digits.gin'."
        )
    for root in roots():
        if os.path.isfile(root / name):
            return root / name
    there = {path.relative_to(root).as_posix() for root in roots() for path in root.rglob("*.gin")}
    within = ", ".join(shown(root) for root in roots()) or "no folder of tables"
    raise ConfigError(f"There is no file {name!r} to include in {within} ({where}){nearest(name, there)}")


def read(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"There is no file {shown(path)!r}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{shown(path)} is a folder and no gin file.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"The file {shown(path)} cannot be read: {reason}.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{shown(path)}:{line} is not UTF-8 text; save the file as UTF-8.") from None


def shown(path: Path) -> str:
    """Returns a path as messages show it: from the working directory where that contains it."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
