"""Barker's proposal, and an energy learnt by noise contrast: what a plugin of ebmzoo may add."""
