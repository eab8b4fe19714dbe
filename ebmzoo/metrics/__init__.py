"""Metrics: numbers that say how good samples, or models, are."""

from ebmzoo.metrics.accuracy import Accuracy
from ebmzoo.metrics.annealing import (
    AnnealedPartition,
    AnnealingGap,
    NormalReference,
    PriorReference,
    ReverseAnnealedPartition,
)
from ebmzoo.metrics.cost import TrainingCost
from ebmzoo.metrics.density import ForwardKL, ReverseKL
from ebmzoo.metrics.distances import EMD, MMD, SlicedWasserstein
from ebmzoo.metrics.features import InceptionFeatures
from ebmzoo.metrics.fidelity import Coverage, Density, FrechetDistance, KernelDistance, Precision, Recall
from ebmzoo.metrics.inception import FID, KID, InceptionScore
from ebmzoo.metrics.likelihood import (
    BitsPerDimension,
    ExactPartition,
    NegativeLogLikelihood,
    SampledPartition,
)
from ebmzoo.metrics.metric import Metric, Subject, check_finite
from ebmzoo.metrics.modes import HighQuality, HighQualitySpread, ModeBalance, ModesFound
from ebmzoo.metrics.recognition import Agreement, Recognised, Saturated

__all__ = [
    "EMD",
    "FID",
    "KID",
    "MMD",
    "Accuracy",
    "Agreement",
    "AnnealedPartition",
    "AnnealingGap",
    "BitsPerDimension",
    "Coverage",
    "Density",
    "ExactPartition",
    "ForwardKL",
    "FrechetDistance",
    "HighQuality",
    "HighQualitySpread",
    "InceptionFeatures",
    "InceptionScore",
    "KernelDistance",
    "Metric",
    "ModeBalance",
    "ModesFound",
    "NegativeLogLikelihood",
    "NormalReference",
    "Precision",
    "PriorReference",
    "Recall",
    "Recognised",
    "ReverseAnnealedPartition",
    "ReverseKL",
    "SampledPartition",
    "Saturated",
    "SlicedWasserstein",
    "Subject",
    "TrainingCost",
    "check_finite",
]
