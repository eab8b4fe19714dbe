r"""The scores that most papers print, in the features of Inception.

Network and weights are torch-fidelity's port of the TensorFlow graph of 2015. Nothing is downloaded:
:mod:`ebmzoo.metrics.extraction` says where the weights are looked for. Images of any size are blown up to
299×299 pixels and seen by a network that learnt photographs. For digits and the like,
:class:`~ebmzoo.metrics.fidelity.FrechetDistance` takes a classifier of the data instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics import extraction
from ebmzoo.metrics.extraction import (
    LOGITS,
    POOLING,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from ebmzoo.metrics.features import (
    Compared,
    DataFeatures,
    Get,
    InceptionFeatures,
    check_images,
    compared,
    sample_features,
)
from ebmzoo.metrics.metric import Metric, drawn_seed


@dataclass(frozen=True)
class InceptionScore(Metric):
    r"""How sure Inception is of each sample, and how much its classes vary from sample to sample.

    .. math:: \exp \mathbb{E}_x \mathrm{KL}\left( p(y \mid x) \, \| \, \mathbb{E}_x p(y \mid x) \right)

    on average over equal parts of the samples, which are shuffled before. It lies between 1 and the number of
    classes, and grows with the size of the parts. Data play no part in it.

    References:
        | Improved Techniques for Training GANs (Salimans et al., 2016), Section 4
        | https://arxiv.org/abs/1606.03498

    Arguments:
        splits: The number of parts.
    """

    lower_is_better: ClassVar[bool] = False
    splits: int = 10

    def __post_init__(self) -> None:
        positive(self, "splits")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "IS"

    def check_ready(self) -> None:
        """Raises DataError unless Inception's weights are here."""
        extraction.inception_weights(self.label)

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the score.

        Raises:
            ValueError: If there are fewer samples than parts.
        """
        del split
        self.check_ready()
        check_images(samples, data)
        if len(samples) < self.splits:
            raise ValueError(f"splits is {self.splits}, but there are {len(samples)} samples")
        seed = drawn_seed(rng)
        return inception_score(sample_features(samples, InceptionFeatures(), get)[LOGITS], self.splits, seed)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**InceptionFeatures().protocol(), "layer": LOGITS, "splits": self.splits}


class OfPooling(Metric):
    """A metric that compares the features of Inception's last pooling."""

    count: int | None

    def check_ready(self) -> None:
        """Raises DataError unless Inception's weights are here."""
        extraction.inception_weights(self.label)

    def needs(self, data: Dataset, split: str) -> tuple[DataFeatures]:
        """Returns the features of the split."""
        return (DataFeatures(data, split, InceptionFeatures(), self.count),)

    def compared(
        self, samples: Tensor, data: Dataset, split: str, get: Get, at_least: int, needs: str
    ) -> Compared:
        """Returns the features of samples (N, *) and of the split.

        Raises:
            DataError: If the weights are absent.
            ValueError: If either are fewer than ``at_least``, for which ``needs`` asks, or no finite images.
        """
        self.check_ready()
        (features,) = self.needs(data, split)
        return compared(samples, features, get, POOLING, at_least, needs)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        data = "the whole split" if self.count is None else "the first of the split"
        return {**InceptionFeatures().protocol(), "layer": POOLING, "data": data, "count": self.count}


@dataclass(frozen=True)
class FID(OfPooling):
    """The Fréchet distance in the 2048 features of Inception's last pooling: the Fréchet Inception distance.

    The formula and its bias are those of :class:`~ebmzoo.metrics.fidelity.FrechetDistance`; most
    papers compare 50 000 samples with the training set, and values for other numbers do not compare.

    References:
        | GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Arguments:
        count: How many data are compared, the first of the split; None for all of it, as papers have it.
    """

    lower_is_better: ClassVar[bool] = True
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 2:
            raise FieldError(self, "count", "2 or more, or None")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "FID"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the distance, in squared units of the features."""
        return frechet_distance(*self.compared(samples, data, split, get, 2, "a covariance"))


@dataclass(frozen=True)
class KID(OfPooling):
    """The kernel distance in the features of FID: the kernel Inception distance, which has no bias.

    The formula is that of :class:`~ebmzoo.metrics.fidelity.KernelDistance`. The value is not multiplied by
    1000, as some papers do.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Arguments:
        subsets: The number of random subsets.
        subset_size: The size of each.
        count: How many data are compared, the first of the split; None for all of it.
    """

    lower_is_better: ClassVar[bool] = True
    subsets: int = 100
    subset_size: int = 1000
    count: int | None = None

    def __post_init__(self) -> None:
        positive(self, "subsets")
        if self.subset_size < 2:
            raise FieldError(self, "subset_size", "2 or more")
        if self.count is not None and self.count < self.subset_size:
            raise FieldError(self, "count", "subset_size or more, or None")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "KID"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the squared discrepancy."""
        pair = self.compared(samples, data, split, get, self.subset_size, "subset_size")
        seed = drawn_seed(rng)
        return kernel_distance(*pair, self.subsets, self.subset_size, seed)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        sizes = {"subsets": self.subsets, "subset_size": self.subset_size}
        return {**super().protocol(), **sizes, "kernel": "(<a, b> / D + 1)^3"}
