"""A training run on disk: all of it, so that a killed run goes on bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Generator

from ebmzoo.store import DamagedArtifact, replace
from ebmzoo.training.batches import Batches
from ebmzoo.training.learner import Learner, restore, state_of
from ebmzoo.training.team import Team


@dataclass
class Progress:
    """How far a run has come.

    Arguments:
        step: The number of updates made.
        seconds: The time they took, over all sessions.
        gradients: The number of gradients of targets, one per chain.
        data: The number of data in all minibatches.
        attempts: What was done about divergence, one entry for each time training went back.
        selection: What the selection of the best model has seen.
        plateau: What the rule that lowers learning rates has seen.
        last: The scalars that the last update reported.
    """

    step: int = 0
    seconds: float = 0.0
    gradients: int = 0
    data: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    selection: dict[str, Any] = field(default_factory=dict)
    plateau: dict[str, Any] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Everything that a training run consists of.

    Arguments:
        learner: The learner.
        batches: Its minibatches.
        rng: Its generator.
        progress: How far it has come.
        team: The processes that make it. The first one writes what all of them have.
    """

    learner: Learner
    batches: Batches
    rng: Generator
    progress: Progress
    team: Team = field(default_factory=Team)

    def save(self, path: Path) -> None:
        """Writes the run to ``path`` as a whole: after a crash the old run or the new one is there."""
        states = self.team.gathered(self._state())
        if not self.team.leads:
            return
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            try:
                torch.save(states[0] | {"others": states[1:]}, file)
            except RuntimeError as error:
                disk = error.__context__  # says that it is full, where torch says "unexpected pos"
                raise (disk if isinstance(disk, OSError) else error) from None
        replace(part, path)

    def _state(self) -> dict[str, Any]:
        state = {
            "progress": vars(self.progress),
            "model": self.learner.model.state_dict(),
            "parts": {name: state_of(part) for name, part in self.learner.parts.items()},
            "batches": self.batches.state(),
            "rng": self.rng.get_state(),
            "torch_rng": torch.get_rng_state(),
        }
        if self.rng.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.rng.device)
        return state

    def load(self, path: Path) -> None:
        """Puts the run back to where :meth:`save` wrote it.

        Nothing is unpickled but tensors and plain values, so that a checkpoint need not be trusted.

        Raises:
            DamagedArtifact: If the file cannot be read, or is no run of this learner.
        """
        try:
            _check_sums(path)
            state = torch.load(path, map_location=self.batches.data.device, weights_only=True)
        except Exception as error:
            raise DamagedArtifact(path.parent, f"{path.name} cannot be read ({_first_line(error)})") from None
        try:
            self._restore(state["others"][self.team.rank - 1] if self.team.rank else state)
        except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{path.name} is no run of this learner, or one of other code ({_first_line(error)})"
            raise DamagedArtifact(path.parent, reason) from None

    def _restore(self, state: dict[str, Any]) -> None:
        vars(self.progress).update(state["progress"])
        self.learner.model.load_state_dict(state["model"])
        for name, part in self.learner.parts.items():
            restore(part, state["parts"][name])
        self.batches.restore({**state["batches"], "rng": state["batches"]["rng"].cpu()})
        self.rng.set_state(state["rng"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.rng.device)


def _check_sums(path: Path) -> None:
    """Raises an error unless the file's records have the checksums beside them; torch does not look."""
    with ZipFile(path) as file:
        broken = file.testzip()
    if broken is not None:
        raise BadZipFile(f"the checksum of {broken} is wrong")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
