r"""The two scores that most papers print, in the features of Inception.

Network and weights are torch-fidelity's port of the TensorFlow graph of 2015. Nothing is downloaded:
:mod:`ebmzoo.metrics.extraction` says where the weights are looked for. Images of any size are blown up to
299×299 pixels and seen by a network that learnt photographs. For digits and the like,
:class:`~ebmzoo.metrics.fidelity.FrechetDistance` takes a classifier of the data instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics.extraction import (
    INCEPTION_SHA256,
    Images,
    Pair,
    calculated,
    check_images,
    eight_bit,
    inception,
    protocol,
)
from ebmzoo.metrics.metric import Metric
from ebmzoo.store import Recipe


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
        inception(self.label)

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the score.

        Raises:
            ValueError: If there are fewer samples than parts.
        """
        del split, get
        extractor = inception(self.label)
        check_images(samples, data)
        if len(samples) < self.splits:
            raise ValueError(f"splits is {self.splits}, but there are {len(samples)} samples")
        options = {
            "isc": True,
            "isc_splits": self.splits,
            "rng_seed": int(torch.randint(2**31, (), generator=rng, device=rng.device)),
            "input1": Images(eight_bit(samples)),
        }
        return calculated({**extractor, **options}, "inception_score_mean", samples.is_cuda)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**_protocol("logits_unbiased"), "splits": self.splits}


@dataclass(frozen=True)
class FID(Metric):
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

    def check_ready(self) -> None:
        """Raises DataError unless Inception's weights are here."""
        inception(self.label)

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the distance, in squared units of the features."""
        del get, rng
        extractor = inception(self.label)
        pair = Pair(samples, data, split, at_least=2, needs="a covariance", count=self.count)
        return pair.measure_by(extractor, {"fid": True}, "frechet_inception_distance")

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        compared = "the whole split" if self.count is None else "the first of the split"
        return {**_protocol("2048"), "data": compared, "count": self.count}


def _protocol(layer: str) -> dict[str, Any]:
    size = "299×299 as TensorFlow 1 interpolates"
    return {**protocol("inception-v3-compat", size), "layer": layer, "weights": INCEPTION_SHA256}
