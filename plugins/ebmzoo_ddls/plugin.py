"""Offers discriminator driven latent sampling to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the method and its calibrations."""
    from ebmzoo_ddls import calibration, ddls

    return {
        "methods": [ddls.DDLS],
        "parts": [calibration.LogisticCalibration, calibration.IsotonicCalibration],
    }
