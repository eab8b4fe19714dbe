"""Data sets: frozen values that load whole splits into memory."""

from ebmzoo.data.archives import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from ebmzoo.data.dataset import DataError, Dataset, Mixture
from ebmzoo.data.faces import CelebA
from ebmzoo.data.images import Digits
from ebmzoo.data.toy import (
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
    "CelebA",
    "Checkerboard",
    "DataError",
    "Dataset",
    "Digits",
    "EightGaussians",
    "FashionMNIST",
    "HepMass",
    "MiniBooNE",
    "Mixture",
    "Parkinsons",
    "Pinwheel",
    "RedWine",
    "Rings",
    "SwissRoll",
    "TwentyFiveGaussians",
    "TwoMoons",
    "WhiteWine",
]
