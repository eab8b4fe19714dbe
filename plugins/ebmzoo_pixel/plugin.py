"""Offers contrastive learning in data space to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers methods, networks, samplers, and what they are made of."""
    from ebmzoo_pixel import composition, contrastive, ensemble, memory, networks, restoration, spaces, terms

    return {
        "methods": [contrastive.ContrastiveLearning, ensemble.Snapshots],
        "samplers": [restoration.Inpainting, restoration.FromSaltAndPepper],
        "networks": [
            *(networks.IGEBMEnergy, networks.VanillaEnergy),
            *(networks.JEMEnergy, networks.ToyEnergy),
        ],
        "parts": [
            *(networks.SpectralNorm, networks.NoNorm),
            *(spaces.Unbounded, spaces.InBox),
            *(memory.Fresh, memory.FromBatch, memory.Replay, memory.ByteReplay),
            *(terms.Classification, terms.LastStep),
            *(composition.Composed, composition.OfClass, composition.Product, composition.Mixture),
            *(restoration.LowerHalf, restoration.Middle),
        ],
    }
