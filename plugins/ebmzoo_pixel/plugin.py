"""Offers energies over data, how they are learnt, and what they can do, to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers methods, networks, samplers, metrics, data, and what they are made of."""
    from ebmzoo_pixel import (
        anatomy,
        composition,
        conditional,
        contrastive,
        detection,
        ensemble,
        figures,
        igebm,
        memory,
        networks,
        outliers,
        restoration,
        spaces,
        terms,
    )

    return {
        "methods": [contrastive.ContrastiveLearning, ensemble.Snapshots],
        "networks": [
            *(igebm.IGEBMEnergy, igebm.ConditionalIGEBMEnergy),
            *(networks.VanillaEnergy, networks.JEMEnergy),
            *(anatomy.ToyEnergy, anatomy.ScaledEnergy),
        ],
        "samplers": [conditional.ClassChains, restoration.Inpainting],
        "data": [outliers.UniformNoise, outliers.ConstantImages, outliers.Interpolated],
        "metrics": [detection.OutOfDistribution],
        "parts": [
            figures.DensityMaps,
            *(spaces.Unbounded, spaces.InBox, spaces.FromBox),
            *(memory.Fresh, memory.FromBatch, memory.Replay, memory.ByteReplay),
            *(terms.Classification, terms.LastStep),
            *(conditional.Unconditional, conditional.Conditional),
            *(igebm.SpectralNorm, igebm.NoNorm),
            *(composition.Composed, composition.OfClass, composition.Product, composition.Mixture),
            *(restoration.LowerHalf, restoration.Middle, restoration.FromSaltAndPepper),
            *(detection.LogDensity, detection.Typicality, detection.GradientNorm),
        ],
    }
