"""Offers the base generators to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the variational autoencoder and its parts."""
    from ebmzoo_bases import encoders, vae

    return {
        "methods": [vae.VAE],
        "networks": [encoders.MLPEncoder, encoders.ConvEncoder],
        "parts": [vae.Gaussian, vae.Bernoulli],
    }
