"""Who may import whom, and other rules that a reader of any file may rely on."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from ebmzoo import config

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    "ebmzoo": 0,
    "ebmzoo.fields": 0,
    "ebmzoo.runtime": 0,
    "ebmzoo.hookspecs": 1,
    "ebmzoo.models": 1,
    "ebmzoo.losses": 1,
    "ebmzoo.blocks": 1,
    "ebmzoo.data": 1,
    "ebmzoo.store": 1,
    "ebmzoo.flows": 2,
    "ebmzoo.generators": 2,
    "ebmzoo.energies": 2,
    "ebmzoo.samplers": 2,
    "ebmzoo.training": 2,
    "ebmzoo.metrics": 2,
    "ebmzoo.classifiers": 2,
    "ebmzoo.recipes": 3,
    "ebmzoo.tables": 4,
    "ebmzoo.curves": 4,
    "ebmzoo.figures": 4,
    "ebmzoo.builtin": 5,
    "ebmzoo.executors": 5,
    "ebmzoo.workers": 5,
    "ebmzoo.execution": 5,
    "ebmzoo.plans": 5,
    "ebmzoo.verdicts": 5,
    "ebmzoo.rendering": 5,
    "ebmzoo.config": 6,
    "ebmzoo.cli": 7,
    "ebmzoo.__main__": 7,
}
"""The floor of every module, or of every module of a package. Nothing imports from above its own."""

PLUGIN_FLOORS = (0, 1, 2, 3, 4)
"""What a plugin may import: what tables are made of, not what runs them. Besides, its plugin.py has the mark
``ebmzoo.hookimpl``."""

HOMES = {
    "gin": ("ebmzoo.config.gin",),
    "click": ("ebmzoo.cli", "ebmzoo.cli.*"),
    "pluggy": ("ebmzoo", "ebmzoo.hookspecs", "ebmzoo.config.registry"),
    "zuko": ("ebmzoo.flows.autoregressive",),
    "torch_fidelity": ("ebmzoo.metrics.extraction",),
    "matplotlib": ("ebmzoo.figures",),
    "torch.utils.tensorboard": ("ebmzoo.training.log",),
}
"""Where alone a library may be imported."""

ANY_KEYWORD = {
    "ebmzoo.config.gin": "gin calls it with whatever is bound",
}
"""Where a function takes ``**keywords``, and why."""


def _sources() -> dict[str, Path]:
    """Returns every source file of the package and of its plugins, by its module's name."""
    found = {}
    for root in (ROOT, ROOT / "plugins"):
        for path in sorted(root.glob("ebmzoo*/**/*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = _sources()
CORE = sorted(name for name in SOURCES if name.split(".")[0] == "ebmzoo")
PLUGINS = sorted(name for name in SOURCES if name.split(".")[0] != "ebmzoo")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


@cache
def imported(module: str) -> tuple[str, ...]:
    """Returns all that a module imports anywhere, also in functions and for annotations only."""
    return tuple(_imported(module))


def _imported(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if name in SOURCES]
            yield from modules
            if len(modules) < len(inside):
                yield node.module


def floor(module: str) -> int:
    stated = ".".join(module.split(".")[:2])
    assert stated in FLOORS, f"{stated} has no floor; write one into FLOORS"
    return FLOORS[stated]


@pytest.mark.parametrize("module", CORE)
def test_nothing_imports_from_above(module: str) -> None:
    above = [name for name in imported(module) if name in SOURCES and floor(name) > floor(module)]
    assert not above


@pytest.mark.parametrize("module", CORE)
def test_the_package_knows_no_plugin(module: str) -> None:
    assert not [name for name in imported(module) if name.startswith("ebmzoo_")]


@pytest.mark.parametrize("module", PLUGINS)
def test_plugins_import_the_lower_floors_and_no_other_plugin(module: str) -> None:
    own = module.split(".")[0]
    for name in imported(module):
        package = name.split(".")[0]
        if package == "ebmzoo":
            assert name in SOURCES, name
            assert floor(name) in PLUGIN_FLOORS, name
        else:
            assert package == own or not package.startswith("ebmzoo"), name


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in imported(module):
                if name in SOURCES:
                    visit(name, (*path, module))
            done.add(module)

    for module in SOURCES:
        visit(module, ())


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_at_home(library: str) -> None:
    def uses(module: str) -> bool:
        return any(name == library or name.startswith(f"{library}.") for name in imported(module))

    users = [module for module in SOURCES if uses(module)]
    assert users
    assert not [user for user in users if not any(fnmatchcase(user, home) for home in HOMES[library])]


def test_the_plugin_manager_is_in_config_alone() -> None:
    users = [name for name, path in SOURCES.items() if "PluginManager" in path.read_text(encoding="utf-8")]
    assert users == ["ebmzoo.config.registry"]


@pytest.mark.parametrize("module", SOURCES)
def test_docstrings(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    said = [text for _, node in _public(tree(module), "") if (text := ast.get_docstring(node))]
    torn = [text for text in said if any(letter < " " and letter != "\n" for letter in text)]
    assert not torn, f"a formula without r before its quotes: {torn}"
    bare = [name for name, node in _public(tree(module), "") if not ast.get_docstring(node)]
    assert not bare


Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Named]]:
    for each in node.body:
        if isinstance(each, Named) and not each.name.startswith("_"):
            yield prefix + each.name, each
            if isinstance(each, ast.ClassDef):
                yield from _public(each, f"{prefix}{each.name}.")


@pytest.mark.parametrize("module", SOURCES)
def test_forbidden_words(module: str) -> None:
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.Global), f"global at line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("hasattr", "eval", "exec"), f"{node.func.id} at line {node.lineno}"
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
            assert module in ANY_KEYWORD, f"**{node.args.kwarg.arg} at line {node.lineno}"


def test_there_is_no_utils() -> None:
    assert not [path for path in SOURCES.values() if path.stem in ("utils", "util", "misc", "common")]


def test_every_configurable_is_a_frozen_dataclass() -> None:
    offered = [cls for kind in config.classes().values() for cls in kind.values()]
    assert len(offered) > 30
    for cls in offered:
        assert dataclasses.is_dataclass(cls), cls
        assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
        assert "__init__" in vars(cls), f"{cls} does not state its own fields"


def test_the_table_of_floors_has_no_stranger() -> None:
    assert not [name for name in FLOORS if name not in SOURCES]
