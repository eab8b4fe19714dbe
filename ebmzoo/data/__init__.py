"""Data sets: frozen values that load whole splits into memory."""

from ebmzoo.data.archives import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST, ImageNet32
from ebmzoo.data.dataset import DataError, Dataset, KnownDensity, Mixture
from ebmzoo.data.faces import CelebA
from ebmzoo.data.images import Digits
from ebmzoo.data.own import NumpyFile
from ebmzoo.data.shapes import Shapes
from ebmzoo.data.toy import (
    AnatomyMixture,
    AnatomyRings,
    Checkerboard,
    EightGaussians,
    Pinwheel,
    Rings,
    SwissRoll,
    TwentyFiveGaussians,
    TwoMoons,
)
from ebmzoo.data.uci import HepMass, MiniBooNE, Parkinsons, RedWine, WhiteWine

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "AnatomyMixture",
    "AnatomyRings",
    "CelebA",
    "Checkerboard",
    "DataError",
    "Dataset",
    "Digits",
    "EightGaussians",
    "FashionMNIST",
    "HepMass",
    "ImageNet32",
    "KnownDensity",
    "MiniBooNE",
    "Mixture",
    "NumpyFile",
    "Parkinsons",
    "Pinwheel",
    "RedWine",
    "Rings",
    "Shapes",
    "SwissRoll",
    "TwentyFiveGaussians",
    "TwoMoons",
    "WhiteWine",
]
