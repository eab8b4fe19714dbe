"""Offers generalized energy-based models to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the method and its parts, what it measures, its toys and its pictures."""
    from ebmzoo_gebm import (
        criteria,
        divergences,
        figures,
        gebm,
        kernel,
        measures,
        particles,
        penalties,
        ratio,
        toy,
    )

    return {
        "methods": [gebm.GEBM],
        "data": [toy.RingArcs, toy.BlossomData],
        "networks": [
            *(ratio.DensityRatio, ratio.TruncatedEnergy),
            *(toy.RingGenerator, toy.BlossomGenerator),
        ],
        "metrics": [measures.KALE, measures.ClassChanges],
        "parts": [
            *(criteria.FenchelKALE, criteria.DonskerVaradhan),
            *(criteria.PlainPartition, criteria.PreconditionedPartition),
            *(penalties.GradientPenalty, penalties.ParameterPenalty),
            *(gebm.WarmUp, gebm.PlainGradients, gebm.Squashed),
            *(ratio.NoOffset, ratio.ParameterOffset),
            *(kernel.GaussianKernel, particles.ConstantNoise, particles.HalvingNoise),
            *(particles.MMDFlow, particles.KALEFlow),
            *(divergences.ThreeRings, divergences.FourGaussians),
            *(figures.EnergyMap, figures.Divergences, figures.ModeCollapse, figures.ParticleFlows),
        ],
    }
