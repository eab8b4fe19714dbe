"""``ebmzoo list``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import click

from ebmzoo.cli.options import debug_option, json_option, warn_of_broken_plugins
from ebmzoo.config import SCALES, ConfigError, Plugin, classes, nearest, plugins, tables
from ebmzoo.hookspecs import KINDS


@click.command("list")
@click.argument("what", type=click.Choice(["tables", "plugins", *KINDS]), default="tables", metavar="[WHAT]")
@json_option
@debug_option
def list_(what: str, as_json: bool) -> None:
    """List tables, plugins or classes.

    WHAT is tables (the default), plugins, or the kind of the classes that gin files may name: methods, data,
    samplers, metrics, networks or parts.
    """
    rows = {"tables": _tables, "plugins": _plugins}.get(what, lambda: _classes(what))()
    warn_of_broken_plugins()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:{width}}  {row['about']}".rstrip())


@click.command()
@click.argument("name", metavar="CLASS")
@json_option
@debug_option
def describe(name: str, as_json: bool) -> None:
    """Say what a class is, and what fields it has.

    CLASS is one that gin files may name. Fields come with their type, and with a default if they have one.
    """
    known = {each: (kind, cls) for kind, there in classes().items() for each, cls in there.items()}
    warn_of_broken_plugins()
    if name not in known:
        raise ConfigError(f"there is no class {name!r}{nearest(name, known) or '; see `ebmzoo list --help`'}")
    kind, cls = known[name]
    fields = [_field(field) for field in dataclasses.fields(cls) if field.init]
    if as_json:
        document = {
            "name": name,
            "kind": kind,
            "about": inspect.cleandoc(cls.__doc__ or ""),
            "fields": fields,
        }
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(f"{name} ({kind})\n")
    for field in fields:
        default = "" if field["default"] is None else f" = {field['default']}"
        click.echo(f"    {name}.{field['name']}: {field['type']}{default}")
    click.echo(f"\n{inspect.cleandoc(cls.__doc__ or '')}")


def _field(field: dataclasses.Field[Any]) -> dict[str, str | None]:
    default = None if field.default is dataclasses.MISSING else repr(field.default)
    return {"name": field.name, "type": str(field.type), "default": default}


def _tables() -> list[dict[str, Any]]:
    return [
        {"name": name, "about": _first_comment(path), "scales": _scales(path), "file": str(path)}
        for name, path in sorted(tables().items())
    ]


def _first_comment(path: Path) -> str:
    """Returns what the first line of a gin file says of the table."""
    try:
        first, *_ = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _scales(path: Path) -> list[str]:
    return [s for s in SCALES if s == "paper" or path.with_name(f"{path.stem}.{s}.gin").exists()]


def _plugins() -> list[dict[str, Any]]:
    tables()  # which may find that a plugin is broken
    return [{"name": plugin.name, "about": _state(plugin), "error": plugin.error} for plugin in plugins()]


def _state(plugin: Plugin) -> str:
    broken = f", broken: {plugin.error}" if plugin.error else ""
    return f"{plugin.distribution} {plugin.version}{broken}"


def _classes(kind: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "about": summary(cls), "class": f"{cls.__module__}.{cls.__qualname__}"}
        for name, cls in sorted(classes().get(kind, {}).items())
    ]


def summary(cls: type) -> str:
    """Returns the first paragraph of a docstring, as a terminal shows it."""
    first, *_ = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    return plain(" ".join(first.split()))


def plain(text: str) -> str:
    """Returns a line of a docstring without its markup, and with its formulas in plain letters."""
    text = re.sub(r":math:`([^`]*)`", lambda found: _plain_formula(found[1]), text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", text)
    return text.replace("``", "`")


def _plain_formula(formula: str) -> str:
    formula = re.sub(r"\\(?:mathcal|mathrm|text|mathbb)\{([^}]*)\}", r"\1", formula)
    formula = re.sub(r"\\[,;:! ]", " ", formula).replace(r"\mid", "|").replace(r"\mapsto", "→")
    return " ".join(re.sub(r"\\(\w+)", lambda found: _letter(found[1]), formula).split())


def _letter(name: str) -> str:
    """Returns the Greek letter of a name, or the name."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {name}")
    except KeyError:
        return name
