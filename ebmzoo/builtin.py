"""What ships with ebmzoo itself, offered through the same hooks as any plugin's classes and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ebmzoo import hookimpl


@hookimpl
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers data, samplers, metrics, networks and the parts that tables are made of."""
    from ebmzoo import (
        classifiers,
        curves,
        data,
        energies,
        figures,
        flows,
        generators,
        metrics,
        recipes,
        samplers,
        tables,
        training,
    )

    return {
        "methods": [
            classifiers.Classifier,
            classifiers.ResNetClassifier,
            training.Averaged,
            training.Scheduled,
        ],
        "data": [
            data.TwentyFiveGaussians,
            data.SwissRoll,
            data.EightGaussians,
            data.TwoMoons,
            data.Pinwheel,
            data.Rings,
            data.Checkerboard,
            data.AnatomyRings,
            data.AnatomyMixture,
            data.Digits,
            data.Shapes,
            data.MNIST,
            data.FashionMNIST,
            data.CIFAR10,
            data.CIFAR100,
            data.SVHN,
            data.ImageNet32,
            data.CelebA,
            data.RedWine,
            data.WhiteWine,
            data.Parkinsons,
            data.HepMass,
            data.MiniBooNE,
            data.NumpyFile,
        ],
        "samplers": [
            samplers.Direct,
            samplers.Chains,
            samplers.Rejection,
            samplers.IndependenceMetropolis,
            samplers.Resampling,
            samplers.LatentTransport,
            samplers.DataTransport,
            samplers.Langevin,
            samplers.SGLD,
            samplers.MALA,
            samplers.HMC,
            samplers.KineticLangevin,
            samplers.BAOAB,
        ],
        "metrics": [
            metrics.ModesFound,
            metrics.TrainingCost,
            metrics.HighQuality,
            metrics.HighQualitySpread,
            metrics.ModeBalance,
            metrics.SlicedWasserstein,
            metrics.EMD,
            metrics.MMD,
            metrics.FrechetDistance,
            metrics.KernelDistance,
            metrics.Precision,
            metrics.Accuracy,
            *(metrics.Recognised, metrics.Agreement, metrics.Saturated),
            metrics.Recall,
            metrics.Density,
            metrics.Coverage,
            metrics.InceptionScore,
            metrics.FID,
            metrics.KID,
            metrics.NegativeLogLikelihood,
            metrics.BitsPerDimension,
            metrics.ForwardKL,
            metrics.ReverseKL,
            metrics.AnnealingGap,
        ],
        "networks": [
            generators.MLPGenerator,
            generators.ConvGenerator,
            energies.MLPEnergy,
            energies.SmoothMLPEnergy,
            energies.ConvEnergy,
            energies.ResidualEnergy,
            energies.FlowEnergy,
            flows.Glow,
            flows.LatentGlow,
            flows.RealNVP,
            flows.MADE,
            flows.MAF,
            flows.NSF,
        ],
        "parts": [
            *(samplers.Stage, samplers.Decay),
            *(samplers.FromPrior, samplers.FromNoise, samplers.FromData, samplers.FromKept),
            *(samplers.Anywhere, samplers.Sphere, samplers.SphereAsPublished, samplers.Interval),
            *(metrics.ExactPartition, metrics.SampledPartition, metrics.InceptionFeatures),
            *(training.Adam, training.SGD, training.Clipped),
            *(metrics.AnnealedPartition, metrics.ReverseAnnealedPartition),
            *(metrics.PriorReference, metrics.NormalReference),
            *(classifiers.RandomShift, classifiers.RandomMirror),
            *(training.Selection, training.ModelSelection, training.Plateau, training.Milestones),
            *(training.LinearDecay, training.LinearRise),
            *(
                training.Stop,
                training.GoBack,
                training.SettleForBest,
                training.Limit,
                training.LowerLearningRate,
                training.FreshNoise,
            ),
            *(recipes.Trained, recipes.Samples, recipes.Score, recipes.BestSeen),
            *(tables.Table, tables.Cell, tables.Cells, tables.Published),
            *(tables.Better, tables.Fraction, tables.Reaches),
            *(figures.Comparison, figures.LatentPath, curves.BudgetCurves, curves.Curve),
        ],
    }


@hookimpl
def ebmzoo_reproductions() -> Path:
    """Offers the tables of the papers."""
    here = Path(__file__).resolve().parent
    packaged = here / "reproductions"
    return packaged if packaged.exists() else here.parent / "reproductions"
