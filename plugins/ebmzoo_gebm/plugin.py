"""Offers generalized energy-based models to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the method, its criteria, penalties and energies, and what it measures."""
    from ebmzoo_gebm import criteria, gebm, measures, penalties, ratio

    return {
        "methods": [gebm.GEBM],
        "networks": [ratio.DensityRatio, ratio.TruncatedEnergy],
        "metrics": [measures.KALE],
        "parts": [
            *(criteria.FenchelKALE, criteria.DonskerVaradhan),
            *(criteria.PlainPartition, criteria.PreconditionedPartition),
            *(penalties.GradientPenalty, penalties.ParameterPenalty),
            *(gebm.WarmUp, gebm.Plain, gebm.Squashed),
            *(ratio.NoOffset, ratio.ParameterOffset),
        ],
    }
