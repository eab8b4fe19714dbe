"""Which cells of a table are made, on which device, and what comes of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ebmzoo.executors import HERE, Executor, Failure, Job
from ebmzoo.models import Evaluations
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.runtime import OutOfTime, UnknownDevice, say
from ebmzoo.store import Store, StoreError, everything_behind
from ebmzoo.tables import Cell, Table
from ebmzoo.training import Selection
from ebmzoo.verdicts import Choice, Result


def device_named(name: str) -> str:
    """Returns the device that ``name`` stands for: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``.

    Raises:
        UnknownDevice: If there is none of that name.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownDevice(f"there is no device {name!r}; say auto, cpu, cuda or cuda:<i>") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnknownDevice(
            f"there is no device {name!r} here: {torch.cuda.device_count()} CUDA devices were found"
        )
    if device.type not in ("cpu", "cuda"):
        raise UnknownDevice(f"ebmzoo runs on cpu and cuda, not on {name!r}")
    return name


def selected(
    table: Table, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str] = ()
) -> list[Cell]:
    """Returns the cells whose row, column and metric match any of the patterns; no pattern matches all."""

    def taken(name: str, patterns: Sequence[str]) -> bool:
        return not patterns or any(matches(name, pattern) for pattern in patterns)

    return [
        cell
        for cell in table.flat()
        if taken(cell.row, rows) and taken(cell.column, columns) and taken(cell.metric, metrics)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether the name of a row, column or metric is a pattern, or matches it, in capitals or not."""
    return name == pattern or fnmatchcase(name.casefold(), pattern.casefold())


@dataclass
class Measurement:
    """The results of a table's cells as far as they have been made.

    Arguments:
        results: One result for each cell.
        out_of_time: Whether the deadline came before all were made.
    """

    results: list[Result]
    out_of_time: bool = False

    @property
    def failed(self) -> bool:
        """Whether any cell has an error."""
        return any(result.error for result in self.results)


def measure(cells: Sequence[Cell], store: Store, executor: Executor = HERE) -> Measurement:
    """Makes every cell, seed by seed. A cell that fails does not keep the others from being made.

    Arguments:
        cells: The cells.
        store: The store.
        executor: Who makes them.
    """
    values: dict[tuple[int, int], float] = {}
    failures: dict[int, Failure] = {}
    out_of_time = False
    try:
        for job, outcome in executor.outcomes(list(_jobs(cells)), store):
            if isinstance(outcome, Failure):
                if outcome.words not in {told.words for told in failures.values()}:
                    say(f"failed: {outcome.words}")
                failures.setdefault(job.index, outcome)
            else:
                values[job.index, job.seed] = outcome
    except OutOfTime:
        out_of_time = True
    results = [_result(store, cell, index, values, failures.get(index)) for index, cell in enumerate(cells)]
    return Measurement(results, out_of_time)


def _jobs(cells: Sequence[Cell]) -> Iterator[Job]:
    """Yields every seed of every cell, all cells of one seed before the next, so that pairs fill up early."""
    for seed in range(max((cell.seeds for cell in cells), default=0)):
        for index, cell in enumerate(cells):
            if seed < cell.seeds:
                yield Job(seed, index, cell)


def _result(
    store: Store, cell: Cell, index: int, values: dict[tuple[int, int], float], failure: Failure | None
) -> Result:
    scores = cell.scores()
    made = [seed for seed in range(cell.seeds) if (index, seed) in values]
    result = Result(
        cell=cell,
        values=tuple(values[index, seed] for seed in made),
        seconds=None,
        attempts=failure.attempts if failure else 1,
        artifacts=tuple(store.folder(scores[seed]).name for seed in made),
        error=failure.words if failure else None,
    )
    names = ", ".join(result.artifacts) or "the cell"
    try:
        return _with_record(result, store, [scores[seed] for seed in made])
    except Exception as error:  # whatever a plugin, another version or an editor wrote down
        words = f"what run.json says, of {names} or of what is behind, is not what ebmzoo writes there"
        told = f"{words} ({type(error).__name__}: {error}); remove that artifact, and say the command again"
        told = str(error) if isinstance(error, StoreError) else told
        return dataclasses.replace(result, error=result.error or told)


def _with_record(result: Result, store: Store, scores: Sequence[Score]) -> Result:
    """Returns a result with what is on record of the artifacts behind its values.

    Raises:
        StoreError: If a record is damaged, or the values have no mean since their protocols differ.
    """
    behind = everything_behind(scores)
    records = {need.key: store.run(need) for need in behind if store.state(need) == "kept"}
    runs = records.values()
    subjects = [score.subject for score in scores]
    models = [each.model if isinstance(each, Samples) else each for each in subjects]
    sampled = [(s, records[s.key]) for s in subjects if isinstance(s, Samples) and s.key in records]
    trained = [(m, records[m.key]) for m in models if isinstance(m, Trained) and m.key in records]
    return dataclasses.replace(
        result,
        seconds=sum(run["seconds"] for run in runs) if len(runs) == len(behind) else None,
        gradient_evaluations=sum(run.get("gradient_evaluations", 0) for run in runs),
        cost=_cost(sampled),
        choice=_choice(trained),
        diagnostics=_diagnostics(sampled),
        attempts=max([result.attempts, *(1 + len(run.get("attempts", ())) for run in runs)]),
        protocol=_protocol(result, [records[score.key] for score in scores]),
    )


def _protocol(result: Result, records: Sequence[dict[str, Any]]) -> str:
    """Returns the identity of the protocol that values were scored by, be it that of another version."""
    by_protocol: dict[str, list[str]] = {}
    for folder, record in zip(result.artifacts, records, strict=True):
        by_protocol.setdefault(record["protocol"]["id"], []).append(folder)
    if len(by_protocol) > 1:
        told = "; ".join(f"{name}: {', '.join(folders)}" for name, folders in by_protocol.items())
        raise StoreError(
            f"its seeds were scored by different protocols and have no mean ({told}); remove the folders of "
            "all protocols but one, and say the command again"
        )
    return next(iter(by_protocol), "") or result.cell.score.protocol()["id"]


def _cost(sampled: Sequence[tuple[Samples, dict[str, Any]]]) -> dict[str, float] | None:
    """Returns the evaluations behind one sample, on average over seeds, or None if they are not on record."""
    if not sampled or not all("evaluations" in run for _, run in sampled):
        return None
    count = sum(samples.count for samples, _ in sampled)
    kinds = [kind.name for kind in dataclasses.fields(Evaluations)]
    return {kind: sum(run["evaluations"][kind] for _, run in sampled) / count for kind in kinds}


def _choice(trained: Sequence[tuple[Trained, dict[str, Any]]]) -> Choice | None:
    """Returns which of their models the selections of all runs kept, or None if there was none to choose."""
    seen = [run.get("selection", {}) for _, run in trained]
    rule = trained[0][0].selection if trained else None
    if rule is None or not all("scores" in each for each in seen):
        return None
    watched = {split: [each["watched"][split] for each in seen] for split in rule.watch}
    scores = {
        split: (
            statistics.fmean(dict(looks)[each["step"]] for looks, each in zip(found, seen, strict=True)),
            statistics.fmean(looks[-1][1] for looks in found),
        )
        for split, found in {rule.split: [each["scores"] for each in seen], **watched}.items()
    }
    kept = statistics.fmean(each["step"] for each in seen)
    last = statistics.fmean(each["scores"][-1][0] for each in seen)
    label = rule.metric.label + (f" of {rule.count} samples" if isinstance(rule, Selection) else "")
    return Choice(label, rule.split, kept, last, scores, sum("diverged" in each for each in seen))


def _diagnostics(sampled: Sequence[tuple[Samples, dict[str, Any]]]) -> dict[str, float]:
    """Returns the means over seeds of what every seed's sampler noted."""
    found = [run.get("diagnostics", {}) for _, run in sampled]
    names = [name for name in found[0] if all(name in each for each in found)] if found else []
    return {name: statistics.fmean(each[name] for each in found) for name in names}
