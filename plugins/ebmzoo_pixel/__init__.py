"""Energies of data themselves, learnt from chains in data space."""
