"""Somebody else's plugin adds a kernel, a method and a table, and the core is not touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from distributions import BROKEN, EXAMPLE, installed
from laws import COUNT, Bimodal, Gaussian, Law, Skewed, assert_follows, generator, run_chains
from toys import Blob

from ebmzoo import config
from ebmzoo.cli import main
from ebmzoo.data import EightGaussians
from ebmzoo.energies import MLPEnergy
from ebmzoo.recipes import Trained
from ebmzoo.samplers import Kernel
from ebmzoo.store import Store

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("reproduce", "example/table", "--scale", "smoke", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both plugins are installed, as far as this process can tell."""
    with installed(tmp_path_factory.mktemp("site"), EXAMPLE, BROKEN):
        yield


def test_both_are_listed():
    plugins = {plugin.name: plugin for plugin in config.plugins()}
    assert plugins["barker"] == config.Plugin("barker", "ebmzoo-barker", "2.5")
    assert plugins["broken"].distribution == "ebmzoo-broken"
    assert "ImportError: cannot import name 'samplers_v2' from 'ebmzoo'" in str(plugins["broken"].error)
    assert "Barker" in config.classes()["samplers"]
    assert "NoiseContrast" in config.classes()["methods"]
    assert config.tables()["example/table"] == EXAMPLE / "src/ebmzoo_barker/reproductions/example/table.gin"
    assert {plugin.error for name, plugin in plugins.items() if name != "broken"} == {None}


def test_its_table_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, [*SMOKE, "--json"], prog_name="ebmzoo")
    assert made.exit_code == 0, made.output
    cells = json.loads(made.stdout)["cells"]
    assert [cell["row"] for cell in cells[::2]] == ["the noise itself", "MALA", "Barker"]
    assert {(cell["n"], cell["error"]) for cell in cells} == {(2, None)}
    assert len(list(tmp_path.glob("artifacts/trained-*/artifact.*"))) == 2


@pytest.mark.parametrize("scale", config.SCALES)
def test_its_table_can_be_read(scale):
    assert len(list(config.load("example/table", scale).table.flat())) == 6


def test_its_parts_can_be_used_in_the_tables_of_others():
    sets = ["ebm/Stage.kernel=@Barker()", "Barker.scale=0.1"]
    assert "Barker.scale = 0.1" in config.load("tilting/toy", "paper", sets).overrides


def barker(scale: float) -> Kernel:
    return config.classes()["samplers"]["Barker"](scale)


@pytest.mark.parametrize("scale", [0.2, 1.0])
@pytest.mark.parametrize(
    "law", [Gaussian((1.0, -2.0), (0.5, 2.0)), Skewed(2), Bimodal()], ids=lambda law: type(law).__name__
)
def test_its_kernel_stays_in_the_target(law: Law, scale: float):
    rng = generator(0)
    state = run_chains(barker(scale), law.log_prob, law.draw(COUNT, rng), 8, rng)
    assert_follows(law, state.position)
    torch.testing.assert_close(state.score, law.score(state.position))


def test_its_kernel_moves_and_rejects():
    law = Skewed(2)
    rng = generator(1)
    start = law.draw(1000, rng)
    for scale, low, high in ((0.01, 0.99, 1.0), (20.0, 0.0, 0.2)):
        kernel = barker(scale)
        state, info = kernel.step(kernel.init(start, law.log_prob), law.log_prob, rng)
        assert low <= float(info.acceptance.mean()) <= high
        assert (state.position != start).any(1).float().mean() == pytest.approx(
            float(info.acceptance.mean()), abs=5 * 0.5 / 1000**0.5
        )


def test_its_method_learns(tmp_path):
    """Logits of data are above those of noise, which a classifier of two classes must know."""
    method = config.classes()["methods"]["NoiseContrast"](MLPEnergy(32, 2))
    model = Store(tmp_path).get(Trained(method, Blob(), 200, 32))
    data, noise = Blob().load("test"), model.prior.draw(64, generator(2))
    assert float(model.energy(data).mean()) < 0 < float(model.energy(noise).mean())
    assert EightGaussians(10).shape == (2,)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source trees, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("source")
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("ebmzoo", "plugins", "reproductions"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for path in (EXAMPLE, BROKEN):
        shutil.copytree(path, folder / path.name, ignore=leave)
    return folder


def said(*words: object, where: Path) -> subprocess.CompletedProcess[str]:
    """Says a command outside of the source tree, with nothing of this process's environment's Python."""
    mine = ("PYTHON", "VIRTUAL_ENV", "EBMZOO", "_EBMZOO")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd=where,
        env=environment,
        timeout=1800,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def fresh(folder: Path, *what: object) -> Path:
    """Makes an environment with nothing but ``what`` in it; returns the folder of its commands.

    Versions are those of this process, so that what it downloaded once is not downloaded again.
    """
    versions = {each.name: each.version for each in metadata.distributions() if each.name != "ebmzoo"}
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(f"{name}=={version}\n" for name, version in versions.items() if "+" not in version)
    )
    if uv := shutil.which("uv"):
        said(uv, "venv", "--python", sys.executable, folder / "venv", where=folder)
        install = [uv, "pip", "install", "--python", folder / "venv" / "bin" / "python"]
    else:
        said(sys.executable, "-m", "venv", folder / "venv", where=folder)
        install = [folder / "venv" / "bin" / "pip", "install"]
    said(*install, "--constraint", constraints, *what, where=folder)
    return folder / "venv" / "bin"


CHECK = """
import importlib.util, pathlib, ebmzoo, ebmzoo.builtin
print(ebmzoo.builtin.ebmzoo_reproductions())
print(importlib.util.find_spec("reproductions"))
print(pathlib.Path(ebmzoo.__file__).parent)
"""


@pytest.mark.slow
def test_in_a_fresh_environment(source, tmp_path):
    commands = fresh(tmp_path, source, source / EXAMPLE.name, source / BROKEN.name)
    ebmzoo = commands / "ebmzoo"

    listed = said(ebmzoo, "list", where=tmp_path)
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"example/table", "tilting/digits", "tilting/toy"} <= set(names)
    assert listed.stderr.startswith("warning: plugin broken of ebmzoo-broken is left out")

    plugins = {
        line.split()[0]: line for line in said(ebmzoo, "list", "plugins", where=tmp_path).stdout.splitlines()
    }
    assert plugins["barker"] == "barker   ebmzoo-barker 2.5"
    assert "cannot import name 'samplers_v2'" in plugins["broken"]
    assert {"builtin", "bases", "tilting"} <= set(plugins)

    made = said(ebmzoo, *SMOKE, where=tmp_path)
    assert "8 Gaussians  EMD" in made.stdout
    assert "Barker" in made.stdout

    folder, top, package = said(commands / "python", "-c", CHECK, where=tmp_path).stdout.splitlines()
    assert Path(folder) == Path(package) / "reproductions"
    assert Path(package).is_relative_to(tmp_path)
    assert top == "None"
    tables = said(ebmzoo, "reproduce", "tilting/toy", "--scale", "smoke", "--rows", "VAE", where=tmp_path)
    assert tables.stdout.startswith("tilting/toy · smoke scale")


@pytest.mark.slow
def test_installed_in_place(source, tmp_path):
    commands = fresh(tmp_path, "-e", source)
    folder, top, package = said(commands / "python", "-c", CHECK, where=tmp_path).stdout.splitlines()
    assert Path(folder) == source / "reproductions"
    assert Path(package) == source / "ebmzoo"
    assert top == "None"
    assert "tilting/toy" in said(commands / "ebmzoo", "list", where=tmp_path).stdout
