"""Discriminator driven latent sampling: a trained GAN, seen as an energy-based model over its latents."""
