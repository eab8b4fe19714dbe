"""``ebmzoo doctor``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from ebmzoo.cli.errors import FAILED
from ebmzoo.cli.options import debug_option, existing, store_option, writable
from ebmzoo.config import classes, plugins, tables

Finding = tuple[bool | None, str, str]
"""Whether it is fine, or None where something is absent that not everything needs; what was looked at; what
was found."""

MARKS = {True: "✓", None: "–", False: "✗"}


@click.command()
@store_option
@debug_option
@click.pass_context
def doctor(context: click.Context, root: Path) -> None:
    """Say what this machine has and what it lacks.

    Exits with 1 if something will fail for it.
    """
    well = True
    for check in (_versions, _devices, _plugins, _compiler, lambda: _store(root), _data, _inception):
        for fine, name, finding in check():
            well = well and fine is not False
            click.echo(f"{MARKS[fine]} {name:14} {finding}")
    context.exit(0 if well else FAILED)


def _versions() -> Iterator[Finding]:
    from ebmzoo.store import environment

    for name, version in environment()["versions"].items():
        yield version != "absent", name, version


def _devices() -> Iterator[Finding]:
    import torch

    yield True, "cpu", f"{torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield True, f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"


def _plugins() -> Iterator[Finding]:
    found = sorted(tables())
    classes()  # which may find that a plugin is broken
    for plugin in plugins():
        finding = plugin.error or f"{plugin.distribution} {plugin.version}"
        yield plugin.error is None, "plugin", f"{plugin.name}: {finding}"
    yield bool(found), "tables", ", ".join(found) or "none found"


def _compiler() -> Iterator[Finding]:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    finding = compiler or "no C++ compiler: --compile cannot be used on the CPU, everything else can"
    yield True if compiler else None, "compiler", finding


def _store(root: Path) -> Iterator[Finding]:
    if not writable(root):
        yield False, "store", f"{root} cannot be written; name another with --store or EBMZOO_STORE"
        return
    free = shutil.disk_usage(existing(root)).free / 1e9
    yield free > 1, "store", f"{root}, {free:.0f} GB free"


def _data() -> Iterator[Finding]:
    folder = os.environ.get("EBMZOO_DATA")
    if folder is None:
        yield (
            None,
            "data",
            "EBMZOO_DATA is not set; `ebmzoo data list` says which sets need it",
        )
    else:
        found = Path(folder).is_dir()
        yield found, "data", folder if found else f"EBMZOO_DATA names {folder}, which is no folder"


def _inception() -> Iterator[Finding]:
    from ebmzoo.data import DataError
    from ebmzoo.metrics import FID

    try:
        FID().check_ready()
    except DataError as error:
        yield None, "Inception", f"absent: {error}"
    else:
        yield True, "Inception", "its weights are here, for IS and FID"
