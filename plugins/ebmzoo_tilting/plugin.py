"""Offers exponential tilting to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the method."""
    from ebmzoo_tilting.tilting import Tilting

    return {"methods": [Tilting]}
