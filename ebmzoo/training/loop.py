"""The only training loop: it logs, keeps checkpoints, watches for divergence and stops in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ebmzoo.models import counting_evaluations
from ebmzoo.runtime import Deadline, OutOfTime, progress, say
from ebmzoo.training.batches import Batches
from ebmzoo.training.checkpoint import Progress, Run
from ebmzoo.training.divergence import Diverged, Policy, Stop, check_reported, trouble
from ebmzoo.training.learner import Learner
from ebmzoo.training.log import Log
from ebmzoo.training.plateau import Watch
from ebmzoo.training.selection import Referee
from ebmzoo.training.team import Team

SAVE_INTERVAL = 20.0
"""Seconds between two checkpoints. When they are written changes no number."""


def fit(
    learner: Learner,
    batches: Batches,
    steps: int,
    rng: Generator,
    checkpoint: Path,
    *,
    policy: Policy = Stop(),  # noqa: B008
    referee: Referee | None = None,
    watch: Watch | None = None,
    log: Log | None = None,
    deadline: Deadline | None = None,
    label: str = "training",
    team: Team | None = None,
) -> Progress:
    """Makes ``steps`` updates, going on from ``checkpoint`` if there is one.

    However often the process is killed, the model ends bit-identical to that of an undisturbed run on the
    same device.

    Arguments:
        learner: What learns.
        batches: Minibatches of its data.
        steps: The number of updates.
        rng: The generator of the updates' noise.
        checkpoint: The path of the checkpoint. Points that a policy can go back to are kept beside it.
        policy: What is done about divergence.
        referee: What keeps the best model, if the last is not the one to be kept.
        watch: What lowers the learning rates where nothing comes of them, or None.
        log: Where reports go.
        deadline: When to stop.
        label: What the progress bar says.
        team: The processes that make the run together, each calling this function with a log of its own.

    Returns:
        How the run went, and the learner's model has the chains of all processes, in the first one.

    Raises:
        Diverged: If training diverged, and the policy allows no further attempt and does not settle for the
            best model, or there is none yet.
        OutOfTime: If the deadline came. A checkpoint is written first.
    """
    team = team or Team()
    team.share_gradients(learner)
    session = _Session(Run(learner, batches, rng, Progress(), team), checkpoint, policy, referee, watch)
    session.begin()
    deadline = deadline or Deadline()
    log = log or Log(None, steps)
    done = session.run.progress
    try:
        unfinished = iter(lambda: done.step < steps and not session.stopped, False)
        for _ in progress(unfinished, label, steps, done.step):
            out_of_time, due = team.told(deadline.passed, session.due)
            if out_of_time or due:
                session.save()
            if out_of_time:
                raise OutOfTime
            drawn = batches.drawn
            with counting_evaluations() as evaluations:
                values = learner.step(batches, rng)
            if done.step == 0:
                team.agree(learner)
            done.step += 1
            done.data += batches.drawn - drawn
            done.gradients += evaluations.gradients
            session.finish_update(values, log)
    finally:
        log.close()
    session.clock()
    if referee is not None:
        referee.take_best(learner.model, done)
    learner.model.chains = team.joined(learner.model.chains)
    done.data, done.gradients = team.total(done.data), team.total(done.gradients)
    return done


class _Session:
    """A run within one process: its clock, its checkpoints and what it does about divergence."""

    def __init__(
        self, run: Run, checkpoint: Path, policy: Policy, referee: Referee | None, watch: Watch | None
    ):
        self.run, self.checkpoint, self.policy, self.referee = run, checkpoint, policy, referee
        self.watch = watch
        self.stopped = False
        self.clocked = self.saved = time.monotonic()

    def begin(self) -> None:
        """Goes on from the checkpoint, or marks the point that training can always go back to."""
        self.run.team.wait()  # until nobody writes any more
        if self.checkpoint.exists():
            self.run.load(self.checkpoint)
            self.stopped = self.referee is not None and self.referee.satisfied(self.run.progress)
        elif self.policy.every is not None:
            self.mark(self.policy.every)

    def mark(self, every: int) -> None:
        """Keeps this point to go back to, beside the one before."""
        self.clock()
        step = self.run.progress.step
        self.run.save(self._milestone(step))
        if self.run.team.leads:
            self._milestone(step - 2 * every).unlink(missing_ok=True)

    def _milestone(self, step: int) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}.{step}")

    def clock(self) -> None:
        """Adds the time since the last call to the run's."""
        now = time.monotonic()
        self.run.progress.seconds += now - self.clocked
        self.clocked = now

    @property
    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() - self.saved > SAVE_INTERVAL

    def save(self) -> None:
        """Writes the checkpoint."""
        self.clock()
        self.run.save(self.checkpoint)
        self.saved = time.monotonic()

    def finish_update(self, values: dict[str, Tensor], log: Log) -> None:
        """Looks at what an update reported, and does what follows from it."""
        done = self.run.progress
        scalars = self.run.team.mean(_scalars(values))
        if done.step == 1:
            check_reported(self.policy.limits, scalars)
        seen = trouble(scalars, self.policy.limits)
        if seen is not None:
            return self.go_back(seen)
        done.last = scalars
        if log.wants(done.step):
            log.write(done.step, scalars | _learning_rates(self.run.learner), values)
        if self.referee is not None:
            self.stopped = self.referee.look(self.run.learner.model, done, log, self.run.team)
        if self.watch is not None:
            self.watch.look(self.run.learner, done, log, self.run.team)
        if self.policy.every is not None and done.step % self.policy.every == 0:
            self.mark(self.policy.every)
        return None

    def go_back(self, seen: str) -> None:
        """Goes back to the last milestone that can be trusted, and changes what the policy changes."""
        run, step = self.run, self.run.progress.step
        attempts: list[dict[str, Any]] = list(run.progress.attempts)
        if len(attempts) >= self.policy.attempts:
            if self.policy.settles and self.referee is not None and self.referee.settle(run.progress, seen):
                self.stopped = True
                if run.team.leads:
                    best = run.progress.selection["step"]
                    say(f"update {step}: {seen}; training ends, with the model of update {best}, the best")
                return
            history = f" after {len(attempts)} further attempts" if attempts else ""
            remedy = "Lower the learning rate or the sampler's step"
            if step == 1:
                remedy = "Nothing was learnt before: look at what the networks return"
            elif self.policy.every is None:
                remedy += (
                    ", or declare a policy that goes back and changes something "
                    "(Trained.divergence = @GoBack())"
                )
            raise Diverged(
                f"training diverged at update {step}{history}: {seen}. {remedy}", len(attempts) + 1
            )
        spent = {name: getattr(run.progress, name) for name in ("gradients", "data", "seconds")}
        run.team.wait()  # until the milestone is written
        run.load(self._trusted(step))
        applied = len(run.progress.attempts)
        words = ""
        for attempt in range(applied, len(attempts) + 1):
            words = self.policy.amend(run.learner, run.rng, attempt + 1)
        attempt_record = {"step": step, "saw": seen, "went_back_to": run.progress.step, "changed": words}
        run.progress.attempts = [*attempts, attempt_record]
        vars(run.progress).update(spent)
        if run.team.leads:
            say(f"update {step}: {seen}; back to update {run.progress.step}, {words}")
        self.save()

    def _trusted(self, step: int) -> Path:
        """Returns the last milestone that as many good updates followed as lie between two milestones.

        One that trouble follows closely may have the cause of it in its weights already.
        """
        every = self.policy.every or 0
        last = (step - 1) // every * every
        before = self._milestone(last - every)
        return before if before.exists() else self._milestone(last)


def _scalars(values: dict[str, Tensor]) -> dict[str, float]:
    """Fetches all scalars from the device at once."""
    named = [(name, value) for name, value in values.items() if value.ndim == 0]
    if not named:
        return {}
    numbers = torch.stack([value for _, value in named]).tolist()
    return {name: number for (name, _), number in zip(named, numbers, strict=True)}


def _learning_rates(learner: Learner) -> dict[str, float]:
    optimizers = {n: p for n, p in learner.parts.items() if isinstance(p, torch.optim.Optimizer)}
    return {f"learning_rate/{name}": part.param_groups[0]["lr"] for name, part in optimizers.items()}
