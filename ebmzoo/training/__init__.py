"""Training: methods and learners, minibatches, the loop, and what it does about divergence."""

from ebmzoo.training.averaging import Averaged
from ebmzoo.training.batches import Batch, Batches
from ebmzoo.training.divergence import Diverged, FreshNoise, GoBack, Limit, LowerLearningRate, Stop
from ebmzoo.training.learner import Adam, Learner, Method, Optimizer, descend
from ebmzoo.training.log import Log
from ebmzoo.training.loop import fit
from ebmzoo.training.selection import Referee, Selection

__all__ = [
    "Adam",
    "Averaged",
    "Batch",
    "Batches",
    "Diverged",
    "FreshNoise",
    "GoBack",
    "Learner",
    "Limit",
    "Log",
    "LowerLearningRate",
    "Method",
    "Optimizer",
    "Referee",
    "Selection",
    "Stop",
    "descend",
    "fit",
]
