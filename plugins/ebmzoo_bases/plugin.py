"""Offers the base generators to ebmzoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers the variational autoencoder, generative adversarial networks, flows and their parts."""
    from ebmzoo_bases import dcgan, encoders, flow, gan, latent, sngan, vae

    return {
        "methods": [vae.VAE, gan.GAN, flow.FlowLikelihood, latent.GLF, latent.SecondStage],
        "networks": [
            *(encoders.MLPEncoder, encoders.ConvEncoder),
            *(dcgan.DCGANGenerator, dcgan.DCGANEncoder, dcgan.DCGANEnergy),
            *(sngan.SNGANConvGenerator, sngan.SNGANConvEnergy),
            *(sngan.SNGANResNetGenerator, sngan.SNGANResNetEnergy),
        ],
        "parts": [
            *(vae.Gaussian, vae.Bernoulli),
            *(gan.NonSaturating, gan.Hinge, gan.Wasserstein, gan.BetweenPenalty, gan.DataPenalty),
        ],
    }
