r"""Distances between samples and data in the features of a classifier, computed by torch-fidelity.

The classifier is an artifact of the store like any other, so its features are not those of Inception and the
numbers are not those known as FID and KID; hence other names. Images in [-1, 1] are given to torch-fidelity
as it wants them, as 8-bit RGB; the extractor turns them back.

What torch-fidelity leaves open is fixed here, and only here is it imported: it does not move the global
random state of torch, keeps nothing on disk (where its names would say nothing of weights), starts no other
process, runs where the samples are, and is given no keyword that it does not know, since it would ignore it
in silence.

References:
    | High-fidelity performance metrics for generative models in PyTorch (Obukhov et al., 2020)
    | https://github.com/toshas/torch-fidelity
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics.metric import Metric, check_finite
from ebmzoo.models import Model
from ebmzoo.store import Recipe

BATCH = 256
"""How many images pass the classifier at once, which moves no value beyond float rounding."""


@dataclass(frozen=True)
class FrechetDistance(Metric):
    r"""The Fréchet distance between Gaussians fitted to features of samples and of data.

    .. math:: \| m_1 - m_2 \|^2 + \mathrm{tr}\left( C_1 + C_2 - 2 (C_1 C_2)^{1/2} \right)

    It is biased upwards by a term of order :math:`1/n` in the number :math:`n` of samples, and likewise in
    the number of data, so values for different numbers must not be compared. All of the split is used.

    References:
        | GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Arguments:
        name: What follows ``FD-`` in tables, such as the data set of the classifier.
        features: The recipe of the classifier. The energy of the model that it makes must have a method
            ``features`` from images (B, *shape) to vectors (B, D).
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"FD-{self.name}"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the distance, in squared units of the features."""
        pair = Pair(samples, data, split, at_least=2, needs="a covariance")
        return pair.measure({"fid": True}, "frechet_inception_distance", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return _protocol(self.features)


@dataclass(frozen=True)
class KernelDistance(Metric):
    r"""The squared maximum mean discrepancy of features under a cubic kernel, averaged over random subsets.

    .. math:: k(a, b) = \left( \langle a, b \rangle / D + 1 \right)^3

    Each subset holds ``subset_size`` samples and as many data, without repetition, and gives an unbiased
    estimate; their mean is unbiased too, so it may fall below zero. The value is not multiplied by 1000.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Arguments:
        name: What follows ``KD-`` in tables, such as the data set of the classifier.
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        subsets: The number of subsets.
        subset_size: The size of each.
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe
    subsets: int = 100
    subset_size: int = 200

    def __post_init__(self) -> None:
        positive(self, "subsets")
        if self.subset_size < 2:
            raise FieldError(self, "subset_size", "2 or more")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"KD-{self.name}"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the squared discrepancy."""
        pair = Pair(samples, data, split, at_least=self.subset_size, needs="subset_size")
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        options = {
            "kid": True,
            "kid_subsets": self.subsets,
            "kid_subset_size": self.subset_size,
            "kid_kernel": "poly",
            "kid_kernel_poly_degree": 3,
            "kid_kernel_poly_gamma": None,
            "kid_kernel_poly_coef0": 1,
            "rng_seed": seed,
        }
        return pair.measure(options, "kernel_inception_distance_mean", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        sizes = {"subsets": self.subsets, "subset_size": self.subset_size}
        return {**_protocol(self.features), **sizes, "kernel": "(<a, b> / D + 1)^3"}


@dataclass(frozen=True)
class Precision(Metric):
    r"""The share of samples that lie near data.

    .. math:: \frac{1}{n} \# \{ i : \| x_i - y_j \| \leq r_k(y_j) \ \text{for some} \ j \}

    for features :math:`x_i` of samples and :math:`y_j` of data, where :math:`r_k(y_j)` is the distance from
    :math:`y_j` to its k-th nearest neighbour among the other data. A tie counts as near, here as in
    torch-fidelity and unlike in ``prdc``, up to rounding; it matters for samples that are copies.

    References:
        | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
        | https://arxiv.org/abs/1904.06991

    Arguments:
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    lower_is_better: ClassVar[bool] = False
    features: Recipe
    neighbours: int = 3

    def __post_init__(self) -> None:
        positive(self, "neighbours")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "precision"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the share, from 0 to 1."""
        pair = Pair(samples, data, split, at_least=self.neighbours + 1, needs="neighbours")
        options = {"prc": True, "prc_neighborhood": self.neighbours}
        return pair.measure(options, "precision", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**_protocol(self.features), "neighbours": self.neighbours, "ties": "<="}


@dataclass(frozen=True)
class Recall(Metric):
    r"""The share of data that lie near samples: :class:`Precision` with samples and data exchanged.

    .. math:: \frac{1}{m} \# \{ j : \| x_i - y_j \| \leq r_k(x_i) \ \text{for some} \ i \}

    where :math:`r_k(x_i)` is the distance from :math:`x_i` to its k-th nearest neighbour among the other
    samples. Samples with k copies have :math:`r_k = 0`: only data equal to them are near.

    Arguments:
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    lower_is_better: ClassVar[bool] = False
    features: Recipe
    neighbours: int = 3

    def __post_init__(self) -> None:
        positive(self, "neighbours")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "recall"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the share, from 0 to 1."""
        pair = Pair(samples, data, split, at_least=self.neighbours + 1, needs="neighbours")
        options = {"prc": True, "prc_neighborhood": self.neighbours}
        return pair.measure(options, "recall", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**_protocol(self.features), "neighbours": self.neighbours, "ties": "<="}


def _protocol(features: Recipe) -> dict[str, Any]:
    return {
        "extractor": features.key,
        "images": "clipped to [-1, 1], rounded to 8 bits, size as it is, grey as RGB",
        "data": "the whole split",
        "torch-fidelity": metadata.version("torch-fidelity"),
    }


def eight_bit(images: Tensor) -> Tensor:
    """Returns images as torch-fidelity takes them.

    Arguments:
        images: Images in [-1, 1], of shape (N, 1, H, W) or (N, 3, H, W); what lies outside is clipped.

    Returns:
        The images as integers 0 to 255, rounded to the nearest, of shape (N, 3, H, W), on the CPU.
    """
    levels = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).cpu()


class Images(torch.utils.data.Dataset[Tensor]):
    """Images as a data set of torch.

    Arguments:
        images: The images, of shape (N, 3, H, W).
    """

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Pair:
    """Samples and the data that they are compared with.

    Arguments:
        samples: The samples, of shape (N, channels, height, width).
        data: The data set.
        split: Its split.
        at_least: How many samples and data are needed.
        needs: What needs them, for the message.

    Raises:
        ValueError: If there are fewer, a sample is not finite, or they are no images.
    """

    def __init__(self, samples: Tensor, data: Dataset, split: str, at_least: int, needs: str):
        check_finite(samples)
        if len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise ValueError(f"images (1 or 3, H, W) are needed; {type(data).__name__} holds {data.shape}")
        if samples.shape[1:] != data.shape:
            raise ValueError(f"samples are {tuple(samples.shape[1:])}, but the data are {data.shape}")
        real = data.load(split)
        fewest = min(len(samples), len(real))
        if fewest < at_least:
            raise ValueError(
                f"{needs} asks for {at_least} samples and data or more; there are {len(samples)} samples and "
                f"{len(real)} data of the split {split!r}"
            )
        self.samples, self.real = Images(eight_bit(samples)), Images(eight_bit(real))
        self.channels, self.on_gpu = data.shape[0], samples.is_cuda

    def measure(self, options: dict[str, Any], key: str, model: Model, recipe: Recipe) -> float:
        """Returns one of the numbers that torch-fidelity computes.

        Arguments:
            options: Which metric, and its settings, by torch-fidelity's names.
            key: The name of the number.
            model: The classifier.
            recipe: Its recipe.
        """
        import torch_fidelity

        options = {
            **options,
            "input1": self.samples,
            "input2": self.real,
            "feature_extractor": registered(model, recipe, self.channels),
            "batch_size": BATCH,
            "cuda": self.on_gpu,
            "cache": False,
            "save_cpu_ram": True,  # which is what keeps it from starting loader processes
            "verbose": False,
        }
        check_options(options)
        with torch.random.fork_rng(devices=[]):
            return float(torch_fidelity.calculate_metrics(**options)[key])


def check_options(options: dict[str, Any]) -> None:
    """Raises ValueError if torch-fidelity does not know an option, which it would ignore."""
    from torch_fidelity.defaults import DEFAULTS

    unknown = options.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"torch-fidelity has no option {', '.join(sorted(unknown))}")


_registered: set[str] = set()


def registered(model: Model, recipe: Recipe, channels: int) -> str:
    """Returns the name under which torch-fidelity knows a classifier, after making it known if it was not.

    The name depends on the recipe and on the weights, since the registry is one for the whole process, takes
    each name but once, and keeps what it was given.

    Arguments:
        model: The classifier.
        recipe: Its recipe.
        channels: How many of the three channels of an image it takes.
    """
    from torch_fidelity import register_feature_extractor

    name = f"ebmzoo-{recipe.key[:12]}-{fingerprint(model.energy)[:12]}-{channels}"
    if name not in _registered:
        register_feature_extractor(name, extractor(model.energy, channels))
        _registered.add(name)
    return name


def fingerprint(network: nn.Module) -> str:
    """Returns the SHA-256 of a network's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def extractor(classifier: Any, channels: int) -> type:
    """Returns a class of feature extractors as torch-fidelity wants one.

    Arguments:
        classifier: A module with a method ``features`` from images (B, channels, H, W) to vectors (B, D).
        channels: How many of an image's three channels it takes.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    kept = copy.deepcopy(classifier).cpu()

    class Features(FeatureExtractorBase):
        """The classifier's features, in double precision, from 8-bit RGB."""

        def __init__(self, name: str, features_list: list[str], **unused: Any):
            super().__init__(name, features_list)
            self.classifier = copy.deepcopy(kept)

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> None:
            return None

        def forward(self, images: Tensor) -> tuple[Tensor]:
            pixels = images[:, :channels].float() / 127.5 - 1
            features = self.classifier.features(pixels).double()
            if not features.isfinite().all():
                raise ValueError("the features are not finite; the classifier that makes them is broken")
            return (features,)

    return Features
