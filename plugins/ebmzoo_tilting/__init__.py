"""Exponential tilting of generative models: an energy on a frozen base, sampled through its latents."""
