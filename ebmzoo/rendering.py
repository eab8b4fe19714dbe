"""Tables as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebmzoo.tables import Cell, Published, Table
from ebmzoo.verdicts import NOT_ASKED, Choice, Judgement, MeasuredTable, Result, half_width

DAGGER, DOUBLE_DAGGER = "†", "‡"
HEADER = (
    "column",
    "metric",
    "row",
    "published",
    "ours",
    "difference",
    "verdict",
    "per sample",
    "attempts",
    "seconds",
    "artifact",
)
CLAIMS = "claims (ratio or difference, with its 95 % interval over pairs of seeds; or its range over seeds)"
DIAGNOSTICS = "samplers, in their own words (of the first shard, mean over seeds)"
CHOICES = "models kept by a selection, and the last ones (mean over seeds)"
RIGHT = {"published", "ours", "difference", "per sample", "attempts", "seconds"}
KINDS = {"gradients": "∇E", "energies": "E", "decodings": "g"}


def number(value: float | None) -> str:
    """Returns a number with four significant digits, or a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def published_text(cell: Cell) -> str:
    """Returns a published number with its spread, and a mark if nobody saw it in the paper.

    What was found in no source is in parentheses.
    """
    published = cell.published
    if published is None:
        return "–"
    text = number(published.value) + ("" if published.std is None else f" ± {number(published.std)}")
    marked = {"unverified": f"({text}){DAGGER}", "secondary": f"{text}{DOUBLE_DAGGER}"}
    return marked.get(published.status, text)


def ours_text(result: Result) -> str:
    """Returns the mean over seeds with its spread, marked if seeds are missing."""
    if result.mean is None:
        return "failed" if result.error else "–"
    spread = "" if result.std is None else f" ± {number(result.std)}"
    some = "" if result.complete else f" ({len(result.values)} of {result.cell.seeds} seeds)"
    return f"{number(result.mean)}{spread}{some}"


def cost_text(cost: Mapping[str, float] | None) -> str:
    """Returns how often a model was evaluated for one sample, such as ``100 ∇E + 1 g``."""
    if cost is None:
        return "–"
    counts = {sign: cost[kind] for kind, sign in KINDS.items() if cost[kind]}
    return " + ".join(f"{n:.0f} {s}" if n >= 100 else f"{n:.3g} {s}" for s, n in counts.items()) or "0"


def diagnostics_text(diagnostics: Mapping[str, float]) -> str:
    """Returns what a sampler said of itself, such as ``acceptance 0.71, split_rhat 1.02``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in diagnostics.items())


def choice_text(choice: Choice) -> str:
    """Returns which model was kept, such as ``update 8 of 9, chosen on valid; EMD on valid 2, last 3``."""
    scores = "; ".join(
        f"{choice.metric} on {split} {number(kept)}, last {number(last)}"
        for split, (kept, last) in choice.scores.items()
    )
    diverged = f"; runs that ended since they diverged: {choice.diverged}" if choice.diverged else ""
    return f"update {choice.kept:.0f} of {choice.last:.0f}, chosen on {choice.split}; {scores}{diverged}"


def difference(result: Result) -> float | None:
    """Returns ours minus published, or None where there is nothing that may be compared."""
    published = result.cell.published
    if published is None or published.status == "unverified" or result.mean is None:
        return None
    return result.mean - published.value


def text(outcome: MeasuredTable) -> str:
    """Returns a table as text: the cells, the claims, what failed, and what differs from the paper."""
    judged = together(outcome)
    results = [result for result, _ in judged]
    seeds = sorted({result.cell.seeds for result in results})
    count = "/".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    mixed = mixed_places(results)
    lines = [f"{outcome.name} · {outcome.scale} scale · {count}", outcome.table.source, ""]
    lines += _grid([_row(result, verdict, mixed) for result, verdict in judged])
    lines += [
        "",
        "ours: mean ± standard deviation over seeds; seconds: all that is behind the cell, when made",
        "per sample: evaluations of the gradient of E(g(u)), of E(g(u)), and of the decoder g alone",
    ]
    if any(r.cell.models < r.cell.seeds for r in results):
        lines.append(
            "samplings of fewer models than seeds: spreads and the claims' intervals lack what training adds"
        )
    if any(r.cell.published and r.cell.published.status == "unverified" for r in results):
        lines.append(f"{DAGGER} quoted from memory by somebody, seen in no source; never compared")
    lines += _second_hand(results)
    if mixed:
        lines.append("[…] protocol of the score; numbers of different protocols must not be compared")
    for result, verdict in judged:
        if verdict == "underspecified" and result.cell.published:
            lines.append(f"underspecified: {_place(result)}: {result.cell.published.underspecified}")
    lines += _thanks_to_spread(judged, outcome.table)
    if outcome.table.claims:
        lines += ["", CLAIMS, *_claims(outcome.judgements())]
    noted = dict.fromkeys(f"{_place(r)}: {diagnostics_text(r.diagnostics)}" for r in results if r.diagnostics)
    if noted:
        lines += ["", DIAGNOSTICS, *(f"  {note}" for note in noted)]
    chosen = dict.fromkeys(f"{_place(r)}: {choice_text(r.choice)}" for r in results if r.choice)
    if chosen:
        lines += ["", CHOICES, *(f"  {choice}" for choice in chosen)]
    failed: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            failed.setdefault(result.error, []).append(_place(result))
    if failed:
        lines += ["", "failed", *(f"  {_listed(places)}: {error}" for error, places in failed.items())]
    if outcome.overrides:
        lines += ["", "differs from the paper scale in", *(f"  {override}" for override in outcome.overrides)]
    return "\n".join(lines)


def _thanks_to_spread(judged: Sequence[tuple[Result, str | None]], table: Table) -> list[str]:
    """Returns which numbers would not count as reproduced if seeds differed less."""
    lines = []
    for result, verdict in judged:
        apart = difference(result)
        if verdict != "reproduced" or apart is None:
            continue
        allowed = table.allowed(result.cell)
        if abs(apart) > allowed:
            lines.append(
                f"reproduced: {_place(result)} · {result.cell.metric}: {number(abs(apart))} apart, of which "
                f"the tolerance allows {number(allowed)}, and the interval over seeds "
                f"{number(half_width(result.values))}"
            )
    return lines


def _second_hand(results: Sequence[Result]) -> list[str]:
    """Returns where those published numbers are from that nobody saw in the paper."""
    published = [result.cell.published for result in results]
    sources = dict.fromkeys(p.source for p in published if p is not None and p.status == "secondary")
    return [f"{DOUBLE_DAGGER} at second hand: {source}" for source in sources]


def together(outcome: MeasuredTable) -> list[tuple[Result, str | None]]:
    """Returns results with their verdicts, those of one column and metric one below the other."""
    columns = list(dict.fromkeys(result.cell.column for result in outcome.results))
    metrics = list(dict.fromkeys(result.cell.metric for result in outcome.results))

    def place(judged: tuple[Result, str | None]) -> tuple[int, int]:
        cell = judged[0].cell
        return columns.index(cell.column), metrics.index(cell.metric)

    return sorted(zip(outcome.results, outcome.verdicts(), strict=True), key=place)


def mixed_places(results: Sequence[Result]) -> set[tuple[str, str]]:
    """Returns the columns and metrics under which numbers of different protocols stand."""
    protocols: dict[tuple[str, str], set[str]] = {}
    for result in results:
        protocols.setdefault((result.cell.column, result.cell.metric), set()).add(result.protocol)
    return {place for place, found in protocols.items() if len(found) > 1}


def _claims(judgements: Sequence[Judgement]) -> list[str]:
    asked = [judgement for judgement in judgements if judgement.open != NOT_ASKED]
    others = len(judgements) - len(asked)
    rest = [f"  {others} more about cells that were not asked for"] if others else []
    return [*map(claim_text, asked), *rest]


def claim_text(judgement: Judgement) -> str:
    """Returns a claim with what became of it, in one line."""
    mark = {True: "✓ holds", False: "✗ not shown", None: "? open"}[judgement.holds]
    notes = [] if judgement.ratio is None else [f"ratio {number(judgement.ratio)}"]
    notes += [] if judgement.difference is None else [f"difference {number(judgement.difference)}"]
    if judgement.low is not None:
        notes.append(f"{number(judgement.low)} to {number(judgement.high)}")
    notes += [judgement.open] if judgement.open else []
    return f"  {mark:11}  {judgement.claim}" + (f" ({', '.join(notes)})" if notes else "")


def _listed(places: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(places))


def _place(result: Result) -> str:
    return f"{result.cell.row} · {result.cell.column}"


def _row(result: Result, verdict: str | None, mixed: set[tuple[str, str]]) -> tuple[str, ...]:
    cell = result.cell
    artifact = result.artifacts[0] if result.artifacts else "–"
    protocol = f" [{result.protocol}]" if (cell.column, cell.metric) in mixed else ""
    return (
        cell.column,
        cell.metric + protocol,
        cell.row,
        published_text(cell),
        ours_text(result),
        number(difference(result)),
        verdict or "–",
        cost_text(result.cost),
        str(result.attempts),
        f"{result.seconds:.0f}" if result.values and result.seconds is not None else "–",
        artifact if len(result.artifacts) < 2 else f"{artifact} +{len(result.artifacts) - 1}",
    )


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows under the header, in columns; what repeats the line above is left blank."""
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    shown = [list(row) for row in rows]
    for above, row in zip(rows, shown[1:], strict=False):
        if row[0] == above[0]:
            row[0] = ""
            row[1] = "" if row[1] == above[1] else row[1]
    lines = [HEADER, tuple("─" * width for width in widths), *shown]
    return [
        "  ".join(_pad(*cell) for cell in zip(line, HEADER, widths, strict=True)).rstrip() for line in lines
    ]


def _pad(content: str, header: str, width: int) -> str:
    return content.rjust(width) if header in RIGHT else content.ljust(width)


def as_json(outcome: MeasuredTable) -> dict[str, Any]:
    """Returns a table as what JSON knows; the keys are a contract, and the cells keep the table's order."""
    pairs = zip(outcome.results, outcome.verdicts(), strict=True)
    return {
        "table": outcome.name,
        "source": outcome.table.source,
        "scale": outcome.scale,
        "cells": [_cell_json(result, verdict, outcome.overrides) for result, verdict in pairs],
        "claims": [_claim_json(judgement) for judgement in outcome.judgements()],
    }


def _claim_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "claim": judgement.claim,
        "ratio": judgement.ratio,
        "low": judgement.low,
        "high": judgement.high,
        "holds": judgement.holds,
        "difference": judgement.difference,
    }


def _cell_json(result: Result, verdict: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    cell = result.cell
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": cell.metric,
        "value": result.mean,
        "std": result.std,
        "n": len(result.values),
        "published": _published_json(cell.published),
        "seconds": None if result.seconds is None else round(result.seconds, 3),
        "gradient_evaluations": result.gradient_evaluations,
        "verdict": verdict,
        "protocol": result.protocol,
        "artifact": result.artifacts[0] if result.artifacts else None,
        "overrides": list(overrides),
        "attempts": result.attempts,
        "error": result.error,
        "values": list(result.values),
        "artifacts": list(result.artifacts),
        "evaluations": None if result.cost is None else dict(result.cost),
        "diagnostics": dict(result.diagnostics),
        "selection": _choice_json(result.choice),
    }


def _choice_json(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    scores = {split: {"kept": kept, "last": last} for split, (kept, last) in choice.scores.items()}
    return vars(choice) | {"scores": scores}


def _published_json(published: Published | None) -> dict[str, Any] | None:
    if published is None:
        return None
    return {
        "value": published.value,
        "std": published.std,
        "source": published.source,
        "status": published.status,
    }
