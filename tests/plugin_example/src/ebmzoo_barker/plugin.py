"""Offers the plugin's classes and its table to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the kernel and the method."""
    from ebmzoo_barker.barker import Barker
    from ebmzoo_barker.contrast import NoiseContrast

    return {"samplers": [Barker], "methods": [NoiseContrast]}


@hookimpl
def ebmzoo_reproductions() -> Path:
    """Offers the table."""
    return Path(__file__).parent / "reproductions"
