"""Metrics know perfect, useless and duplicated samples, and agree with what can be worked out by hand."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm
from torch import Generator, Tensor, nn
from toys import METHODS, PICTURES, VAES

from ebmzoo.data import Dataset, SwissRoll, TwentyFiveGaussians
from ebmzoo.data.dataset import check_split
from ebmzoo.fields import FieldError
from ebmzoo.metrics import (
    EMD,
    MMD,
    Coverage,
    Density,
    FrechetDistance,
    HighQuality,
    HighQualitySpread,
    KernelDistance,
    Metric,
    ModeBalance,
    ModesFound,
    Precision,
    Recall,
    SlicedWasserstein,
    check_finite,
)
from ebmzoo.metrics.features import ClassifierFeatures, DataFeatures, eight_bit
from ebmzoo.models import Model, StandardNormal
from ebmzoo.recipes import Samples, Score
from ebmzoo.samplers import Direct
from ebmzoo.store import Recipe, Store, canonical, describe

ERROR = 1e-6
"""How probable it is that a test of a right metric fails, before its seed was fixed."""

Z = float(norm.isf(ERROR / 2))


@dataclass(frozen=True)
class Cloud(Dataset):
    """Independent normal coordinates, from a seed of its own for each split."""

    count: int = 400
    mean: float = 0.0
    std: float = 0.25
    shape: tuple[int, ...] = (2,)
    seed: int = 0

    def load(self, split: str) -> Tensor:
        check_split(split)
        rng = Generator().manual_seed(10 * self.seed + {"train": 1, "valid": 2, "test": 3}[split])
        return self.mean + self.std * torch.randn(self.count, *self.shape, generator=rng)


@dataclass(frozen=True)
class Corners(Dataset):
    """Images of two pixels near the corners of a square."""

    shape: ClassVar[tuple[int, ...]] = (1, 1, 2)

    def load(self, split: str) -> Tensor:
        cloud = Cloud(1000, std=0.05, shape=self.shape).load(split)
        return cloud + torch.randint(2, cloud.shape, generator=Generator().manual_seed(len(split))) - 0.5


@dataclass(frozen=True)
class Classifier(Recipe):
    """A recipe that names a classifier and makes none."""

    artifact: ClassVar[str] = "artifact.none"
    name: str = "pixels"

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    def open(self, store: Store, kept: Path) -> Any:
        raise NotImplementedError


class Pixels(nn.Module):
    """A classifier whose features are the pixels, times weights."""

    def __init__(self, *weights: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights))

    def features(self, x: Tensor) -> Tensor:
        return self.weight * x.flatten(1)

    def logits(self, x: Tensor) -> Tensor:
        return self.features(x)


def opens(*weights: float) -> Callable[[Recipe], Any]:
    """Returns a store's ``get`` that knows one classifier."""
    return knows(Model(StandardNormal((1,)), nn.Identity(), Pixels(*weights or (1.0,))))


def knows(model: Model) -> Callable[[Recipe], Any]:
    """Returns a store's ``get`` that knows a classifier and makes features of data."""

    def get(recipe: Recipe) -> Any:
        return recipe.computed(get) if isinstance(recipe, DataFeatures) else model

    return get


LATTICE = TwentyFiveGaussians(5000)
PLANE = Cloud()
IMAGES = Cloud(shape=(1, 2, 2))

CASES: list[tuple[Metric, Dataset]] = [
    (ModesFound(), LATTICE),
    (HighQuality(), LATTICE),
    (HighQualitySpread(), LATTICE),
    (ModeBalance(), LATTICE),
    (SlicedWasserstein(projections=50, count=400), PLANE),
    (EMD(count=200), PLANE),
    (MMD(bandwidths=(0.1, 1.0), count=200), PLANE),
    (FrechetDistance("pixels", Classifier()), IMAGES),
    (KernelDistance("pixels", Classifier(), subsets=5, subset_size=100), IMAGES),
    (Precision(Classifier()), IMAGES),
    (Density(Classifier()), IMAGES),
    (Coverage(Classifier()), IMAGES),
    (Recall(Classifier()), IMAGES),
]
case = pytest.mark.parametrize(("metric", "data"), CASES, ids=lambda value: type(value).__name__)


def score(
    metric: Metric, samples: Tensor, data: Dataset, seed: int = 0, get: Callable[[Recipe], Any] | None = None
) -> float:
    return metric.value(samples, data, "test", get or opens(), Generator().manual_seed(seed))


# What every metric owes.


@case
def test_data_score_better_than_noise(metric: Metric, data: Dataset) -> None:
    noise = 0.9 + 0.01 * torch.randn(400, *data.shape, generator=Generator().manual_seed(0))
    perfect = score(metric, data.load("valid"), data)
    if type(metric) in (HighQualitySpread, ModeBalance):
        with pytest.raises(ValueError, match="no sample lies within 4"):
            score(metric, noise, data)
    elif metric.lower_is_better:
        assert perfect < score(metric, noise, data)
    else:
        assert perfect > score(metric, noise, data)


@case
def test_the_value_is_a_float_and_the_same_twice(metric: Metric, data: Dataset) -> None:
    samples = data.load("valid")
    before = samples.clone()
    value = score(metric, samples, data)
    assert type(value) is float
    assert value == score(metric, samples, data)
    assert torch.equal(samples, before)


@case
def test_global_random_states_are_left_alone(metric: Metric, data: Dataset) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    score(metric, data.load("valid"), data)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@case
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(metric: Metric, data: Dataset, bad: float) -> None:
    samples = data.load("valid").clone()
    samples.view(len(samples), -1)[[3, 5], 0] = bad
    with pytest.raises(ValueError, match=f"2 of {len(samples)} samples are not finite"):
        score(metric, samples, data)


@case
def test_no_samples_are_refused(metric: Metric, data: Dataset) -> None:
    with pytest.raises(ValueError, match="no samples"):
        score(metric, data.load("valid")[:0], data)


@case
def test_the_protocol_names_every_field_that_moves_the_value(metric: Metric, data: Dataset) -> None:
    protocol = json.loads(json.dumps(metric.protocol()))
    for field in dataclasses.fields(metric):
        value = getattr(metric, field.name)
        if field.name == "features":
            assert protocol["extractor"] == value.key
        elif field.name != "name":
            assert protocol[field.name] == (list(value) if isinstance(value, tuple) else value)


@case
def test_a_recipe_can_name_it(metric: Metric, data: Dataset) -> None:
    assert canonical(describe(metric)) == canonical(describe(dataclasses.replace(metric)))
    assert metric.label
    assert isinstance(metric.lower_is_better, bool)


def test_labels_are_distinct_and_say_whose_features() -> None:
    labels = [metric.label for metric, _ in CASES]
    assert len(set(labels)) == len(labels)
    assert {"FD-pixels", "KD-pixels", "precision", "recall"} < set(labels)


def test_finite_samples_pass() -> None:
    check_finite(torch.zeros(3, 1, 2, 2))


def test_importing_metrics_and_data_imports_nothing_slow() -> None:
    program = "import sys, ebmzoo.data, ebmzoo.metrics as m; print([n for n in {} if n in sys.modules])"
    slow = ["torch_fidelity", "torchvision", "sklearn", "scipy"]
    done = subprocess.run(
        [sys.executable, "-c", program.format(slow)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Modes.


def test_perfect_samples_find_all_modes() -> None:
    samples, n = LATTICE.load("valid"), 5000
    outside = math.exp(-8)  # P(|ξ| > 4) in the plane
    assert score(ModesFound(), samples, LATTICE) == 25
    share = score(HighQuality(), samples, LATTICE) / 100
    assert abs(share - (1 - outside)) < Z * math.sqrt(outside / n) + Z**2 / n
    # Each mode has 200 points, of which some are outside; independent modes would have 24 / 10 000.
    assert score(ModeBalance(), samples, LATTICE) < 1e-3
    # Of the truncated normal, E|ξ|² / 2 = 1 - 8 e⁻⁸ / (1 - e⁻⁸); the 2n squares have variance 2.
    spread = (score(HighQualitySpread(), samples, LATTICE) / LATTICE.sigma) ** 2
    assert abs(spread - (1 - 8 * outside / (1 - outside))) < Z * math.sqrt(2 / (2 * n))


def test_duplicated_samples_find_one_mode() -> None:
    samples = LATTICE.centres()[7].expand(1000, 2)
    assert score(ModesFound(), samples, LATTICE) == 1
    assert score(HighQuality(), samples, LATTICE) == 100
    assert score(HighQualitySpread(), samples, LATTICE) == 0
    assert score(ModeBalance(), samples, LATTICE) == pytest.approx(math.log(25), abs=1e-12)


def test_useless_samples_find_none() -> None:
    samples = LATTICE.centres() + torch.tensor([1 / 2.828, 0.0])
    assert score(ModesFound(), samples, LATTICE) == 0
    assert score(HighQuality(), samples, LATTICE) == 0


def test_hand_made_samples_are_counted_by_mode() -> None:
    centres, sigma = LATTICE.centres(), LATTICE.sigma
    shifts = torch.tensor([[3.9, 0], [0, -3.9], [0, 0], [4.1, 0], [3, 3]]) * sigma
    samples = centres[[0, 0, 24, 24, 12]] + shifts  # |(3, 3)| > 4
    assert score(ModesFound(), samples, LATTICE) == 2
    assert score(ModesFound(minimum=2), samples, LATTICE) == 1
    assert score(ModesFound(radius=4.2), samples, LATTICE) == 2
    assert score(ModesFound(radius=4.3), samples, LATTICE) == 3
    assert score(HighQuality(), samples, LATTICE) == pytest.approx(60)
    spread = math.sqrt(2 * 3.9**2 / 6) * sigma
    assert score(HighQualitySpread(), samples, LATTICE) == pytest.approx(spread, rel=1e-5)
    balance = sum(p * math.log(25 * p) for p in (2 / 3, 1 / 3))
    assert score(ModeBalance(), samples, LATTICE) == pytest.approx(balance, abs=1e-12)


def test_a_sample_at_the_radius_counts() -> None:
    @dataclass(frozen=True)
    class Pair(TwentyFiveGaussians):
        sigma: float = 0.25  # with these numbers every operation is exact

        def centres(self) -> Tensor:
            return torch.tensor([[-2.0, 0.0], [2.0, 0.0]])

    assert score(
        HighQuality(), torch.tensor([[-1.0, 0.0], [2.0, 1.0], [2.0, 1.0001]]), Pair()
    ) == pytest.approx(200 / 3)


@pytest.mark.parametrize("metric", [ModesFound(), HighQuality(), HighQualitySpread(), ModeBalance()])
def test_modes_need_a_mixture(metric: Metric) -> None:
    with pytest.raises(ValueError, match=f"'{metric.label}' needs a mixture.*SwissRoll"):
        score(metric, SwissRoll(10).load("valid"), SwissRoll(10))


# Distances.


def test_distances_of_the_data_from_themselves_vanish() -> None:
    samples = PLANE.load("test")
    assert score(EMD(count=200), samples, PLANE) == 0
    assert score(SlicedWasserstein(count=400), samples, PLANE) == 0


def test_emd_is_the_best_of_all_permutations() -> None:
    data = Cloud(count=5, shape=(3,))
    x, y = data.load("valid").double(), data.load("test").double()
    costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    best = min(costs[range(5), order].mean().item() for order in itertools.permutations(range(5)))
    assert score(EMD(count=5), x, data) == pytest.approx(best, rel=1e-12)


def test_emd_of_a_translation_is_its_length() -> None:
    moved = PLANE.load("test") + torch.tensor([3.0, -4.0]) / 10
    assert score(EMD(count=400), moved, PLANE) == pytest.approx(0.5, abs=1e-6)


def test_emd_of_duplicated_samples_is_the_mean_distance() -> None:
    expected = PLANE.load("test").double().norm(dim=1).mean().item()
    assert score(EMD(count=400), torch.zeros(400, 2), PLANE) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [2, 4])
def test_sliced_wasserstein_of_a_translation(d: int) -> None:
    data, shift, projections = Cloud(shape=(d,)), 0.7, 4000
    moved = data.load("test").double()
    moved[:, 0] += shift
    # |⟨t, θ⟩| has mean |t| Γ(d/2) / (√π Γ((d+1)/2)) and mean square |t|² / d on the sphere.
    mean = shift * math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((d + 1) / 2))
    error = math.sqrt((shift**2 / d - mean**2) / projections)
    assert abs(score(SlicedWasserstein(projections, count=400), moved, data) - mean) < Z * error


def test_sliced_wasserstein_draws_its_lines_from_the_generator() -> None:
    metric, samples = SlicedWasserstein(projections=5, count=400), PLANE.load("valid")
    assert score(metric, samples, PLANE, seed=1) != score(metric, samples, PLANE, seed=2)


def gaussian_mmd(x: Tensor, y: Tensor, bandwidths: tuple[float, ...]) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        square = float((a - b).square().sum())
        return sum(math.exp(-square / (2 * h**2)) for h in bandwidths) / len(bandwidths)

    n = len(x)
    pairs = list(itertools.permutations(range(n), 2))
    inside = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
    return inside - 2 * sum(k(a, b) for a in x for b in y) / n**2


def test_mmd_is_its_double_sum() -> None:
    data, metric = Cloud(count=12, shape=(3,)), MMD((0.2, 1.5), count=12)
    x, y = data.load("valid").double() + 0.1, data.load("test").double()
    assert score(metric, x, data) == pytest.approx(gaussian_mmd(x, y, (0.2, 1.5)), abs=1e-12)


def test_mmd_of_one_law_is_exchangeable_noise_and_of_two_is_not() -> None:
    n, trials = 200, 1999
    metric = MMD((0.2,), count=n)
    samples, real = PLANE.load("valid")[:n], PLANE.load("test")[:n]
    pooled = torch.cat([samples, real]).double()
    kernel = (-torch.cdist(pooled, pooled).square() / (2 * 0.2**2)).exp()
    ranks = torch.rand(2 * n, trials, generator=Generator().manual_seed(0)).argsort(0)
    first = (ranks < n).double()  # each column draws n of the 2n points
    second, sums = 1 - first, kernel @ first
    inside = (sums * first).sum(0) + ((kernel @ second) * second).sum(0) - 2 * n
    null = inside / (n * (n - 1)) - 2 * (sums * second).sum(0) / n**2
    # Among equals each rank is as probable: the error probability of this line is 2 / 2000.
    assert null.min() < score(metric, samples, PLANE) < null.max()
    assert score(metric, samples + 0.25, PLANE) > null.max()


@pytest.mark.parametrize(
    "metric", [EMD(count=500), MMD((1.0,), count=500), SlicedWasserstein(count=500)], ids=lambda m: m.label
)
def test_too_few_samples_or_data_are_named(metric: Metric) -> None:
    with pytest.raises(ValueError, match="count is 500, but there are 400 samples"):
        score(metric, PLANE.load("valid"), PLANE)
    with pytest.raises(ValueError, match="400 data of the split 'test'"):
        score(metric, torch.zeros(500, 2), PLANE)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: EMD(count=2001), "EMD.count"),
        (lambda: MMD(()), "MMD.bandwidths"),
        (lambda: MMD((1.0, -1.0)), "MMD.bandwidths"),
        (lambda: MMD((1.0,), count=1), "MMD.count"),
        (lambda: SlicedWasserstein(projections=0), "SlicedWasserstein.projections"),
        (lambda: ModesFound(radius=0), "ModesFound.radius"),
        (lambda: KernelDistance("x", Classifier(), subset_size=1), "KernelDistance.subset_size"),
        (lambda: Precision(Classifier(), neighbours=0), "Precision.neighbours"),
    ],
)
def test_wrong_fields_are_named(make: Callable[[], Metric], field: str) -> None:
    with pytest.raises(FieldError, match=field):
        make()


# Distances of features, by torch-fidelity.


def levels(images: Tensor) -> np.ndarray:
    """Returns the pixels that the extractor sees, of shape (N, D)."""
    return (eight_bit(images)[:, :1].double() / 127.5 - 1).flatten(1).numpy()


def test_eight_bit_rounds_and_clips() -> None:
    images = torch.tensor([-2.0, -1.0, 0.001, 1.0, 2.0]).view(5, 1, 1, 1)
    levels = eight_bit(images)
    assert levels.dtype == torch.uint8
    assert levels.flatten().tolist() == [0, 0, 128, 255, 255]
    exact = torch.tensor([[0, 51], [102, 255]]).view(1, 1, 2, 2)
    assert torch.equal(eight_bit(exact / 127.5 - 1).int(), exact.int())


def test_frechet_distance_is_its_formula() -> None:
    samples = IMAGES.load("valid") * torch.tensor([1.0, 0.5, 2.0, 1.0]).view(1, 2, 2) + 0.1
    x, y = levels(samples), levels(IMAGES.load("test"))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert score(FrechetDistance("pixels", Classifier()), samples, IMAGES) == pytest.approx(
        expected, rel=1e-6
    )


def test_frechet_distance_of_two_known_gaussians() -> None:
    n, shape = 10_000, (1, 2, 2)
    samples = Cloud(n, mean=0.2, std=0.1, shape=shape).load("valid")
    data = Cloud(n, mean=-0.1, std=0.2, shape=shape)
    exact = 4 * (0.3**2 + (0.1 - 0.2) ** 2)
    # By the delta method: means vary by (σ₁² + σ₂²) / n, standard deviations by half of that; the bias and
    # the rounding to 8 bits are below 1e-4.
    varied = (0.1**2 + 0.2**2) / n
    error = math.sqrt(4 * (2 * 0.3) ** 2 * varied + 4 * (2 * 0.1) ** 2 * varied / 2)
    found = score(FrechetDistance("pixels", Classifier()), samples, data)
    assert abs(found - exact) < Z * error + 1e-4


def test_frechet_distance_of_perfect_and_of_duplicated_samples() -> None:
    metric, real = FrechetDistance("pixels", Classifier()), IMAGES.load("test")
    assert abs(score(metric, real, IMAGES)) < 1e-8
    y = levels(real)
    expected = np.sum((y.mean(0) - levels(real[:1])[0]) ** 2) + np.trace(np.cov(y, rowvar=False))
    assert score(metric, real[:1].expand(50, 1, 2, 2), IMAGES) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [100, 400, 1600])
def test_frechet_distance_of_disjoint_halves_falls_as_one_over_their_number(n: int) -> None:
    """For d independent coordinates of variance σ², to the first order in 1/n.

    Means give 2 d σ² / n. Covariances C and D give ‖C − D‖² / 4σ², whose mean is d (d + 1) σ² / 2n.
    """
    d, std, repeats = 4, 0.2, 40
    metric = FrechetDistance("pixels", Classifier())
    halves = [Cloud(n, std=std, shape=(1, 2, 2), seed=n + number) for number in range(repeats)]
    found = [score(metric, data.load("valid"), data) for data in halves]
    exact = (2 * d + d * (d + 1) / 2) * std**2 / n
    error = np.std(found) / math.sqrt(repeats)
    assert abs(np.mean(found) - exact) < Z * error
    assert error < exact / 10


def test_frechet_distance_puts_repeated_collapsed_and_meaningless_samples_in_order() -> None:
    metric, data = FrechetDistance("pixels", Classifier()), Corners()
    real = data.load("valid")
    repeated = real[:40].repeat(25, 1, 1, 1)
    collapsed = real[(real > 0).flatten(1).all(1)]
    noise = torch.randn(1000, 1, 1, 2, generator=Generator().manual_seed(0))
    distances = [score(metric, samples, data) for samples in (real, repeated, noise, collapsed)]
    assert distances == sorted(distances)
    assert distances[0] < distances[1] / 10


def test_kernel_distance_is_unbiased() -> None:
    """Of one feature, it is the sum of squared differences of moments, times those of (1 + xy)³."""
    metric = KernelDistance("pixels", Classifier(), subsets=1, subset_size=30)
    clouds = [
        [Cloud(30, mean, std, shape=(1, 1, 1), seed=seed) for mean, std in ((0.2, 0.2), (0.0, 0.25))]
        for seed in range(300)
    ]
    found = [score(metric, ours.load("valid"), data) for ours, data in clouds]
    moments = [(m, m**2 + s**2, m**3 + 3 * m * s**2) for m, s in ((0.2, 0.2), (0.0, 0.25))]
    exact = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), *moments, strict=True))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - exact) < Z * error
    assert error < exact / 5


def test_kernel_distance_is_its_double_sum() -> None:
    samples = IMAGES.load("valid") + 0.1
    x, y = levels(samples), levels(IMAGES.load("test"))
    k_xx, k_yy, k_xy = (((a @ b.T) / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n = len(x)
    inside = (k_xx.sum() - np.trace(k_xx) + k_yy.sum() - np.trace(k_yy)) / (n * (n - 1))
    metric = KernelDistance("pixels", Classifier(), subsets=1, subset_size=n)
    assert score(metric, samples, IMAGES) == pytest.approx(inside - 2 * k_xy.mean(), rel=1e-6)


def test_kernel_distance_draws_its_subsets_from_the_generator() -> None:
    metric, samples = KernelDistance("pixels", Classifier(), subsets=2, subset_size=50), IMAGES.load("valid")
    assert score(metric, samples, IMAGES, seed=1) != score(metric, samples, IMAGES, seed=2)


def test_precision_and_recall_of_perfect_useless_and_duplicated_samples() -> None:
    precision, recall, real = Precision(Classifier()), Recall(Classifier()), IMAGES.load("test")
    assert score(precision, real, IMAGES) == score(recall, real, IMAGES) == 1
    far = 0.01 * IMAGES.load("valid")[:100] - 0.99
    assert score(precision, far, IMAGES) == score(recall, far, IMAGES) == 0
    copies = real[:1].expand(100, 1, 2, 2)
    assert score(precision, copies, IMAGES) == 1
    assert score(recall, copies, IMAGES) <= 1 / len(real) + 1e-9


def near(points: np.ndarray, others: np.ndarray, k: int) -> float:
    """Returns the share of points within the distance of some other to its own k-th neighbour."""
    radii = np.sort(np.linalg.norm(others[:, None] - others, axis=2), axis=1)[:, k]
    return float((np.linalg.norm(points[:, None] - others, axis=2) <= radii).any(1).mean())


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_are_their_definitions(k: int) -> None:
    weights = [math.sqrt(prime) for prime in (2, 3, 5, 7)]
    samples = 0.5 * IMAGES.load("valid")[:150] + 0.1
    x, y = weights * levels(samples), weights * levels(IMAGES.load("test"))
    radii = np.sort(np.linalg.norm(y[:, None] - y, axis=2), axis=1)[:, k]
    within = np.linalg.norm(x[:, None] - y, axis=2) <= radii
    found = [
        score(kind(Classifier(), k), samples, IMAGES, get=opens(*weights)) for kind in (Density, Coverage)
    ]
    # pixels of 8 bits make some ties, which single precision breaks
    assert found == pytest.approx([within.sum() / (k * len(x)), within.any(0).mean()], abs=5e-3)


def test_density_and_coverage_of_perfect_useless_and_duplicated_samples() -> None:
    density, coverage, real = Density(Classifier()), Coverage(Classifier()), IMAGES.load("test")
    assert score(coverage, real, IMAGES) == 1
    assert score(density, real, IMAGES) >= 1  # each datum is near itself, which no sample would be
    fresh = IMAGES.load("valid")
    assert score(density, fresh, IMAGES) == pytest.approx(1, abs=0.1)
    assert score(coverage, fresh, IMAGES) == pytest.approx(1 - 2**-5, abs=0.05)
    far = 0.01 * fresh[:100] - 0.99
    assert score(density, far, IMAGES) == score(coverage, far, IMAGES) == 0
    assert score(coverage, real[:1].expand(100, 1, 2, 2), IMAGES) < 0.1


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_their_definitions(k: int) -> None:
    weights = [math.sqrt(prime) for prime in (2, 3, 5, 7)]  # so that 8-bit pixels make no ties
    samples = 0.5 * IMAGES.load("valid")[:150] + 0.1
    x, y = weights * levels(samples), weights * levels(IMAGES.load("test"))
    precision, recall = near(x, y, k), near(y, x, k)
    assert precision > recall
    found = [
        score(kind(Classifier(), neighbours=k), samples, IMAGES, get=opens(*weights))
        for kind in (Precision, Recall)
    ]
    assert found == pytest.approx([precision, recall], abs=1e-6)


def test_colours_reach_the_classifier() -> None:
    data = Cloud(shape=(3, 2, 2))
    samples = data.load("test").clone()
    samples[:, 2] += 0.2
    found = score(FrechetDistance("pixels", Classifier()), samples, data)
    assert found == pytest.approx(4 * 0.2**2, rel=0.01)  # up to the rounding to 8 bits


def test_each_classifier_gives_its_own_features_under_one_recipe() -> None:
    metric, samples = FrechetDistance("pixels", Classifier()), IMAGES.load("valid")
    once = score(metric, samples, IMAGES, get=opens(1.0))
    assert score(metric, samples, IMAGES, get=opens(2.0)) == pytest.approx(4 * once, rel=1e-6)
    assert score(metric, samples, IMAGES, get=opens(1.0)) == once


def test_a_classifier_is_not_changed() -> None:
    model = opens()(Classifier()).train()
    score(FrechetDistance("pixels", Classifier()), IMAGES.load("valid"), IMAGES, get=knows(model))
    assert model.energy.training
    assert model.energy.weight.requires_grad


@pytest.mark.parametrize(
    ("metric", "needs"),
    [
        (FrechetDistance("x", Classifier()), "a covariance asks for 2"),
        (KernelDistance("x", Classifier(), subset_size=300), "subset_size asks for 300"),
        (Precision(Classifier()), "neighbours asks for 4"),
        (Recall(Classifier(), neighbours=7), "neighbours asks for 8"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_too_few_images_are_named(metric: Metric, needs: str) -> None:
    with pytest.raises(ValueError, match=f"{needs} samples and data or more; there are 1 samples"):
        score(metric, IMAGES.load("valid")[:1], IMAGES)


def test_features_need_images_of_the_shape_of_the_data() -> None:
    metric = FrechetDistance("pixels", Classifier())
    with pytest.raises(ValueError, match=r"Cloud holds \(2,\)"):
        score(metric, PLANE.load("valid"), PLANE)
    with pytest.raises(ValueError, match=r"samples are \(3, 2, 2\), but the data are \(1, 2, 2\)"):
        score(metric, torch.zeros(5, 3, 2, 2), IMAGES)


def test_features_that_are_not_finite_give_no_number() -> None:
    for metric, data in CASES:
        if data is IMAGES:
            with pytest.raises(ValueError, match="the features are not finite"):
                score(metric, IMAGES.load("valid"), IMAGES, get=opens(math.nan))


# Features, and how often they are made.


class Counting(Pixels):
    """Counts the images that pass."""

    passed = 0

    def features(self, x: Tensor) -> Tensor:
        self.passed += len(x)
        return super().features(x)


def test_each_image_is_looked_at_once(tmp_path: Path) -> None:
    """For all metrics together; the data again for no other samples."""
    energy = Counting(1.0)
    model = Model(StandardNormal((1,)), nn.Identity(), energy)
    made: dict[Recipe, Any] = {}

    def get(recipe: Recipe) -> Any:
        if not isinstance(recipe, DataFeatures):
            return model
        if recipe not in made:
            made[recipe] = recipe.computed(get)
        return made[recipe]

    metrics = [FrechetDistance("x", Classifier()), Precision(Classifier()), Coverage(Classifier())]
    samples = 0.9 * IMAGES.load("valid")
    for metric in metrics:
        assert metric.needs(IMAGES, "test") == metrics[0].needs(IMAGES, "test")
        score(metric, samples, IMAGES, get=get)
    assert energy.passed == len(samples) + IMAGES.count
    score(metrics[0], 0.8 * samples, IMAGES, get=get)
    assert energy.passed == 2 * len(samples) + IMAGES.count


def test_a_classifier_is_trained_when_a_metric_first_wants_it(tmp_path: Path) -> None:
    """Also by a metric that itself wants no gradients."""
    classifier = METHODS["Classifier"]
    samples = Samples(VAES["VAE, Bernoulli pictures"], Direct(), 20)
    store = Store(tmp_path)
    with torch.no_grad():
        store.get(Score(samples, FrechetDistance("pictures", classifier)))
    assert store.state(classifier) == "kept"
    features = store.get(DataFeatures(PICTURES, "test", ClassifierFeatures(classifier)))["features"]
    model = store.get(classifier)
    expected = model.energy.features(eight_bit(PICTURES.load("test")).float() / 127.5 - 1)
    torch.testing.assert_close(features, expected.double())
