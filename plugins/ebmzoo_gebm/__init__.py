"""Generalized energy-based models."""
