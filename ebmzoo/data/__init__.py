"""Data sets: frozen values that load whole splits into memory."""

from ebmzoo.data.dataset import DataError, Dataset, Mixture
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

__all__ = [
    "Checkerboard",
    "DataError",
    "Dataset",
    "Digits",
    "EightGaussians",
    "Mixture",
    "Pinwheel",
    "Rings",
    "SwissRoll",
    "TwentyFiveGaussians",
    "TwoMoons",
]
