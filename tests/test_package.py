"""What ships agrees with what is written about it."""

from __future__ import annotations

import importlib.util
import re
import stat
import tomllib
from pathlib import Path

import ebmzoo
from ebmzoo import config
from ebmzoo.builtin import ebmzoo_reproductions

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def command(name: str) -> str:
    """Returns the command that the README gives under a mark."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"<!-- {name} command -->\n```sh\n(.*)\n```", text)
    return found


def test_the_commands_of_the_readme():
    install = "python -m venv .venv && .venv/bin/pip install -e "
    assert command("main") == install + ". && OMP_NUM_THREADS=1 .venv/bin/ebmzoo reproduce tilting/toy"
    assert command("test") == install + "'.[dev]' && .venv/bin/pytest"
    assert "tilting/toy" in config.tables()


def test_ci_runs_the_command_of_the_readme():
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "<!-- test command -->" in text


def test_one_version():
    version = PROJECT["project"]["version"]
    assert ebmzoo.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_plugin_folder_is_offered():
    points = PROJECT["project"]["entry-points"]["ebmzoo"]
    folders = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/plugin.py"))
    assert sorted(value.removesuffix(".plugin") for value in points.values()) == folders
    assert PROJECT["tool"]["mypy"]["packages"] == ["ebmzoo", *folders]
    assert PROJECT["tool"]["coverage"]["run"]["source_pkgs"] == ["ebmzoo", *folders]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.gin")}


def test_reproductions_come_with_the_package():
    assert contents(ebmzoo_reproductions()) == contents(ROOT / "reproductions") != {}
    assert importlib.util.find_spec("reproductions") is None or Path.cwd() == ROOT


def test_tox_has_what_the_readme_says():
    text = (ROOT / "tox.ini").read_text()
    for name in ("lint", "types", "slow", "peers"):
        assert f"[testenv:{name}]" in text
    assert "py3{11,12,13}" in text
