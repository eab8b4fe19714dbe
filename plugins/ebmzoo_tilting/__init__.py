"""Exponential tilting of generative models: an energy learnt on a frozen base, sampled through its latents."""
