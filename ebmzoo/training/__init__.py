"""Training: methods and learners, minibatches, the loop, and what it does about divergence."""

from ebmzoo.training.averaging import Averaged
from ebmzoo.training.batches import Batch, Batches, Mapped, Share
from ebmzoo.training.contrastive import ContrastiveLearner
from ebmzoo.training.divergence import (
    Diverged,
    FreshNoise,
    GoBack,
    Limit,
    LowerLearningRate,
    SettleForBest,
    Stop,
)
from ebmzoo.training.learner import (
    SGD,
    Adam,
    Clipped,
    Learner,
    Method,
    Optimizer,
    descend,
    differentiate,
    gradient_norm,
)
from ebmzoo.training.log import Log
from ebmzoo.training.loop import fit
from ebmzoo.training.plateau import Plateau, Watch
from ebmzoo.training.processes import gather_team
from ebmzoo.training.rates import LinearDecay, LinearRise, Milestones, Rates, Scheduled
from ebmzoo.training.selection import Look, ModelSelection, Referee, Selection
from ebmzoo.training.team import LostProcess, Team

__all__ = [
    "SGD",
    "Adam",
    "Averaged",
    "Batch",
    "Batches",
    "Clipped",
    "ContrastiveLearner",
    "Diverged",
    "FreshNoise",
    "GoBack",
    "Learner",
    "Limit",
    "LinearDecay",
    "LinearRise",
    "Log",
    "Look",
    "LostProcess",
    "LowerLearningRate",
    "Mapped",
    "Method",
    "Milestones",
    "ModelSelection",
    "Optimizer",
    "Plateau",
    "Rates",
    "Referee",
    "Scheduled",
    "Selection",
    "SettleForBest",
    "Share",
    "Stop",
    "Team",
    "Watch",
    "descend",
    "differentiate",
    "fit",
    "gather_team",
    "gradient_norm",
]
