"""Offers contrastive learning in data space to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the method, the spaces it works in and the starts of its chains."""
    from ebmzoo_pixel import contrastive

    return {
        "methods": [contrastive.ContrastiveLearning],
        "parts": [contrastive.Unbounded, contrastive.InBox, contrastive.Replay, contrastive.Fresh],
    }
