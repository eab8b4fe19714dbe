"""The command line: what it prints, what it makes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import filelock
import numpy as np
import pytest
from click.testing import CliRunner, Result
from distributions import BROKEN, installed
from planted import SUBJECT

from ebmzoo import __version__, figures
from ebmzoo.cli import main
from ebmzoo.cli.listing import plain
from ebmzoo.config import SCALES, ConfigError
from ebmzoo.config.registry import registry
from ebmzoo.hookspecs import KINDS
from ebmzoo.store import Store, note_references

TINY = """\
# A tiny table: a VAE and its tilt

Table.source = 'ours: tiny'
Table.cells = (@vae/Cells(), @ebm/Cells())
Table.claims = (@Better(),)
Table.figures = (@Comparison(),)
Cells.column = '25 Gaussians'
Cells.seeds = 2
Cells.subject = @Samples()
Cells.metrics = (@EMD(), @ModesFound())
EMD.count = 20
Samples.count = 24
TwentyFiveGaussians.count = 64

BASE = @base/Trained()
base/Trained.method = @VAE()
base/VAE.latent = 2
base/VAE.generator = @MLPGenerator()
base/VAE.encoder = @MLPEncoder()
base/VAE.likelihood = @Gaussian()
base/Gaussian.sigma = 0.1
Trained.data = @TwentyFiveGaussians()
Trained.steps = 3
Trained.batch_size = 16
MLPGenerator.hidden = 8
MLPEncoder.hidden = 8

vae/Cells.row = 'VAE'
vae/Samples.model = %BASE
vae/Samples.sampler = @Direct()

ebm/Cells.row = 'VAE + EBM'
ebm/Samples.model = @Trained()
ebm/Samples.sampler = @Chains()
ebm/Trained.method = @Tilting()
ebm/Trained.base = %BASE
ebm/Tilting.energy = @MLPEnergy()
ebm/MLPEnergy.hidden = 8
Tilting.schedule = (@Stage(),)
Chains.schedule = (@Stage(),)
Stage.kernel = @Langevin()
Stage.steps = 2
Langevin.step_size = 0.01

Better.claim = 'the tilt is closer'
Better.row = 'VAE + EBM'
Better.than = 'VAE'
Better.column = '25 Gaussians'
Better.metric = 'EMD'

Comparison.name = 'both'
Comparison.title = 'Both'
Comparison.data = @TwentyFiveGaussians()
Comparison.samples = (@vae/Samples(), @ebm/Samples())
Comparison.labels = ('VAE', 'VAE + EBM')
"""

LAPTOP = "# Less compute\n\nTrained.steps = 2\n"

VARIABLES = ("EBMZOO_DATA", "EBMZOO_STORE", "EBMZOO_PLUGINS", "_EBMZOO_COMPLETE")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tiny table in it."""
    folder = tmp_path / "reproductions" / "own"
    folder.mkdir(parents=True)
    (folder / "tiny.gin").write_text(TINY)
    (folder / "tiny.laptop.gin").write_text(LAPTOP)
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words: str, answer: str = "") -> Result:
    """Says a command, in this process."""
    return CliRunner().invoke(main, words, input=answer, prog_name="ebmzoo")


def well(*words: str, answer: str = "") -> str:
    """Returns what a command prints that ends well."""
    made = run(*words, answer=answer)
    assert made.exit_code == 0, made.output
    return made.stdout


def document(*words: str) -> dict:
    return json.loads(well(*words, "--json"))


def artifacts(here: Path, kind: str = "*") -> list[Path]:
    """Returns the folders of the store in which there is an artifact."""
    return sorted({path.parent for path in (here / "artifacts").glob(f"{kind}-*/artifact.*")})


def times(here: Path) -> dict[Path, int]:
    """Returns when each artifact was written."""
    return {path: path.stat().st_mtime_ns for path in (here / "artifacts").glob("*/artifact.*")}


class TestList:
    def test_tables(self, here):
        lines = well("list").splitlines()
        assert re.search(r"^own/tiny +A tiny table: a VAE and its tilt$", "\n".join(lines), re.M)
        assert [line for line in lines if line.startswith("tilting/toy ")]
        assert lines == sorted(lines)

    def test_tables_as_json(self, here):
        [tiny] = [row for row in json.loads(well("list", "tables", "--json")) if row["name"] == "own/tiny"]
        assert tiny == {
            "name": "own/tiny",
            "about": "A tiny table: a VAE and its tilt",
            "scales": ["paper", "laptop"],
            "file": str(here / "reproductions/own/tiny.gin"),
        }

    def test_plugins(self):
        assert well("list", "plugins").splitlines()[0] == f"builtin  ebmzoo {__version__}"
        names = [row["name"] for row in json.loads(well("list", "plugins", "--json"))]
        assert names[0] == "builtin"
        assert {"bases", "tilting"} <= set(names)

    @pytest.mark.parametrize("kind", KINDS)
    def test_classes(self, kind):
        rows = json.loads(well("list", kind, "--json"))
        assert rows
        for row in rows:
            assert row["class"].startswith("ebmzoo"), row
            assert row["about"].endswith("."), row
        shown = well("list", kind)
        assert len(shown.splitlines()) == len(rows)
        for markup in ("``", ":math:", ":class:", "\\", "{", "\n\n"):
            assert markup not in shown

    def test_markup_becomes_plain(self):
        assert plain(r"At :math:`\mathcal{N}(0, s^2 I)`, of ``x``.") == "At N(0, s^2 I), of `x`."
        assert plain(r":math:`\rho(u) \exp(-\beta E(g(u)))`") == "ρ(u) exp(-β E(g(u)))"
        assert plain(r"As :class:`~ebmzoo.samplers.MALA` or :func:`f`.") == "As MALA or f."

    def test_a_folder_that_looks_like_a_table(self, here):
        (here / "reproductions/own/folder.gin").mkdir()
        assert "own/folder" not in well("list")

    def test_a_table_that_is_no_text(self, here):
        (here / "reproductions/own/bytes.gin").write_bytes(b"# \xff\xfe\n")
        assert "own/bytes" in well("list")


class TestPlan:
    def test_before_and_after(self, here):
        shown = well("plan", "own/tiny")
        lines = shown.splitlines()
        assert lines[0] == "own/tiny · laptop scale"
        assert lines[3] == "VAE · 25 Gaussians · EMD"
        assert re.fullmatch(r"  ○○ score-[0-9a-f]{12}", lines[4])
        assert re.fullmatch(r"    ○○ samples-[0-9a-f]{12} 24 by Direct", lines[5])
        assert re.fullmatch(r"      ○○ trained-[0-9a-f]{12} VAE on TwentyFiveGaussians, 2 updates", lines[6])
        assert "(above)" in lines[9]
        assert lines[-1] == "to make: 4 samples, 8 score, 4 trained"
        assert not (here / "artifacts").exists()

        well("reproduce", "own/tiny")
        shown = well("plan", "own/tiny")
        assert shown.endswith("everything is kept\n")
        assert "○" not in shown.split("\n", 2)[2]

    def test_what_is_begun(self, here):
        well("reproduce", "own/tiny", "--rows", "VAE")
        [first, _] = artifacts(here, "trained")
        (first / "artifact.safetensors").unlink()
        shown = well("plan", "own/tiny", "--rows", "VAE")
        assert "◐" in shown.split("\n", 2)[2]
        assert shown.endswith("everything is kept\n")  # since nothing but what is kept needs it
        for kind in ("samples", "score"):
            for folder in artifacts(here, kind):
                next(folder.glob("artifact.*")).unlink()
        assert well("plan", "own/tiny", "--rows", "VAE").endswith("to make: 2 samples, 4 score, 1 trained\n")

    def test_what_other_code_made(self, here):
        well("reproduce", "own/tiny")
        assert "other code" not in well("plan", "own/tiny")
        for path in (here / "artifacts").glob("trained-*/run.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0123456789ab"}))
        assert "(made by other code: 0123456789ab)" in well("plan", "own/tiny")

    def test_what_is_damaged(self, here):
        well("reproduce", "own/tiny")
        for path in (here / "artifacts").glob("trained-*/run.json"):
            path.unlink()
        assert "(damaged: run.json is missing or cannot be read)" in well("plan", "own/tiny")

    def test_json(self, here):
        made = document("plan", "own/tiny", "--seeds", "1", "--scale", "paper")
        assert [made["table"], made["scale"], len(made["cells"])] == ["own/tiny", "paper", 4]
        assert sorted(recipe["kind"] for recipe in made["recipes"]) == (
            ["samples"] * 2 + ["score"] * 4 + ["trained"] * 2
        )
        keys = {recipe["key"] for recipe in made["recipes"]}
        assert all(recipe["state"] == "missing" for recipe in made["recipes"])
        assert all(set(recipe["needs"]) <= keys for recipe in made["recipes"])
        assert all(set(cell["scores"]) <= keys for cell in made["cells"])

    def test_it_takes_every_option_of_reproduce(self):
        options = [
            {name for each in command.params for name in each.opts}
            for command in _commands("plan", "reproduce")
        ]
        assert options[0] == options[1]


def _commands(*names: str) -> Iterator[click.Command]:
    for name in names:
        yield main.commands[name]


class TestReproduce:
    def test_text_json_and_figures(self, here):
        made = run("reproduce", "own/tiny")
        assert made.exit_code == 0, made.output
        lines = made.stdout.splitlines()
        assert lines[0] == "own/tiny · laptop scale · 2 seeds"
        assert "  Trained.steps = 2" in lines
        folder = next((here / "artifacts/tables").iterdir())
        assert folder.name.startswith("own-tiny.laptop.")
        assert lines[-1] == f"figure: {Path('artifacts/tables', folder.name, 'both.png')}"
        assert (folder / "table.txt").read_text() == "\n".join(lines[:-1]) + "\n"
        assert "seed 1/2 · VAE · 25 Gaussians · EMD" in made.stderr

        document = json.loads((folder / "table.json").read_text())
        assert [cell["n"] for cell in document["cells"]] == [2, 2, 2, 2]
        assert document["claims"][0]["holds"] in (True, False)
        assert document == json.loads(well("reproduce", "own/tiny", "--json"))

    def test_said_again_it_trains_nothing(self, here):
        first = well("reproduce", "own/tiny")
        before = times(here)
        made = run("reproduce", "own/tiny")
        assert made.stdout == first
        assert made.stderr == ""
        assert times(here) == before

    def test_what_scales_and_rows_share_is_made_once(self, here):
        well("reproduce", "own/tiny", "--rows", "VAE")
        before = times(here)
        well("reproduce", "own/tiny")
        assert before.items() <= times(here).items()
        assert len(artifacts(here, "trained")) == 4

    def test_a_selection_leaves_the_whole_table_alone(self, here):
        whole = well("reproduce", "own/tiny")
        [folder] = (here / "artifacts/tables").iterdir()
        before = (folder / "table.txt").read_text()
        well("reproduce", "own/tiny", "--rows", "VAE")
        assert (folder / "table.txt").read_text() == before == whole[: whole.index("figure:")]
        assert "VAE + EBM  " not in (folder / "selection.txt").read_text()
        assert len(json.loads((folder / "selection.json").read_text())["cells"]) == 2
        well("reproduce", "own/tiny", "--seeds", "1")
        assert len(list((here / "artifacts/tables").iterdir())) == 2
        assert (folder / "table.txt").read_text() == before

    def test_a_figure_that_waits_says_so(self):
        made = run("reproduce", "own/tiny", "--rows", "VAE")
        assert "not drawn, since not all that is shown is made: both" in made.stderr
        assert made.exit_code == 0

    def test_a_figure_of_other_cells_is_passed_over(self):
        other = ("--set", "Comparison.samples=(@ebm/Samples(),)", "--set", "Comparison.labels=('VAE + EBM',)")
        made = run("reproduce", "own/tiny", "--rows", "VAE", *other)
        assert made.exit_code == 0
        assert "not drawn" not in made.stderr

    def test_an_empty_name_is_no_store(self, here):
        made = run("reproduce", "own/tiny", "--store", "")
        assert made.exit_code == 2
        assert "an empty name is no folder" in made.stderr
        assert sorted(path.name for path in here.iterdir()) == ["reproductions"]

    def test_selection(self):
        def cells(*words: str) -> list[str]:
            return [
                f"{each['row']} {each['metric']}" for each in document("plan", "own/tiny", *words)["cells"]
            ]

        assert len(cells()) == 4
        assert cells("--rows", "VAE") == ["VAE EMD", "VAE modes"]
        assert cells("--rows", "*EBM, VAE") == cells()
        assert len(cells("--rows", "VAE", "--rows", "*EBM", "--columns", "25*")) == 4
        assert cells("--rows", "VAE", "--metrics", "mod*") == ["VAE modes"]

    def test_a_name_with_a_comma_is_taken_whole(self, here):
        path = here / "comma.gin"
        path.write_text(TINY.replace("'VAE + EBM'", "'VAE, tilted'"))
        shown = document("plan", str(path), "--scale", "paper", "--rows", "VAE, tilted")["cells"]
        assert {each["row"] for each in shown} == {"VAE, tilted"}
        both = document("plan", str(path), "--scale", "paper", "--rows", "*tilted,VAE")["cells"]
        assert {each["row"] for each in both} == {"VAE", "VAE, tilted"}

    def test_seeds_bindings_and_files(self, here):
        (here / "more.gin").write_text("EMD.count = 10\n")
        made = document(
            "reproduce", "own/tiny", "--seeds", "1", "--set", "Langevin.step_size=0.02", "--gin", "more.gin"
        )
        assert {cell["n"] for cell in made["cells"]} == {1}
        assert made["cells"][0]["overrides"] == [
            "EMD.count = 10",
            "Trained.steps = 2",
            "Langevin.step_size = 0.02",
            "--seeds 1",
        ]

    def test_a_file_and_a_store_elsewhere(self, here, monkeypatch):
        path = here / "elsewhere.gin"
        path.write_text(TINY)
        monkeypatch.setenv("EBMZOO_STORE", str(here / "shelf"))
        well("reproduce", str(path), "--scale", "paper", "--rows", "VAE", "--seeds", "1")
        assert (here / "shelf").is_dir()
        assert not (here / "artifacts").exists()

    def test_several_tables(self, here):
        (here / "reproductions/own/other.gin").write_text(TINY)
        made = json.loads(well("reproduce", "own/tiny", "own/other", "--scale", "paper", "--json"))
        assert [each["table"] for each in made] == ["own/tiny", "own/other"]
        assert made[0]["cells"] == made[1]["cells"]

    def test_a_failing_cell(self, here):
        made = run("reproduce", "own/tiny", "--set", "EMD.count=1000", "--json")
        assert made.exit_code == 1
        cells = json.loads(made.stdout)["cells"]
        assert [cell["error"] is None for cell in cells] == [False, True, False, True]
        assert "count is 1000" in cells[0]["error"]
        assert cells[1]["value"] is not None

    def test_a_failing_figure(self, here, monkeypatch):
        def refuse(figure: figures.Comparison, store: Store) -> None:
            raise TypeError("no ink")

        monkeypatch.setattr(figures.Comparison, "draw", refuse)
        made = run("reproduce", "own/tiny", "--json")
        assert made.exit_code == 1
        assert len(json.loads(made.stdout)["cells"]) == 4
        assert "error: figure both: " in made.stderr
        assert "no ink" in made.stderr

    def test_out_of_time(self, here):
        made = run("reproduce", "own/tiny", "--time-limit", "0.000001s", "--json")
        assert made.exit_code == 75
        assert {cell["n"] for cell in json.loads(made.stdout)["cells"]} == {0}
        assert made.stderr.splitlines()[-1].startswith("stopped in time, with work left")
        assert not artifacts(here)
        assert not list(here.glob("artifacts/tables/*/*.png"))
        well("reproduce", "own/tiny", "--time-limit", "1h")

    def test_what_is_kept_is_shown_when_time_is_over(self, here):
        whole = json.loads(well("reproduce", "own/tiny", "--json"))["cells"]
        lost = next(here.glob(f"artifacts/{whole[0]['artifact']}"))
        shutil.rmtree(lost)
        made = run("reproduce", "own/tiny", "--time-limit", "0.000001s", "--json")
        assert made.exit_code == 75
        cells = json.loads(made.stdout)["cells"]
        assert cells[1:] == whole[1:]
        assert cells[0]["n"] == whole[0]["n"] - 1

    def test_a_file_that_includes_a_table_is_that_table_with_differences(self, here):
        path = here / "mine.gin"
        path.write_text("include 'own/tiny.gin'\nEMD.count = 10\n")
        words = ("reproduce", str(path), "--scale", "paper", "--rows", "VAE", "--seeds", "1", "--json")
        cells = json.loads(well(*words))["cells"]
        assert [cell["overrides"] for cell in cells] == [["EMD.count = 10", "--seeds 1"]] * 2

    def test_an_interrupt_before_work_begins(self, monkeypatch):
        def interrupted(*words: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("ebmzoo.cli.tables.configure", interrupted)
        made = run("reproduce", "own/tiny")
        assert made.exit_code == 75
        assert made.stderr == "stopped in time, with work left; say the same command again to go on\n"

    def test_signals_are_put_back(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        well("reproduce", "own/tiny", "--rows", "VAE", "--seeds", "1")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    @pytest.mark.slow
    def test_two_at_once_make_it_together(self, here):
        words = [sys.executable, "-m", "ebmzoo", "reproduce", "own/tiny", "--json"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        both = [
            subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(2)
        ]
        told = [each.communicate(timeout=300) for each in both]
        assert [each.returncode for each in both] == [0, 0], told
        assert told[0][0] == told[1][0]
        assert len(artifacts(here)) == 16

    def test_a_full_disk_is_told(self, monkeypatch):
        def refuse(*words: object) -> None:
            raise OSError(28, "No space left on device", "table.json")

        monkeypatch.setattr("ebmzoo.store.write", refuse)
        made = run("reproduce", "own/tiny")
        assert made.exit_code == 1
        assert "VAE + EBM" in made.stdout
        assert "error: No space left on device: table.json. What was made is kept" in made.stderr
        monkeypatch.setattr("ebmzoo.store.references.write", refuse)
        again = run("reproduce", "own/tiny", "--json")
        assert again.exit_code == 1
        assert all(cell["value"] is not None for cell in json.loads(again.stdout)["cells"])


class TestSample:
    WORDS = ("sample", "own/tiny", "--row", "VAE + EBM", "--column", "25 Gaussians")

    def test_a_picture(self, here):
        assert well(*self.WORDS, "--out", "points.png") == "points.png\n"
        assert (here / "points.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", (here / "points.png").read_bytes()[16:24])
        assert min(width, height) > 200

    def test_numbers(self, here):
        well(*self.WORDS, "--count", "10", "--out", "points.npy")
        points = np.load(here / "points.npy")
        assert points.shape == (10, 2)
        assert np.isfinite(points).all()

    def test_the_models_of_the_table_are_used(self, here):
        well("reproduce", "own/tiny")
        trained = artifacts(here, "trained")
        for seed in ("0", "1"):
            well(*self.WORDS, "--count", "10", "--seed", seed, "--out", f"{seed}.npy")
        assert artifacts(here, "trained") == trained
        assert not np.array_equal(np.load(here / "0.npy"), np.load(here / "1.npy"))
        well(*self.WORDS, "--count", "10", "--out", "again.npy")
        assert np.array_equal(np.load(here / "0.npy"), np.load(here / "again.npy"))

    def test_what_was_sampled_is_not_pruned(self, here):
        well(*self.WORDS, "--out", "points.npy")
        assert len(artifacts(here, "trained")) == 2
        assert "nothing to remove" in well("store", "prune", "--yes")

    def test_out_of_time(self, here):
        made = run(*self.WORDS, "--out", "points.npy", "--time-limit", "0.000001s")
        assert made.exit_code == 75
        assert not (here / "points.npy").exists()

    def test_data_without_a_picture(self, here, monkeypatch):
        monkeypatch.setattr(figures, "drawable", lambda shape: False)
        made = run(*self.WORDS, "--out", "points.png")
        assert made.exit_code == 2
        assert "error: --out points.png: data of shape (2,) have no picture" in made.stderr
        assert not (here / "artifacts").exists()


class TestStore:
    @pytest.fixture
    def store(self, here):
        well("reproduce", "own/tiny", "--seeds", "1")
        return Store(here / "artifacts")

    def test_list(self, here, store):
        made = run("store", "list")
        lines = made.stdout.splitlines()
        assert len(lines) == 8
        assert all(" whole " in line for line in lines)
        assert made.stderr.startswith("8 artifacts, ")
        rows = json.loads(well("store", "list", "--json"))
        assert {row["state"] for row in rows} == {"whole"}
        assert sorted(row["kind"] for row in rows) == ["samples"] * 2 + ["score"] * 4 + ["trained"] * 2

    def test_verify(self, here, store):
        assert well("store", "verify") == "8 whole, 0 begun, 0 damaged\n"
        path = next((here / "artifacts").glob("samples-*/artifact.*"))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        made = run("store", "verify")
        assert made.exit_code == 1
        assert made.stdout.splitlines() == [
            f"{path.parent.name}: the checksum of artifact.safetensors is not that in run.json",
            "7 whole, 0 begun, 1 damaged",
        ]
        states = [row["state"] for row in json.loads(run("store", "verify", "--json").stdout)]
        assert states.count("damaged") == 1

    def test_a_damaged_artifact_is_named_pruned_and_made_again(self, here, store):
        before = document("reproduce", "own/tiny", "--seeds", "1")
        [path, _] = (here / "artifacts").glob("trained-*/artifact.*")
        path.write_bytes(b"nothing")
        for score in (here / "artifacts").glob("score-*/artifact.json"):
            score.unlink()
        for samples in (here / "artifacts").glob("samples-*/artifact.*"):
            samples.unlink()
        made = run("reproduce", "own/tiny", "--seeds", "1")
        assert made.exit_code == 1
        assert path.parent.name in made.stdout
        assert "is damaged" in made.stdout
        assert f"{path.parent.name}: damaged:" in well("store", "prune", "--yes")
        assert not path.parent.exists()
        after = document("reproduce", "own/tiny", "--seeds", "1")
        assert [cell["values"] for cell in after["cells"]] == [cell["values"] for cell in before["cells"]]

    def test_what_is_kept_is_shown_where_nothing_can_be_written(self, here, store, monkeypatch):
        before = document("reproduce", "own/tiny", "--seeds", "1")
        found = {path: path.stat().st_mtime_ns for path in (here / "artifacts").rglob("*")}
        monkeypatch.setattr("ebmzoo.cli.tables.writable", lambda folder: False)
        monkeypatch.setattr("ebmzoo.cli.samples.writable", lambda folder: False)
        made = run("reproduce", "own/tiny", "--seeds", "1", "--json")
        assert made.exit_code == 0
        assert "artifacts cannot be written: the table is printed" in made.stderr
        assert json.loads(made.stdout) == before
        words = ("--row", "VAE", "--column", "25 Gaussians", "--count", "24", "--out", "drawn.png")
        assert well("sample", "own/tiny", *words) == "drawn.png\n"
        assert {path: path.stat().st_mtime_ns for path in (here / "artifacts").rglob("*")} == found

    def test_a_table_is_printed_from_imported_scores(self, here, store, monkeypatch):
        before = document("reproduce", "own/tiny", "--seeds", "1")
        assert "4 artifacts, " in well("store", "export", "scores.zip", "score-*")
        monkeypatch.setenv("EBMZOO_STORE", str(here / "elsewhere"))
        came = well("store", "import", "scores.zip")
        assert came == f"4 artifacts are new in {here}/elsewhere, 0 were there\n"
        after = document("reproduce", "own/tiny", "--seeds", "1", "--metrics", "*")
        assert [cell["values"] for cell in after["cells"]] == [cell["values"] for cell in before["cells"]]
        assert not list((here / "elsewhere").glob("trained-*"))
        assert [cell["seconds"] for cell in after["cells"]] == [None] * 4
        assert well("plan", "own/tiny", "--seeds", "1").endswith("everything is kept\n")
        assert "0 artifacts are new" in well("store", "import", "scores.zip")

    def test_export_mistakes(self, here, store):
        made = run("store", "export", "all.zip", "nothing-*")
        assert made.exit_code == 2
        assert "no whole artifact in artifacts is named like that" in made.stderr
        path = next((here / "artifacts").glob("samples-*/artifact.*"))
        path.write_bytes(b"?")
        made = run("store", "export", "all.zip")
        assert made.exit_code == 2
        assert f"damaged: {path.parent.name}; nothing was written" in made.stderr
        assert not list(here.glob("all.zip*"))
        assert "6 artifacts" in well("store", "export", "rest.zip", "score-*", "trained-*")
        assert run("store", "import", "reproductions/own/tiny.gin").exit_code == 1

    def test_prune_leaves_what_is_needed(self, here, store):
        assert well("store", "prune").startswith("nothing to remove")
        well("reproduce", "own/tiny", "--scale", "paper", "--rows", "VAE", "--seeds", "1")
        assert well("store", "prune", "--yes").startswith("nothing to remove")

    def test_prune_removes_what_is_not(self, here, store):
        store.get(SUBJECT)
        needed = set(artifacts(here)) - {store.folder(SUBJECT), store.folder(SUBJECT.model)}
        shown = well("store", "prune", "--dry-run")
        assert f"{store.folder(SUBJECT).name}: needed by no table" in shown
        assert len(shown.splitlines()) == 2
        assert store.folder(SUBJECT).exists()

        made = run("store", "prune", answer="n\n")
        assert made.exit_code == 1
        assert "remove these folders (2)?" in made.stdout
        assert store.folder(SUBJECT).exists()

        assert well("store", "prune", answer="y\n").endswith("removed folders: 2\n")
        assert set(artifacts(here)) == needed
        assert not store.folder(SUBJECT).exists()

    def test_prune_without_an_answer_removes_nothing(self, here, store):
        store.get(SUBJECT)
        assert run("store", "prune").exit_code == 1
        assert store.folder(SUBJECT).exists()

    def test_prune_leaves_what_is_in_use(self, here, store):
        store.get(SUBJECT)
        with filelock.FileLock(store.folder(SUBJECT) / ".lock"):
            made = run("store", "prune", "--yes")
        assert made.exit_code == 1
        assert made.stderr.startswith("error: ")
        assert "in use by another process" in made.stderr
        assert made.stdout.endswith("removed folders: 1\n")
        assert store.folder(SUBJECT).exists()
        assert not store.folder(SUBJECT.model).exists()

    def test_prune_does_not_guess(self, here, store):
        path = next((here / "artifacts/tables").glob("*/references.json"))
        path.write_text("[")
        made = run("store", "prune", "--yes")
        assert made.exit_code == 1
        assert "references.json cannot be read" in made.stderr
        assert len(artifacts(here)) == 8
        again = run("reproduce", "own/tiny", "--seeds", "1")
        assert again.exit_code == 1
        assert "references.json cannot be read" in again.stderr
        assert "VAE + EBM" in again.stdout

    def test_prune_leaves_what_a_table_has_come_to_need(self, here, store, monkeypatch):
        store.get(SUBJECT)

        def reproduced_meanwhile(*words: object, **settings: object) -> None:
            note_references(here / "artifacts/tables/other", [SUBJECT.key])

        monkeypatch.setattr("click.confirm", reproduced_meanwhile)
        made = well("store", "prune")
        assert f"{store.folder(SUBJECT).name}: left, since a table has come to need it" in made
        assert made.endswith("removed folders: 1\n")
        assert store.folder(SUBJECT).exists()

    def test_prune_takes_what_a_killed_process_left_in_whole_artifacts(self, here, store):
        kept = next((here / "artifacts").glob("trained-*"))
        (kept / "checkpoint").write_bytes(b"")
        well("store", "prune", "--yes", "--dry-run")
        assert (kept / "checkpoint").exists()
        well("store", "prune", "--yes")
        assert not (kept / "checkpoint").exists()
        assert len(artifacts(here)) == 8


class TestDoctor:
    def test_it_is_well_here(self, here):
        made = run("doctor")
        assert made.exit_code == 0, made.output
        assert f"✓ ebmzoo         {__version__}" in made.stdout
        assert "✓ tables         ddls/cifar10, ddls/digits, ddls/toy, " in made.stdout
        assert not (here / "artifacts").exists()

    def test_it_says_what_is_missing(self, here, monkeypatch):
        monkeypatch.setenv("EBMZOO_DATA", "nowhere")
        with installed(here / "site", BROKEN):
            made = run("doctor")
        assert made.exit_code == 1
        assert "✗ data           EBMZOO_DATA names nowhere, which is no folder" in made.stdout
        assert (
            "✗ plugin         broken: it cannot be imported (ImportError: cannot import name" in made.stdout
        )


OUT = ("--row", "VAE", "--column", "25 Gaussians")

MISTAKES: list[tuple[Sequence[str], str]] = [
    (["reprodce", "own/tiny"], "No such command 'reprodce'"),
    (["store", "lst"], "No such command 'lst'"),
    (["--jsn"], "No such option"),
    (["list", "--jsn"], "No such option"),
    (["list", "tabels"], "'tabels' is not one of"),
    (["reproduce"], "Missing argument 'TABLE...'; `ebmzoo reproduce --help` says"),
    (["reproduce", "own/tyni"], "There is no table 'own/tyni'; did you mean 'own/tiny'?"),
    (["reproduce", "own/tiny", "tilting/nothing"], "There is no table 'tilting/nothing'"),
    (["reproduce", "nowhere.gin"], "There is no file 'nowhere.gin'"),
    (["reproduce", "reproductions/own/tiny.laptop.gin"], "is the overlay of a table"),
    (["reproduce", "own/tiny", "--scale", "lptop"], "Invalid value for '--scale': 'lptop' is not one of"),
    (["reproduce", "own/tiny", "--scale", "smoke"], "has no scale 'smoke'"),
    (
        ["reproduce", "own/tiny", "--rows", "GAN"],
        "own/tiny has no row that matches 'GAN'; there are VAE, VAE + EBM",
    ),
    (
        ["reproduce", "own/tiny", "--columns", "digits"],
        "has no column that matches 'digits'; there are 25 Gaussians",
    ),
    (["plan", "own/tiny", "--rows", "VEA"], "has no row that matches 'VEA'; did you mean 'VAE'?"),
    (["plan", "own/tiny", "--metrics", "KID"], "own/tiny has no metric that matches 'KID'"),
    (
        ["plan", "tilting/table1", "--columns", "MNIST", "--rows", "VAE", "--metrics", "*-fashion"],
        "no cell that matches VAE · MNIST · *-fashion; what is measured there is FD-mnist, ",
    ),
    (
        ["sample", "own/tiny", *OUT, "--out", "x.png", "--seed", "2"],
        "--seed 2 is none of the table's, which are 0 to 1",
    ),
    (["store", "export", "nowhere/x.zip"], "FILE nowhere/x.zip is in a folder that does not exist; make it"),
    (["reproduce", "own/tiny", "--seeds", "0"], "Invalid value for '--seeds': 0 is not in the range x>=1"),
    (["reproduce", "own/tiny", "--seeds", "many"], "'many' is not a valid integer"),
    (
        ["reproduce", "own/tiny", "--device", "tpu"],
        "there is no device 'tpu'; say auto, cpu, cuda or cuda:<i>",
    ),
    (["reproduce", "own/tiny", "--device", "cuda:99"], "there is no device 'cuda:99' here"),
    (["reproduce", "own/tiny", "--time-limit", "0"], "'0' should be a time above zero"),
    (["reproduce", "own/tiny", "--time-limit", "abc"], "'abc' is no time; write it like 30s, 9m or 1.5h"),
    (["reproduce", "own/tiny", "--time-limit", "nan"], "'nan' should be a time above zero"),
    (["reproduce", "own/tiny", "--time-limit", ""], "'' is no time"),
    (["reproduce", "own/tiny", "--store", "file"], "Invalid value for '--store': Directory 'file' is a file"),
    (["plan", "own/tiny", "--store", "file"], "Directory 'file' is a file"),
    (["reproduce", "own/tiny", "--data", "nowhere"], "Directory 'nowhere' does not exist"),
    (["reproduce", "own/tiny", "--gin", "none.gin"], "There is no file 'none.gin'"),
    (
        ["reproduce", "own/tiny", "--gin", "bad.gin"],
        "has no field 'stepz' (bad.gin:2); did you mean 'steps'?",
    ),
    (["reproduce", "own/tiny", "--set", "Nope.x=1"], "There is no class 'Nope'"),
    (["reproduce", "own/tiny", "--set", "Stage.steps='two'"], "should be a whole number, not 'two'"),
    (["reproduce", "own/tiny", "--set", "Stage.steps=0"], "Stage.steps should be a number above zero, not 0"),
    (["reproduce", "own/tiny", "--set", "nonsense"], "scope/Class.field = value"),
    (["reproduce", "own/tiny", "--set", "abm/Trained.steps=3"], "Nothing reads abm/Trained.steps"),
    (["plan", "tilting/table1", "--set", "vae_emb/Trained.steps=3"], "did you mean 'vae_ebm'?"),
    (["reproduce", "own/tiny", "--set"], "Option '--set' requires an argument"),
    (["sample", "own/tiny", *OUT], "Missing option '--out'"),
    (["sample", "own/tiny", *OUT, "--out", "a.jpg"], "--out a.jpg should end in .png for a picture"),
    (["sample", "own/tiny", *OUT, "--out", "no/a.png"], "is in a folder that does not exist; make it first"),
    (["sample", "own/tiny", *OUT, "--out", "folder.png"], "File 'folder.png' is a directory"),
    (["sample", "own/tiny", *OUT, "--out", "a.png", "--count", "0"], "0 is not in the range x>=1"),
    (["sample", "own/tiny", *OUT, "--out", "a.png", "--seed", "-1"], "-1 is not in the range x>=0"),
    (
        ["sample", "own/tiny", "--row", "VAE", "--column", "digits", "--out", "a.png"],
        "own/tiny has no row 'VAE' with a column 'digits'; there are VAE · 25 Gaussians, VAE",
    ),
    (
        ["sample", "own/tiny", "--row", "VAE*", "--column", "25 Gaussians", "--out", "a.png"],
        "has no row 'VAE*' with a column '25 Gaussians'",
    ),
    (["store", "list"], "there is no store at artifacts; name one with --store or EBMZOO_STORE"),
    (["store", "verify", "--store", "file"], "Directory 'file' is a file"),
    (["store", "prune", "--yes"], "there is no store at artifacts"),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_paragraph_and_makes_nothing(here, words, expected):
    (here / "file").write_text("")
    (here / "folder.png").mkdir()
    (here / "bad.gin").write_text("\nStage.stepz = 3\n")
    before = sorted(here.rglob("*"))
    made = run(*words)
    assert made.exit_code == 2, made.output
    assert made.stdout == ""
    assert made.stderr.startswith("error: ")
    assert made.stderr.count("\n") == 1
    assert made.stderr.endswith("\n")
    assert expected in made.stderr
    assert "Traceback" not in made.stderr
    assert "Usage" not in made.stderr
    assert sorted(here.rglob("*")) == before


def test_a_folder_that_cannot_be_written(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    made = run("sample", "own/tiny", *OUT, "--out", "a.png")
    assert made.exit_code == 2
    assert "error: --out a.png is in a folder that cannot be written; name another" in made.stderr


def test_a_plugin_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("EBMZOO_PLUGINS", "tiltng")
    registry.cache_clear()
    try:
        made = run("list")
    finally:
        registry.cache_clear()
    assert made.exit_code == 2
    assert "EBMZOO_PLUGINS names a plugin 'tiltng'" in made.stderr


def test_debug_shows_where_an_error_comes_from():
    made = run("reproduce", "own/tyni", "--debug")
    assert isinstance(made.exception, ConfigError)
    done = ebmzoo("reproduce", "own/tyni", "--debug")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "ConfigError: There is no table" in done.stderr


def test_debug_shows_what_a_cell_ran_into():
    made = run("reproduce", "own/tiny", "--set", "EMD.count=1000", "--debug")
    assert made.exception is not None
    assert "count is 1000" in str(made.exception)


def test_debug_is_for_one_process():
    made = run("reproduce", "own/tiny", "--debug", "--workers", "2")
    assert made.exit_code == 2
    assert "it needs --workers 1" in made.stderr


def test_an_unforeseen_error_is_told(monkeypatch):
    def fall(*unused: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("ebmzoo.execution.selected", fall)
    made = run("reproduce", "own/tiny")
    assert made.exit_code == 1
    assert made.stderr == (
        "error: ZeroDivisionError: division by zero (say it again with --debug for the traceback)\n"
    )


def test_a_broken_plugin_is_warned_of_and_the_command_works(here):
    with installed(here / "site", BROKEN):
        made = run("list")
        assert made.exit_code == 0
        assert made.stderr.startswith("warning: plugin broken of ebmzoo-broken is left out: it cannot be imp")
        assert made.stderr.count("\n") == 1
        assert "own/tiny" in made.stdout
        assert "broken   ebmzoo-broken 0.3, broken: it cannot" in well("list", "plugins")
        made = run("reproduce", "own/tiny", "--rows", "VAE", "--seeds", "1", "--json")
        assert made.exit_code == 0
        assert json.loads(made.stdout)["cells"]
        assert made.stderr.startswith("warning: plugin broken")
        made = run("reproduce", "own/tyni")
        assert made.exit_code == 2
        assert [line.partition(":")[0] for line in made.stderr.splitlines()] == ["warning", "error"]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_reads_well(path):
    shown = well(*path, "--help")
    assert shown == well(*path, "-h")
    assert shown.startswith(f"Usage: {' '.join(['ebmzoo', *path])} [OPTIONS]")
    assert "``" not in shown
    assert ":class:" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    listed = shown.partition("Commands:\n")[2].splitlines()
    assert all(line.endswith(".") and not line.endswith("...") for line in listed), listed


def test_without_words_there_is_help():
    made = run()
    assert made.exit_code == 2
    assert made.stderr.startswith("Usage: ebmzoo [OPTIONS] COMMAND [ARGS]...")
    assert "error:" not in made.stderr


def ebmzoo(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Says a command in a process of its own."""
    return python("-m", "ebmzoo", *words, **variables)


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=120
    )


def test_as_a_module():
    done = ebmzoo("--version")
    assert (done.returncode, done.stdout) == (0, f"ebmzoo, version {__version__}\n")
    assert ebmzoo("store", "list").returncode == 2


WITHOUT_TORCH = """
import sys
from ebmzoo.cli import main
try:
    main({words!r}, prog_name="ebmzoo")
finally:
    heavy = [name for name in ("torch", "numpy", "matplotlib", "sklearn", "scipy") if name in sys.modules]
    assert not heavy, heavy
"""

LIGHT = [
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "--json"],
    ["list", "plugins"],
    ["reproduce", "--help"],
]


@pytest.mark.parametrize("words", [*LIGHT, ["reproduce", "own/tyni"]], ids=" ".join)
def test_light_commands_do_not_import_torch(words):
    done = python("-c", WITHOUT_TORCH.format(words=words))
    assert "AssertionError" not in done.stderr
    assert done.returncode == (2 if "own/tyni" in words else 0), done.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ebmzoo rep", ["plain,reproduce"]),
        ("ebmzoo reproduce own/", ["plain,own/tiny"]),
        ("ebmzoo reproduce --scale l", ["plain,laptop"]),
        ("ebmzoo list sam", ["plain,samplers"]),
        ("ebmzoo store v", ["plain,verify"]),
        ("ebmzoo nonsense x", []),
    ],
)
def test_completion(typed, expected):
    words = typed.split(" ")
    variables = {
        "_EBMZOO_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = python("-c", WITHOUT_TORCH.format(words=[]), **variables)
    assert done.stdout.split() == expected
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_the_completion_script():
    done = ebmzoo(_EBMZOO_COMPLETE="bash_source")
    assert done.returncode == 0
    assert "_ebmzoo_completion" in done.stdout


def test_a_reader_that_goes_away():
    script = f"{sys.executable} -m ebmzoo list | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_the_scales_are_those_of_the_options():
    [scale] = [each for each in main.commands["reproduce"].params if each.name == "scale"]
    assert isinstance(scale.type, click.Choice)
    assert tuple(scale.type.choices) == SCALES


# ebmzoo data


def test_data_list_knows_what_is_read_from_files(here):
    names = [line.split()[0] for line in well("data", "list", "--data", str(here)).splitlines()]
    assert names == sorted(names)
    assert {"MNIST", "CIFAR10", "RedWine", "MiniBooNE"} <= set(names)
    assert "Digits" not in names
    assert {row["state"] for row in document("data", "list", "--data", str(here), "--json")} == {"absent"}


def test_data_verify_tells_whole_from_damaged_and_absent(here):
    (here / "uci").mkdir()
    (here / "uci/winequality-red.csv").write_text("1;2\n")
    (here / "uci/1000_test.csv.gz").write_bytes(b"no archive")
    result = run("data", "verify", "--data", str(here))
    assert result.exit_code == 1
    assert "damaged" in result.stdout
    assert "winequality-red.csv" in result.stdout
    assert "unchecked" in result.stdout  # the archive publishes no checksum
    assert "WhiteWine" not in result.stdout
    absent = run("data", "verify", "WhiteWine", "--data", str(here))
    assert absent.exit_code == 1
    assert f"ebmzoo data fetch WhiteWine --data {here}" in absent.stderr
    assert run("data", "verify", "--data", str(here / "nowhere")).exit_code == 0


def test_data_fetch_replaces_what_is_damaged(here, monkeypatch):
    import torchvision.datasets.utils as downloads

    asked = []

    def download(address, root, name, md5):
        asked.append(address)
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / name).write_text("fetched")

    monkeypatch.setattr(downloads, "download_url", download)
    (here / "uci").mkdir()
    (here / "uci/winequality-red.csv").write_text("1;2\n")
    assert "RedWine: damaged" in well("data", "fetch", "RedWine", "--data", str(here))
    assert "HepMass: unchecked" in well("data", "fetch", "HepMass", "--data", str(here))
    assert [address.rpartition("/")[2] for address in asked] == [
        "winequality-red.csv",
        "1000_train.csv.gz",
        "1000_test.csv.gz",
    ]
    assert (here / "uci/winequality-red.csv").read_text() == "fetched"


def test_data_fetch_tells_what_failed_and_goes_on(here, monkeypatch):
    import torchvision.datasets.utils as downloads

    def download(address, root, name, md5):
        raise OSError("no network")

    monkeypatch.setattr(downloads, "download_url", download)
    result = run("data", "fetch", "RedWine", "WhiteWine", "--data", str(here))
    assert result.exit_code == 1
    assert "RedWine was not fetched" in result.stderr
    assert "WhiteWine was not fetched" in result.stderr


def test_data_mistakes(here, monkeypatch):
    monkeypatch.delenv("EBMZOO_DATA", raising=False)
    result = run("data", "verify")
    assert result.exit_code == 2
    assert "--data DIR or set EBMZOO_DATA" in result.stderr
    result = run("data", "fetch", "RedWin", "--data", str(here))
    assert result.exit_code == 2
    assert "did you mean 'RedWine'?" in result.stderr


# ebmzoo describe


def test_describe_tells_the_fields_of_a_class():
    shown = well("describe", "Rejection")
    assert "Rejection.percentile: float | None = 80.0" in shown
    assert "Discriminator rejection sampling." in shown
    made = document("describe", "Langevin", "--json")
    assert made["fields"] == [{"name": "step_size", "type": "float", "default": None}]
    assert made["kind"] == "samplers"


def test_describe_knows_every_class():
    for kind in ("methods", "data", "samplers", "metrics", "networks", "parts"):
        for row in json.loads(well("list", kind, "--json")):
            assert well("describe", row["name"]).startswith(f"{row['name']} ({kind})")


def test_describe_names_the_nearest():
    result = run("describe", "Rejektion")
    assert result.exit_code == 2
    assert "did you mean 'Rejection'?" in result.stderr
