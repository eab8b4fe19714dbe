"""However a command is stopped, saying it again ends at the same bits, and nothing is made twice."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from toys import processes, until

TABLE = """
Table.source = 'ours: a test'
Table.cells = (@base/Cells(), @tilted/Cells())

Cells.column = 'roll'
Cells.subject = @Samples()
Cells.metrics = (@EMD(), @SlicedWasserstein())
Samples.count = 100
Samples.shard = 30
EMD.count = 60
SlicedWasserstein.count = 100
SlicedWasserstein.projections = 10
SwissRoll.count = 500

base/Cells.row = 'base'
base/Samples.model = %BASE
base/Samples.sampler = @Direct()

BASE = @vae/Trained()
vae/Trained.method = @VAE()
vae/Trained.data = @SwissRoll()
vae/Trained.steps = 7
vae/Trained.batch_size = 64
vae/VAE.latent = 2
vae/VAE.generator = @MLPGenerator()
vae/VAE.encoder = @MLPEncoder()
vae/VAE.likelihood = @Gaussian()
vae/Gaussian.sigma = 0.1
MLPGenerator.hidden = 16
MLPEncoder.hidden = 16

tilted/Cells.row = 'tilted'
tilted/Samples.model = @Trained()
tilted/Samples.sampler = @Chains()
tilted/Trained.method = @Tilting()
tilted/Trained.base = %BASE
tilted/Trained.data = @SwissRoll()
tilted/Trained.steps = 6
tilted/Trained.batch_size = 32
tilted/Trained.divergence = @GoBack()
tilted/Trained.selection = @Selection()
GoBack.every = 2
Selection.metric = @EMD()
Selection.sampler = @Direct()
Selection.every = 3
Selection.count = 60
tilted/Tilting.energy = @MLPEnergy()
MLPEnergy.hidden = 16
tilted/Tilting.schedule = (@Stage(),)
Chains.schedule = (@Stage(),)
Stage.kernel = @Langevin()
Stage.steps = 2
Langevin.step_size = 0.01
"""


@dataclass(frozen=True)
class Moment:
    """When a file of a name is renamed into place for the n-th time, this happens.

    Whatever a run keeps is renamed into place, so these are all the moments at which the disk differs.

    Arguments:
        name: The name of the file, as a pattern.
        nth: Which time it is, from 1.
        deed: ``before``: killed just before the rename. ``torn``: the same, with half of the file written.
            ``after``: killed just after it. Or the name of a signal that the process gets, or ``late``: an
            hour passes.
    """

    name: str
    nth: int = 1
    deed: str = "after"


def reproduce(table: Path, root: Path, out: Path, moment: Moment | None = None, *options: str) -> None:
    """Is a process that says ``ebmzoo reproduce``, with a checkpoint after every update."""
    import torch

    from ebmzoo.cli import main
    from ebmzoo.store import Recipe, Store
    from ebmzoo.training import loop

    torch.set_num_threads(1)
    loop.SAVE_INTERVAL = -1.0
    with out.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    rename, seen, make = os.replace, itertools.count(1), Store._make

    def eventful(source: Any, target: Any) -> None:
        deed = ""
        if moment is not None and fnmatch.fnmatch(Path(target).name, moment.name):
            deed = moment.deed if next(seen) == moment.nth else ""
        if deed == "torn":
            os.truncate(source, os.path.getsize(source) // 2)
        if deed in ("torn", "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if deed == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "late":
            clock = time.monotonic
            time.monotonic = lambda: clock() + 3600
        elif deed:
            signal.raise_signal(signal.Signals[deed])

    def noted(store: Store, recipe: Recipe) -> None:
        make(store, recipe)
        with (root / "journal").open("a") as journal:
            journal.write(f"{recipe.key}\n")

    vars(os)["replace"] = eventful
    type.__setattr__(Store, "_make", noted)
    main(["reproduce", str(table), "--scale=paper", f"--store={root}", "--device=cpu", *options])


def start(table: Path, root: Path, moment: Moment | None = None, *options: str) -> BaseProcess:
    root.mkdir(exist_ok=True)
    out = root / f"out-{len(list(root.glob('out-*')))}"
    process = processes().Process(target=reproduce, args=(table, root, out, moment, *options))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def run(table: Path, root: Path, moment: Moment | None = None, *options: str) -> int | None:
    return ended(start(table, root, moment, *options))


def outcome(root: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions: artifacts, the table, and what training reported."""
    artifacts = {path.relative_to(root): path.read_bytes() for path in root.rglob("artifact.*")}
    [table] = root.glob("tables/*/table.json")
    cells = json.loads(table.read_text())["cells"]
    told = ("row", "metric", "value", "gradient_evaluations", "attempts", "artifact", "error")
    runs = {path.parent.name: json.loads(path.read_text()) for path in root.glob("*/run.json")}
    reported = ("updates", "selection", "attempts", "gradient_evaluations", "artifact", "protocol")
    return {
        "artifacts": artifacts,
        "cells": [{name: cell[name] for name in told} for cell in cells],
        "runs": {name: {key: record.get(key) for key in reported} for name, record in runs.items()},
    }


def left_over(root: Path) -> list[str]:
    patterns = ("*.part", "checkpoint*", "shard-*")
    return [str(path) for pattern in patterns for path in root.rglob(pattern)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "small.gin"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a command that nothing disturbed."""
    root = tmp_path_factory.mktemp("finished")
    assert run(table, root) == 0
    assert left_over(root) == []
    return root


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> dict[str, Any]:
    expected = outcome(finished)
    assert len(expected["artifacts"]) == 8
    assert len(expected["cells"]) == 4
    assert all(cell["error"] is None for cell in expected["cells"])
    return expected


KILLS = {
    "in training": [
        Moment("recipe.json", 1, "torn"),
        Moment("checkpoint", 1),
        Moment("checkpoint", 3, "torn"),
        Moment("checkpoint", 2, "before"),
    ],
    "at milestones": [Moment("checkpoint.2"), Moment("checkpoint.4", 1, "torn"), Moment("checkpoint.6")],
    "in sampling": [
        Moment("shard-*.safetensors", 2),
        Moment("shard-*.safetensors", 1, "torn"),
        Moment("shard-*.json", 3, "torn"),
        Moment("shard-*.json", 1),
    ],
    "at the artifact": [
        Moment("run.json", 1, "before"),
        Moment("run.json", 1),
        Moment("artifact.*", 1, "torn"),
        Moment("artifact.*", 1),
        Moment("artifact.*", 4, "before"),
        Moment("artifact.json", 1),
    ],
    "at the table": [Moment("references.json", 1, "torn"), Moment("table.json", 1, "torn")],
}


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_command_ends_the_same_when_it_is_said_again(
    name: str, table: Path, tmp_path: Path, undisturbed: dict[str, Any]
):
    for moment in KILLS[name]:
        assert run(table, tmp_path, moment) == -signal.SIGKILL, moment
    assert run(table, tmp_path) == 0
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("name", "deed"), [("checkpoint", "SIGTERM"), ("shard-*.json", "SIGINT"), ("checkpoint", "late")]
)
def test_a_command_that_is_asked_to_stop_says_so_and_goes_on(
    deed: str, name: str, table: Path, tmp_path: Path, undisturbed: dict[str, Any]
):
    assert run(table, tmp_path, Moment(name, 2, deed), "--time-limit=30m") == 75
    assert "say the same command again to go on" in (tmp_path / "out-0").read_text()
    assert list(tmp_path.glob("*/checkpoint" if name == "checkpoint" else "*/shard-*"))
    made = (tmp_path / "journal").read_text() if (tmp_path / "journal").exists() else ""
    assert run(table, tmp_path) == 0
    assert (tmp_path / "journal").read_text().startswith(made)
    assert outcome(tmp_path) == undisturbed
    assert left_over(tmp_path) == []
    assert max(Counter((tmp_path / "journal").read_text().split()).values()) == 1


def test_two_commands_at_once_share_the_work(table: Path, tmp_path: Path, undisturbed: dict[str, Any]):
    both = [start(table, tmp_path), start(table, tmp_path)]
    assert [ended(process) for process in both] == [0, 0]
    made = Counter((tmp_path / "journal").read_text().split())
    assert len(made) == 8
    assert set(made.values()) == {1}
    assert outcome(tmp_path) == undisturbed
    assert left_over(tmp_path) == []


def test_one_command_goes_on_where_another_was_killed_beside_it(
    table: Path, tmp_path: Path, undisturbed: dict[str, Any]
):
    """The lock of a killed process is free at once, and who waits for it takes over its checkpoint."""
    first = start(table, tmp_path, Moment("checkpoint", 4))
    until(lambda: list(tmp_path.glob("*/checkpoint")))
    second = start(table, tmp_path)
    assert ended(first) == -signal.SIGKILL
    assert ended(second) == 0
    assert outcome(tmp_path) == undisturbed


def test_a_finished_command_makes_nothing_when_it_is_said_again(table: Path, finished: Path):
    def times() -> dict[Path, int]:
        paths = [path for path in finished.glob("*/*") if path.parent.name != "tables"]
        return {path: path.stat().st_mtime_ns for path in paths}

    before, journal = times(), (finished / "journal").read_text()
    assert run(table, finished, Moment("artifact.*", 1, "before")) == 0
    assert times() == before
    assert (finished / "journal").read_text() == journal


@pytest.mark.slow
def test_a_command_killed_at_any_time_ends_the_same(table: Path, tmp_path: Path, undisturbed: dict[str, Any]):
    """A hundred times, at random; the store is begun anew whenever it is finished."""
    rng, finished = random.Random(0), 0
    root = tmp_path / "0"
    for _ in range(100):
        process = start(table, root)
        process.join(rng.uniform(0.0, 1.5))
        process.kill()
        if ended(process) == 0:
            assert outcome(root) == undisturbed
            finished += 1
            root = tmp_path / str(finished)
    assert run(table, root) == 0
    assert outcome(root) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["before", "torn", "after"])
def test_a_command_killed_at_every_rename_ends_the_same(
    deed: str, table: Path, tmp_path: Path, undisturbed: dict[str, Any]
):
    for nth in itertools.count(1):
        root = tmp_path / str(nth)
        if run(table, root, Moment("*", nth, deed)) == 0:
            break
        assert run(table, root) == 0, nth
        assert outcome(root) == undisturbed, nth
    assert nth > 60
