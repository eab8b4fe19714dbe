"""Tables as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmzoo.tables import Cell
from ebmzoo.verdicts import Judgement, Outcome, Result

DAGGER = "†"
HEADER = ("column", "metric", "row", "published", "ours", "difference", "verdict", "attempts", "seconds", "artifact")
RIGHT = {"published", "ours", "difference", "attempts", "seconds"}


def number(value: float | None) -> str:
    """Returns a number with four significant digits, or a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def published_text(cell: Cell) -> str:
    """Returns a published number with its spread; in parentheses with a dagger if nobody verified it."""
    published = cell.published
    if published is None:
        return "–"
    text = number(published.value) + ("" if published.std is None else f" ± {number(published.std)}")
    return f"({text}){DAGGER}" if published.status == "unverified" else text


def ours_text(result: Result) -> str:
    """Returns the mean over seeds with its spread, marked if seeds are missing."""
    if result.mean is None:
        return "failed" if result.error else "–"
    spread = "" if result.std is None else f" ± {number(result.std)}"
    some = "" if result.complete else f" ({len(result.values)} of {result.cell.seeds} seeds)"
    return f"{number(result.mean)}{spread}{some}"


def difference(result: Result) -> float | None:
    """Returns ours minus published, or None where there is nothing that may be compared."""
    published = result.cell.published
    if published is None or published.status == "unverified" or result.mean is None:
        return None
    return result.mean - published.value


def text(outcome: Outcome) -> str:
    """Returns a table as text: the cells, the claims, what failed, and what differs from the paper."""
    results = outcome.results
    seeds = sorted({result.cell.seeds for result in results})
    count = "/".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    lines = [f"{outcome.name} · {outcome.scale} scale · {count}", outcome.table.source, ""]
    lines += _grid([_row(result, verdict) for result, verdict in zip(results, outcome.verdicts(), strict=True)])
    lines += ["", "ours: mean ± standard deviation over seeds; seconds: all that is behind the cell, when it was made"]
    if any(r.cell.published and r.cell.published.status == "unverified" for r in results):
        lines.append(f"{DAGGER} quoted from memory by somebody, seen in no source; never compared")
    if outcome.table.claims:
        lines += ["", "claims (95 % intervals, paired by seed)", *map(claim_text, outcome.judgements())]
    errors = dict.fromkeys(f"{r.cell.row} · {r.cell.column}: {r.error}" for r in results if r.error)
    if errors:
        lines += ["", "failed", *(f"  {error}" for error in errors)]
    if outcome.overrides:
        lines += ["", "differs from the paper scale in", *(f"  {override}" for override in outcome.overrides)]
    return "\n".join(lines)


def claim_text(judgement: Judgement) -> str:
    """Returns a claim with what became of it, in one line."""
    mark = {True: "✓ holds", False: "✗ fails", None: "? open "}[judgement.holds]
    if judgement.ratio is None:
        return f"  {mark}  {judgement.claim} (not enough cells were made to tell)"
    interval = "one seed" if judgement.low is None else f"{number(judgement.low)} to {number(judgement.high)}"
    return f"  {mark}  {judgement.claim} (ratio {number(judgement.ratio)}, {interval})"


def _row(result: Result, verdict: str | None) -> tuple[str, ...]:
    cell = result.cell
    artifact = result.artifacts[0] if result.artifacts else "–"
    return (
        cell.column,
        cell.metric,
        cell.row,
        published_text(cell),
        ours_text(result),
        number(difference(result)),
        verdict or "–",
        str(result.attempts),
        f"{result.seconds:.0f}" if result.values else "–",
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
    return ["  ".join(_pad(*cell) for cell in zip(line, HEADER, widths, strict=True)).rstrip() for line in lines]


def _pad(content: str, header: str, width: int) -> str:
    return content.rjust(width) if header in RIGHT else content.ljust(width)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Returns a table as what JSON knows; the keys are a contract."""
    pairs = zip(outcome.results, outcome.verdicts(), strict=True)
    return {
        "table": outcome.name,
        "source": outcome.table.source,
        "scale": outcome.scale,
        "cells": [_cell_json(result, verdict, outcome.overrides) for result, verdict in pairs],
        "claims": [vars(judgement) for judgement in outcome.judgements()],
    }


def _cell_json(result: Result, verdict: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    cell, published = result.cell, result.cell.published
    known = None if published is None else {
        "value": published.value,
        "std": published.std,
        "source": published.source,
        "status": published.status,
    }
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": cell.metric,
        "value": result.mean,
        "std": result.std,
        "n": len(result.values),
        "values": list(result.values),
        "published": known,
        "seconds": round(result.seconds, 3),
        "gradient_evaluations": result.gradient_evaluations,
        "verdict": verdict,
        "protocol": result.protocol,
        "artifact": result.artifacts[0] if result.artifacts else None,
        "artifacts": list(result.artifacts),
        "overrides": list(overrides),
        "attempts": result.attempts,
        "error": result.error,
    }
