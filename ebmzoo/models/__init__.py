r"""The one object of this package: a prior, a decoder and an energy.

.. math:: \pi(u) \propto \rho(u) \, \exp(-\beta E(g(u)))

========================  ==============  =============  =====================================
method                    :math:`\rho`    :math:`g`      :math:`E`
========================  ==============  =============  =====================================
a base generator          N(0, I)         generator      none
DDLS                      N(0, I)         generator      minus the critic's logit
exponential tilting       N(0, I)         generator      a network
GEBM                      N(0, I)         generator      a network, learnt with log Z
pixel-space EBM           flat on a box   identity       a network
========================  ==============  =============  =====================================

Signs, once for the whole package: a low energy is a likely point; a critic's logit is :math:`-E`; losses are
minimised; :math:`\beta` is an *inverse* temperature and multiplies the energy only, never the prior.
"""

from ebmzoo.models.chains import as_bytes, as_points, from_bytes
from ebmzoo.models.density import Invertible, Normalised, dequantised, log_base, rebased
from ebmzoo.models.evaluation import (
    Evaluations,
    check_energies,
    check_makes,
    chunk_sizes,
    count,
    counting_evaluations,
    decoded,
    evaluated,
    evaluating,
    frozen,
    in_chunks,
    value_and_grad,
)
from ebmzoo.models.model import CompiledTarget, InGraph, Model, NoEnergy, Target, Tilted, as_graphs
from ebmzoo.models.posterior import Chained, Inverse, Posterior
from ebmzoo.models.priors import Box, Flat, Normal, Prior, StandardNormal

__all__ = [
    "Box",
    "Chained",
    "CompiledTarget",
    "Evaluations",
    "Flat",
    "InGraph",
    "Inverse",
    "Invertible",
    "Model",
    "NoEnergy",
    "Normal",
    "Normalised",
    "Posterior",
    "Prior",
    "StandardNormal",
    "Target",
    "Tilted",
    "as_bytes",
    "as_graphs",
    "as_points",
    "check_energies",
    "check_makes",
    "chunk_sizes",
    "count",
    "counting_evaluations",
    "decoded",
    "dequantised",
    "evaluated",
    "evaluating",
    "from_bytes",
    "frozen",
    "in_chunks",
    "log_base",
    "rebased",
    "value_and_grad",
]
