"""Several processes make what one makes, each thing once, and end when they should."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from planted import SUBJECT, Planted
from toys import Blob, Chase, Offset, until

from ebmzoo.data.dataset import Dataset
from ebmzoo.execution import measure
from ebmzoo.executors import Job
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.runtime import Deadline, Runtime
from ebmzoo.samplers import Direct
from ebmzoo.store import Recipe, Store
from ebmzoo.tables import Cell
from ebmzoo.training import FreshNoise, GoBack
from ebmzoo.workers import Processes, _device

TWO = Processes(2)
FURTHER = dataclasses.replace(SUBJECT, model=dataclasses.replace(SUBJECT.model, base=SUBJECT.model, seed=9))
ENDLESS = Samples(Trained(Chase(), Blob(), steps=10**8, batch_size=16), Direct(), count=8)
DIVERGING = Samples(
    Trained(
        Chase(planted=((2, "energy_gap", 1e9),)), Blob(), 5, 16, divergence=GoBack(FreshNoise(), attempts=1)
    ),
    Direct(),
    count=8,
)


@dataclass(frozen=True)
class Fatal(Planted):
    """A metric whose process is killed."""

    def value(
        self, samples: torch.Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Any
    ) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def cells(*scores: Score, seeds: int = 1) -> list[Cell]:
    return [Cell(f"row {index}", "toy", score, seeds=seeds) for index, score in enumerate(scores)]


def made(root: Path, kind: str) -> list[Path]:
    return sorted(root.glob(f"{kind}-*/artifact.*"))


def test_two_make_what_one_makes_and_everything_once(tmp_path, capfd):
    asked = cells(Score(SUBJECT, Offset()), Score(FURTHER, Offset()), Score(SUBJECT, Offset(1.0)), seeds=2)
    alone = measure(asked, Store(tmp_path / "one"))
    capfd.readouterr()
    together = measure(asked, Store(tmp_path / "two"), TWO)
    assert [result.values for result in together.results] == [result.values for result in alone.results]
    assert not together.failed
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 6
    assert all(line.startswith("seed") for line in told)  # and none that waits for another process
    for kind in ("trained", "samples", "score"):
        ones, twos = (
            [path.relative_to(tmp_path / name) for path in made(tmp_path / name, kind)]
            for name in ("one", "two")
        )
        assert ones == twos
    before = {path: path.stat().st_mtime_ns for path in made(tmp_path / "two", "*")}
    again = measure(asked, Store(tmp_path / "two"), TWO)
    assert [result.values for result in again.results] == [result.values for result in alone.results]
    assert {path: path.stat().st_mtime_ns for path in made(tmp_path / "two", "*")} == before


def test_failures_are_told_once_and_leave_the_others(tmp_path, capfd):
    asked = cells(
        Score(DIVERGING, Offset()),
        Score(SUBJECT, Fatal("fatal")),
        Score(DIVERGING, Offset(1.0)),
        Score(FURTHER, Offset()),
        Score(SUBJECT, Planted(fault="type")),
    )
    diverged, killed, too, well, wrong = measure(asked, Store(tmp_path), TWO).results
    assert "diverged at update 2 after 1 further attempts: energy_gap is 1e+09" in str(diverged.error)
    assert too.error == diverged.error
    assert "the process that made it was ended from outside, with exit code -9" in str(killed.error)
    assert wrong.error == "TypeError: this is no number"
    assert well.error is None
    assert well.values == (Store(tmp_path).get(asked[3].score),)
    told = capfd.readouterr().err.splitlines()
    begun_of = [line for line in told if line.startswith("seed") and "update" not in line]
    assert len(begun_of) == 4  # what cannot be made is not begun again
    assert sum(line.startswith("failed") for line in told) == 3
    [went_back] = [line for line in told if "back to update 0" in line]
    assert went_back.startswith("seed 1/1 · row 0 · toy · offset: update 2: energy_gap is 1e+09")


class OnceBegun(Deadline):
    """A deadline that comes when two trainings have begun."""

    def __init__(self, root: Path):
        super().__init__()
        self.root = root

    @property
    def passed(self) -> bool:
        return begun(self.root) >= 2


def begun(root: Path) -> int:
    return len(list(root.glob("trained-*/recipe.json")))


def test_the_deadline_comes_for_all(tmp_path):
    asked = cells(*(Score(ENDLESS.reseeded(seed), Offset()) for seed in range(3)))
    measured = measure(asked, Store(tmp_path, Runtime(deadline=OnceBegun(tmp_path))), TWO)
    assert measured.out_of_time
    assert not measured.failed
    assert begun(tmp_path) == 2
    assert len(list(tmp_path.glob("trained-*/checkpoint*"))) >= 2


ASK = """
import sys
from pathlib import Path
from test_workers import ENDLESS, TWO, Offset, Score, cells, measure, Store
if __name__ == "__main__":
    asked = cells(*(Score(ENDLESS.reseeded(seed), Offset()) for seed in range(2)))
    measure(asked, Store(Path(sys.argv[1])), TWO)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes where Linux lists them")
def test_nobody_is_left_behind_by_a_process_that_is_killed(tmp_path):
    script, root = tmp_path / "ask.py", tmp_path / "store"
    script.write_text(ASK)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    first = subprocess.Popen([sys.executable, script, root], env=environment)
    try:
        until(lambda: begun(root) == 2)
        others = _children(first.pid)
        assert len(others) >= 2
    finally:
        first.kill()
        first.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others))
    assert len(list(root.glob("trained-*/checkpoint*"))) >= 2


def _children(parent: int) -> list[int]:
    """Returns the processes that a process has started."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_processes_take_cuda_devices_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_device("cuda", rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert _device("cuda:1", 0) == "cuda:1"
    assert _device("cpu", 1) == "cpu"


def test_a_class_that_other_processes_cannot_import_fails_its_cell_alone(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Local(Offset):
        """A metric of a module that is nowhere on disk."""

    module = ModuleType("nowhere")
    module.Local, Local.__module__, Local.__qualname__ = Local, "nowhere", "Local"
    monkeypatch.setitem(sys.modules, "nowhere", module)
    outcome = measure(cells(Score(SUBJECT, Local()), Score(SUBJECT, Offset())), Store(tmp_path), TWO)
    lost, kept = outcome.results
    assert "No module named 'nowhere'" in lost.error
    assert "in one process" in lost.error
    assert kept.complete


def test_a_process_that_is_lost_while_it_has_nothing_to_do_is_replaced(tmp_path):
    scores = (Score(SUBJECT, Offset()), Score(FURTHER, Offset()))
    jobs = [Job(0, index, of) for index, of in enumerate(cells(*scores))]
    outcomes = Processes(1).outcomes(jobs, Store(tmp_path))
    first, _ = next(outcomes)
    assert first is jobs[0]
    [idle] = active_children()
    idle.kill()
    idle.join()
    second, value = next(outcomes)
    assert second is jobs[1]
    assert isinstance(value, float)
    assert list(outcomes) == []
