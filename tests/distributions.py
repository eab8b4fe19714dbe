"""Plugins as if they were installed: on the path, with the metadata that an installer leaves."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebmzoo.config.registry import VARIABLE, entry_points, registry

HERE = Path(__file__).resolve().parent
EXAMPLE, BROKEN = HERE / "plugin_example", HERE / "plugin_broken"


@contextmanager
def installed(site: Path, *folders: Path) -> Iterator[None]:
    """Lets the distributions in these folders be found beside what is installed, until the end of the block.

    Arguments:
        site: An empty folder for their metadata.
        folders: The distributions' source trees.
    """
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            )
            points = [f"{name} = {value}\n" for name, value in project["entry-points"]["ebmzoo"].items()]
            (info / "entry_points.txt").write_text("[ebmzoo]\n" + "".join(points))
            patch.syspath_prepend(str(folder / "src"))
        patch.syspath_prepend(str(site))
        patch.delenv(VARIABLE, raising=False)
        registry.cache_clear()
        assert {point.name for point in entry_points()} >= {"bases", "tilting"}
        try:
            yield
        finally:
            registry.cache_clear()
