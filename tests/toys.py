"""The smallest data, methods, metrics and recipes, every registered method at its smallest, and processes."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ebmzoo.classifiers import Classifier, RandomMirror, RandomShift, ResNetClassifier
from ebmzoo.data.dataset import Dataset, check_split
from ebmzoo.energies import ConvEnergy, Energy, MLPEnergy, ResidualEnergy
from ebmzoo.flows import MAF, Glow, LatentGlow, RealNVP
from ebmzoo.generators import ConvGenerator, MLPGenerator
from ebmzoo.metrics import Metric
from ebmzoo.models import Model, NoEnergy, StandardNormal
from ebmzoo.recipes import Trained
from ebmzoo.runtime import Deadline, OutOfTime, Runtime
from ebmzoo.samplers import MALA, SGLD, Langevin, Stage
from ebmzoo.store import Recipe, Store, unfinished
from ebmzoo.training import (
    Adam,
    Averaged,
    Batches,
    Learner,
    Method,
    Milestones,
    Optimizer,
    Scheduled,
    descend,
)
from ebmzoo_bases.dcgan import DCGANEncoder, DCGANEnergy, DCGANGenerator
from ebmzoo_bases.encoders import ConvEncoder, MLPEncoder
from ebmzoo_bases.flow import FlowLikelihood
from ebmzoo_bases.gan import GAN, BetweenPenalty, DataPenalty, Hinge
from ebmzoo_bases.latent import GLF, SecondStage
from ebmzoo_bases.sngan import (
    SNGANConvEnergy,
    SNGANConvGenerator,
    SNGANResNetEnergy,
    SNGANResNetGenerator,
)
from ebmzoo_bases.vae import VAE, Bernoulli, Gaussian
from ebmzoo_ddls.calibration import IsotonicCalibration
from ebmzoo_ddls.ddls import DDLS
from ebmzoo_gebm.criteria import DonskerVaradhan, FenchelKALE, PreconditionedPartition
from ebmzoo_gebm.gebm import GEBM, Squashed, WarmUp
from ebmzoo_gebm.penalties import GradientPenalty, ParameterPenalty
from ebmzoo_gebm.ratio import DensityRatio, ParameterOffset, TruncatedEnergy
from ebmzoo_pixel.conditional import Conditional
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.ensemble import Snapshots
from ebmzoo_pixel.igebm import ConditionalIGEBMEnergy, IGEBMEnergy
from ebmzoo_pixel.memory import ByteReplay, Fresh, Replay
from ebmzoo_pixel.networks import JEMEnergy
from ebmzoo_pixel.spaces import Unbounded
from ebmzoo_pixel.terms import Classification, LastStep
from ebmzoo_tilting.tilting import Tilting


@dataclass(frozen=True)
class Blob(Dataset):
    """Normal coordinates within [-1, 1], of the classes 0 and 1 in turn, from a seed for each split."""

    count: int = 64
    mean: float = 0.5
    std: float = 0.25
    shape: tuple[int, ...] = (2,)

    def load(self, split: str) -> Tensor:
        check_split(split)
        rng = Generator().manual_seed({"train": 1, "valid": 2, "test": 3}[split])
        return (self.mean + self.std * torch.randn(self.count, *self.shape, generator=rng)).clamp(-1, 1)

    def labels(self, split: str) -> Tensor:
        check_split(split)
        return torch.arange(self.count) % 2


@dataclass(frozen=True)
class Offset(Metric):
    """How far the samples' mean is from the point (to, to, ...)."""

    lower_is_better: ClassVar[bool] = True
    to: float = 0.0

    @property
    def label(self) -> str:
        return "offset"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        return float((samples.flatten(1).mean(0) - self.to).norm())

    def protocol(self) -> dict[str, Any]:
        return {"to": self.to}


class Shift(nn.Module):
    """Adds a learnt vector."""

    def __init__(self, size: int):
        super().__init__()
        self.by = nn.Parameter(torch.zeros(size))

    def forward(self, u: Tensor) -> Tensor:
        return self.by + 0.1 * u


@dataclass(frozen=True)
class Chase(Method):
    """Moves a point towards the data, with every kind of state and randomness that a method may have.

    Gradient descent diverges where the learning rate times the curvature is above two.

    Arguments:
        optimizer: The optimizer.
        curvature: The curvature of the loss.
        dropout: The share of coordinates that torch's global generator leaves out.
        noise: The size of the noise, from the run's generator, in chains that are carried along.
        planted: (update, name, number): what is reported at an update, besides what is true.
    """

    optimizer: Optimizer = Adam(0.05)
    curvature: float = 1.0
    dropout: float = 0.0
    noise: float = 0.1
    planted: tuple[tuple[int, str, str], ...] = ()

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        return Model(StandardNormal(shape), Shift(*shape), NoEnergy())

    def learner(self, model: Model) -> Learner:
        return Chaser(model, self)


class Chaser(Learner):
    """Lowers the squared distance between the point and data, pushed a little by its chains."""

    def __init__(self, model: Model, method: Chase):
        self.method, self.optimizer = method, method.optimizer.over(model.decoder.parameters())
        self.chains, self.clock = torch.zeros(8, 2), torch.zeros((), dtype=torch.long)
        super().__init__(model, {"optimizer": self.optimizer, "chains": self.chains, "clock": self.clock})

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        x, [by] = batches.draw().data, self.model.decoder.parameters()
        mask = nn.functional.dropout(torch.ones_like(x), self.method.dropout)
        self.chains.mul_(0.9).add_(self.method.noise * torch.randn(8, 2, generator=rng))
        distances = ((by + self.chains.mean(0) - x) * mask).square().sum(1)
        loss = 0.5 * self.method.curvature * distances.mean()
        norm = descend(self.optimizer, loss)
        self.clock += 1
        report = {"loss": loss.detach(), "gradient_norm": norm, "distances": distances.detach(), "data": x}
        planted = [(name, number) for update, name, number in self.method.planted if update == self.clock]
        return report | {name: torch.tensor(float(number)) for name, number in planted}


@dataclass(frozen=True)
class Note(Recipe):
    """Keeps its text, after those of the notes that it needs.

    Each making is noted in the store's file ``journal``; it leaves what is unfinished, and then waits for the
    store's file ``gate``, or fails, if it is told to.
    """

    artifact: ClassVar[str] = "artifact.txt"

    text: str
    after: tuple[Note, ...] = ()
    weight: float = 0.0
    waits: bool = False
    fails: bool = False

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        texts = [*(store.get(note) for note in self.after), self.text]
        with (store.root / "journal").open("a") as journal:
            journal.write(f"{self.text}\n")
        (folder / "checkpoint").write_text("half way")
        if self.waits:
            until((store.root / "gate").exists)
        if self.fails and not (store.root / "gate").exists():
            raise ValueError(f"{self.text} cannot be made")
        unfinished(folder, self).write_text(" ".join(texts))
        return {"seconds": 0.0}

    def open(self, store: Store, kept: Path) -> str:
        return kept.read_text()


def journal(root: Path) -> list[str]:
    """The texts of the notes that were made, in their order."""
    path = root / "journal"
    return path.read_text().split() if path.exists() else []


PLANE, PICTURES = Blob(), Blob(shape=(1, 8, 8))

VAES = {
    "VAE": Trained(VAE(2, MLPGenerator(16, 2), MLPEncoder(16, 2), Gaussian(0.1)), PLANE, 5, 16),
    "VAE, Gaussian pictures": Trained(
        VAE(3, ConvGenerator(4), ConvEncoder(4), Gaussian(0.5)), PICTURES, 5, 16
    ),
    "VAE, Bernoulli pictures": Trained(
        VAE(3, ConvGenerator(4), ConvEncoder(4), Bernoulli()), PICTURES, 5, 16
    ),
}
ENERGIES: tuple[Energy, ...] = (MLPEnergy(16, 2), ConvEnergy(4), ResidualEnergy((4, 6), 1))
GANS = {
    "GAN": Trained(
        GAN(2, MLPGenerator(16, 2), MLPEnergy(16, 2), penalty=BetweenPenalty(0.1, 2), critic_steps=3),
        PLANE,
        5,
        16,
    ),
    "GAN of pictures": Trained(
        GAN(3, ConvGenerator(4), ConvEnergy(4), Hinge(), DataPenalty(0.1)), PICTURES, 5, 16
    ),
}
METHODS = {
    **VAES,
    **GANS,
    "SNGAN": Trained(
        GAN(3, SNGANConvGenerator(4), SNGANConvEnergy(4), Hinge(), critic_steps=2), PICTURES, 5, 16
    ),
    "SNGAN, residual, averaged": Trained(
        Averaged(GAN(3, SNGANResNetGenerator(4), SNGANResNetEnergy(4), Hinge())), PICTURES, 5, 16
    ),
    "DCGAN": Trained(GAN(3, DCGANGenerator(4), DCGANEnergy(4)), PICTURES, 5, 16),
    "DDLS": Trained(DDLS(), PLANE, 1, 64, GANS["GAN"], split="valid"),
    "DDLS, isotonic": Trained(DDLS(IsotonicCalibration(16)), PICTURES, 2, 32, GANS["GAN of pictures"]),
    **{
        f"Tilting of {name}": Trained(
            Tilting(energy, (Stage(Langevin(0.05), 2), Stage(MALA(0.05), 2))), base.data, 5, 16, base
        )
        for (name, base), energy in zip(VAES.items(), ENERGIES, strict=True)
    },
    "Real NVP": Trained(FlowLikelihood(RealNVP(2, 8, 1)), PLANE, 5, 16),
    "MAF, its rate scheduled": Trained(
        Scheduled(FlowLikelihood(MAF(1, 8, 1)), Milestones((2, 4), 0.5)), PLANE, 5, 16
    ),
    "Glow": Trained(FlowLikelihood(Glow(2, 1, 4), dequantisation=2 / 255), PICTURES, 5, 16),
    "GLF": Trained(
        GLF(4, DCGANGenerator(4, 3), DCGANEncoder(4, 3), LatentGlow(1, 8), Bernoulli()), PICTURES, 5, 16
    ),
    "Two-stage VAE": Trained(
        SecondStage(VAE(2, MLPGenerator(8, 1), MLPEncoder(8, 1), Gaussian(0.1))), PLANE, 5, 16, VAES["VAE"]
    ),
    "VAE and flow": Trained(
        SecondStage(FlowLikelihood(LatentGlow(1, 8))), PICTURES, 5, 16, VAES["VAE, Bernoulli pictures"]
    ),
    "GEBM": Trained(
        GEBM(MLPEnergy(16, 2), MLPGenerator(16, 2), 3, penalties=(GradientPenalty(0.1),), energy_steps=2),
        PLANE,
        5,
        16,
    ),
    "GEBM of flows": Trained(
        GEBM(
            DensityRatio(RealNVP(2, 8, 1), ParameterOffset()),
            RealNVP(2, 8, 1),
            2,
            FenchelKALE(PreconditionedPartition()),
            (GradientPenalty(0.1), ParameterPenalty(0.1)),
            2,
            warm_up=WarmUp(3, 1, 2),
            samples_per_datum=3,
            gradients=Squashed(),
        ),
        PLANE,
        5,
        16,
    ),
    "GEBM, averaged": Trained(
        Averaged(GEBM(MLPEnergy(16, 2), MLPGenerator(16, 2), 3, energy_steps=2), decay=0.5), PLANE, 5, 16
    ),
    "GEBM, its rates scheduled": Trained(
        Scheduled(GEBM(MLPEnergy(16, 2), MLPGenerator(16, 2), 3, energy_steps=2), Milestones((2, 4), 0.5)),
        PLANE,
        5,
        16,
    ),
    "GEBM, energy only": Trained(
        GEBM(TruncatedEnergy(ConvEnergy(4)), base_steps=0), PICTURES, 5, 16, VAES["VAE, Gaussian pictures"]
    ),
    "GEBM, base only": Trained(
        GEBM(criterion=DonskerVaradhan(), energy_steps=0), PICTURES, 5, 16, GANS["GAN of pictures"]
    ),
    "Contrastive learning": Trained(
        ContrastiveLearning(MLPEnergy(16, 2), (Stage(Langevin(0.01), 2),), memory=Replay(100)), PLANE, 5, 16
    ),
    "Contrastive learning of pictures": Trained(
        ContrastiveLearning(ConvEnergy(4), (Stage(SGLD(1.0, 0.01), 2),), Unbounded(), Fresh(), l2=0.1),
        PICTURES,
        5,
        16,
    ),
    "JEM": Trained(
        ContrastiveLearning(
            JEMEnergy(10, 1, 2),
            (Stage(SGLD(1.0, 0.01), 2),),
            memory=ByteReplay(40),
            data_noise=0.03,
            terms=(Classification(),),
        ),
        PICTURES,
        3,
        8,
    ),
    "Conditional IGEBM": Trained(
        ContrastiveLearning(
            ConditionalIGEBMEnergy(2, 4, 1),
            (Stage(SGLD(1.0, 0.01), 2),),
            memory=Replay(32),
            conditioning=Conditional(),
        ),
        PICTURES,
        5,
        16,
    ),
    "Ensemble of IGEBM": Trained(
        Snapshots(
            ContrastiveLearning(IGEBMEnergy(4, 1), (Stage(SGLD(1.0, 0.01), 2),), terms=(LastStep(),)), 2, 2
        ),
        PICTURES,
        4,
        8,
    ),
    "Classifier": Trained(Classifier(classes=2, channels=4, features=8), PICTURES, 5, 16),
    "ResNetClassifier": Trained(
        ResNetClassifier(2, (4, 6), 1, (RandomShift(1), RandomMirror())), PICTURES, 5, 16
    ),
    "Averaged Classifier": Trained(
        Averaged(Classifier(classes=2, channels=4, features=8), decay=0.5), PICTURES, 5, 16
    ),
}
"""Every registered method as a recipe of a few updates, on all kinds of data that it is for."""


class Countdown(Deadline):
    """A deadline that comes when it has been looked at so many times.

    Making a model looks once before anything else, and then before each update.
    """

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def passed(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def make_in_pieces(recipe: Recipe, root: Path, updates: int = 1) -> int:
    """Makes a recipe, ``updates`` at a time, each time as if in a new process; returns how many times."""
    for need in recipe.needs():
        Store(root).get(need)
    for session in range(1, 1000):
        try:
            Store(root, Runtime(deadline=Countdown(1 + updates))).get(recipe)
        except OutOfTime:
            continue
        return session
    raise AssertionError("it makes no progress")


def kept(root: Path, recipe: Recipe) -> bytes:
    """The artifact's content."""
    return (Store(root).folder(recipe) / recipe.artifact).read_bytes()


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Lets no file grow beyond ``free`` bytes: to who writes it, the same as a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Waits for a condition; how long it takes is no part of a test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for never came"
        time.sleep(0.01)


@cache
def processes() -> ForkServerContext:
    """Processes of their own, forked from a server that has imported torch but never used it."""
    context = multiprocessing.get_context("forkserver")
    names = ["ebmzoo.cli", "ebmzoo.builtin", "ebmzoo.rendering", "ebmzoo.metrics", "ebmzoo.recipes"]
    late = ["torch.utils.tensorboard", "torch._dynamo", "scipy.optimize", "matplotlib.figure"]
    context.set_forkserver_preload([*names, *late])
    return context
