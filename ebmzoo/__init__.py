"""Energy-based models, reproduced and compared on one set of parts.

Every method of this package fills in one density over the variable :math:`u` that is sampled,

.. math:: \\pi(u) \\propto \\rho(u) \\, \\exp(-\\beta E(g(u)))

with a prior :math:`\\rho`, a decoder :math:`g` from :math:`u` to data, and an energy :math:`E` on data
(low = likely). :mod:`ebmzoo.models` holds the three; everything else learns, samples, scores or stores them.

Importing this package imports nothing heavy: ``import ebmzoo`` does not import torch.
"""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("ebmzoo")
"""Marks a function of a plugin as the implementation of a hook in :mod:`ebmzoo.hookspecs`."""
