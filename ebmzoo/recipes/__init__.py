"""The three kinds of things that are made: trained models, samples of them, and scores.

``Trained(method, data, base)`` -> ``Samples(model, sampler, count)`` -> ``Score(subject, metric, split)``:
each names the one before as a field, so that a score's key says everything that the number depends on.
"""

from ebmzoo.recipes.model import ModelRecipe
from ebmzoo.recipes.samples import Samples
from ebmzoo.recipes.scores import BestSeen, Score
from ebmzoo.recipes.trained import Trained, fingerprint

__all__ = ["BestSeen", "ModelRecipe", "Samples", "Score", "Trained", "fingerprint"]
