"""``ebmzoo list``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ebmzoo.cli.options import debug_option, json_option, warn_of_broken_plugins
from ebmzoo.config import SCALES, classes, plugins, tables
from ebmzoo.hookspecs import KINDS


@click.command("list")
@click.argument("what", type=click.Choice(["tables", "plugins", *KINDS]), default="tables")
@json_option
@debug_option
def list_(what: str, as_json: bool, debug: bool) -> None:
    """List tables (the default), plugins, or classes that gin files may name."""
    del debug
    warn_of_broken_plugins()
    rows = {"tables": _tables, "plugins": _plugins}.get(what, lambda: _classes(what))()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:{width}}  {row['about']}")


def _tables() -> list[dict[str, Any]]:
    return [
        {"name": name, "about": _first_comment(path), "scales": _scales(path), "file": str(path)}
        for name, path in sorted(tables().items())
    ]


def _first_comment(path: Path) -> str:
    """Returns what the first line of a gin file says of the table."""
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _scales(path: Path) -> list[str]:
    return [s for s in SCALES if s == "paper" or path.with_name(f"{path.stem}.{s}.gin").exists()]


def _plugins() -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "about": f"{plugin.distribution} {plugin.version}" + (f", broken: {plugin.error}" if plugin.error else ""),
            "error": plugin.error,
        }
        for plugin in plugins()
    ]


def _classes(kind: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "about": _summary(cls), "class": f"{cls.__module__}.{cls.__qualname__}"}
        for name, cls in sorted(classes().get(kind, {}).items())
    ]


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]
