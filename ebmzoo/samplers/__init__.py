"""Markov kernels, schedules of them, and samplers, which draw data from a model."""

from ebmzoo.samplers.diagnostics import effective_sample_size, recording_chains, split_rhat
from ebmzoo.samplers.draw import Chains, Direct, FromData, FromKept, FromNoise, FromPrior, Sampler, Start
from ebmzoo.samplers.kernel import Info, Kernel, Noise, Reparametrised, State, chain
from ebmzoo.samplers.kinetic import BAOAB, KineticLangevin
from ebmzoo.samplers.langevin import SGLD, Langevin
from ebmzoo.samplers.metropolis import HMC, MALA
from ebmzoo.samplers.proposals import IndependenceMetropolis, Rejection, Resampling
from ebmzoo.samplers.schedule import Decay, Schedule, Stage, deriving_once, evolve, settle, settle_with_report
from ebmzoo.samplers.transport import (
    Anywhere,
    DataTransport,
    Interval,
    LatentTransport,
    Sphere,
    SphereAsPublished,
)

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "SGLD",
    "Anywhere",
    "Chains",
    "DataTransport",
    "Decay",
    "Direct",
    "FromData",
    "FromKept",
    "FromNoise",
    "FromPrior",
    "IndependenceMetropolis",
    "Info",
    "Interval",
    "Kernel",
    "KineticLangevin",
    "Langevin",
    "LatentTransport",
    "Noise",
    "Rejection",
    "Reparametrised",
    "Resampling",
    "Sampler",
    "Schedule",
    "Sphere",
    "SphereAsPublished",
    "Stage",
    "Start",
    "State",
    "chain",
    "deriving_once",
    "effective_sample_size",
    "evolve",
    "recording_chains",
    "settle",
    "settle_with_report",
    "split_rhat",
]
