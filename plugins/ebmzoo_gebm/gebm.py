r"""Generalized energy-based models.

A base :math:`b`, the law of :math:`g(z)` for normal :math:`z`, says where data can be; an energy :math:`E`
reweighs it. The energy learns by KALE, a lower bound of :math:`\mathrm{KL}(p \| b)` in which samples come
straight from the base; the base learns to lower what the energy finds. The model is
:math:`b(x) e^{-E(x)} / Z`, sampled by chains in latent space.

References:
    | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021)
    | https://arxiv.org/abs/2003.05033
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator as RandomGenerator
from torch import Tensor, nn

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError, added, not_negative, positive
from ebmzoo.generators import Generator
from ebmzoo.losses import log_mean_exp
from ebmzoo.models import Model, NoEnergy, Prior, StandardNormal, check_makes, chunk_sizes, evaluating, frozen
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend, differentiate, gradient_norm
from ebmzoo.training.learner import Part
from ebmzoo_gebm.criteria import Criterion, FenchelKALE
from ebmzoo_gebm.penalties import Penalty
from ebmzoo_gebm.ratio import EnergyOverBase, energies_of_data_and_samples


@dataclass(frozen=True)
class WarmUp:
    """Gives the energy more updates in the beginning, and again at regular times.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), official code: 100 energy updates
          before each of the base's first two, and before every 500th

    Arguments:
        energy_steps: How many updates of the energy.
        first: In how many of the first updates.
        every: In every update whose number is a multiple of this, or None for the first ones only.
    """

    energy_steps: int = 100
    first: int = 2
    every: int | None = 500

    def __post_init__(self) -> None:
        positive(self, "energy_steps")
        not_negative(self, "first")
        if self.every is not None:
            positive(self, "every")

    def applies(self, update: int) -> bool:
        """Whether the update with this number, the first being 0, is one of those."""
        return update < self.first or (self.every is not None and update % self.every == 0)


@runtime_checkable
class GradientMap(Protocol):
    """What is done to the gradients of the energy's parameters before its optimizer sees them."""

    def apply(self, parameters: Iterable[nn.Parameter]) -> None:
        """Changes the gradients in place."""
        ...


@dataclass(frozen=True)
class PlainGradients:
    """Gradients are taken as they are."""

    def apply(self, parameters: Iterable[nn.Parameter]) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Squashed:
    r"""Every coordinate :math:`g` of a gradient becomes :math:`2 g / (1 + g^2)`.

    It is at most one, and *falls* again beyond one: a very large gradient hardly moves its parameter. The
    official code does this by default, under the name of clipping. There, what is not finite becomes zero;
    here it is divergence, and told.

    References:
        | https://github.com/MichaelArbel/GeneralizedEBM, ``grad_clip`` in the trainer
    """

    def apply(self, parameters: Iterable[nn.Parameter]) -> None:
        """Changes the gradients in place."""
        for parameter in parameters:
            if parameter.grad is not None:
                gradient = parameter.grad
                gradient.copy_(2 * gradient / (1 + gradient.square()))


@dataclass(frozen=True)
class GEBM(Method):
    r"""Trains an energy and its base, or one of them.

    An update is ``base_steps`` of the base after ``energy_steps`` of the energy, each on a minibatch of its
    own. With ``base_steps = 0`` the base stays exactly as it is, with ``energy_steps = 0`` the energy does. A
    base that ``Trained.base`` names is where the base begins; without one it begins with fresh weights.
    Sampled from the prior, what was trained is KALE-GAN; sampled by chains, GEBM.

    Arguments:
        energy: The architecture of the energy, or None to go on with that of the base.
        generator: The architecture of the base, or None where a trained base is given.
        latent: The dimension of the latent variable, or None where a trained base is given.
        criterion: What the energy minimises.
        penalties: What is added to it.
        energy_steps: How many updates the energy makes in one.
        base_steps: How many updates the base makes in one.
        warm_up: When the energy makes more, or None.
        samples_per_datum: How many samples of the base there are for a datum of a batch.
        initial_samples: From how many samples of the base the log-partition is set in the beginning.
        gradients: What is done to the energy's gradients.
        energy_optimizer: The optimizer of the energy and of the log-partition.
        base_optimizer: The optimizer of the base.
        evaluating: Whether either part is in evaluation mode while the other learns, as in the official code,
            so that batch normalisation goes by what it has gathered and not by the batch.
    """

    energy: Energy | EnergyOverBase | None = None
    generator: Generator | None = None
    latent: int | None = None
    criterion: Criterion = FenchelKALE()
    penalties: tuple[Penalty, ...] = ()
    energy_steps: int = 5
    base_steps: int = 1
    warm_up: WarmUp | None = None
    samples_per_datum: int = 1
    initial_samples: int = 10_000
    gradients: GradientMap = PlainGradients()
    energy_optimizer: Optimizer = Adam(1e-4, 0.5, 0.999)
    base_optimizer: Optimizer = Adam(1e-4, 0.5, 0.999)
    evaluating: bool = added(False)

    def __post_init__(self) -> None:
        not_negative(self, "energy_steps", "base_steps")
        positive(self, "samples_per_datum", "initial_samples")
        if not self.energy_steps + self.base_steps:
            raise FieldError(self, "energy_steps", "above zero if base_steps is zero: something must learn")
        if self.latent is not None:
            positive(self, "latent")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds prior and decoder, fresh or copied from the base, and the energy over them.

        Raises:
            ValueError: If base or energy is neither given nor to be built, or they do not fit each other.
        """
        prior, decoder, energy = self._base(shape, base)
        if isinstance(self.energy, EnergyOverBase) and not isinstance(prior, StandardNormal):
            raise ValueError(
                f"{type(self.energy).__name__} takes the density of its base for that of standard normal "
                f"latents, and the prior of this one is a {type(prior).__name__}"
            )
        return Model(prior, decoder, self._energy(shape, decoder, energy))

    def _base(self, shape: tuple[int, ...], base: Model | None) -> tuple[Prior, nn.Module, nn.Module]:
        """Returns prior, decoder and energy to begin with. An energy that knows its base knows this one."""
        if base is not None:
            check_makes(base, shape, "GEBM")
            return copy.deepcopy((base.prior, base.decoder, base.energy))
        if self.generator is None or self.latent is None:
            raise ValueError(
                "GEBM needs a base: bind Trained.base to a trained one, or GEBM.generator and GEBM.latent"
            )
        return StandardNormal((self.latent,)), self.generator.build(self.latent, shape), NoEnergy()

    def _energy(self, shape: tuple[int, ...], decoder: nn.Module, begun: nn.Module) -> nn.Module:
        if isinstance(self.energy, EnergyOverBase):
            return self.energy.over(shape, decoder)
        if self.energy is not None:
            return self.energy.energy(shape)
        if isinstance(begun, NoEnergy):
            raise ValueError(
                "GEBM needs an energy: bind GEBM.energy, or Trained.base to a model that has one"
            )
        return begun

    def learner(self, model: Model) -> Learner:
        """Returns the learner of energy and base."""
        return GEBMLearner(model, self)


class GEBMLearner(Learner):
    """Lets the energy tell data from samples of the base, and the base lower what it finds."""

    def __init__(self, model: Model, method: GEBM):
        learning = {"energy_steps": model.energy, "base_steps": model.decoder}
        for name, part in learning.items():
            learns = getattr(method, name) > 0
            if learns and not list(part.parameters()):
                raise FieldError(method, name, f"0, as the {type(part).__name__} has no parameters to learn")
            part.requires_grad_(learns).train(learns)
        self.log_z = nn.Parameter(model.prior.anchor.new_zeros(()))
        self.updates = torch.zeros((), dtype=torch.long)
        parts: dict[str, Part] = {"log_partition": self.log_z, "updates": self.updates}
        if method.energy_steps:
            self.energy_optimizer = method.energy_optimizer.over([*model.energy.parameters(), self.log_z])
            parts["energy_optimizer"] = self.energy_optimizer
        if method.base_steps:
            self.base_optimizer = method.base_optimizer.over(model.decoder.parameters())
            parts["base_optimizer"] = self.base_optimizer
        super().__init__(model, parts)
        self.method = method

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update of both, or of the one that learns."""
        if int(self.updates) == 0:
            self._begin(rng)
        report: dict[str, Tensor] = {}
        for _ in range(self._energy_steps(int(self.updates))):
            report |= self._update_energy(batches.draw().data, rng)
        for _ in range(self.method.base_steps):
            report |= self._update_base(batches.batch_size * self.method.samples_per_datum, rng)
        self.updates += 1
        if not self.method.energy_steps:
            report["gradient_norm"] = report["base_gradient_norm"]
        return report

    def _energy_steps(self, update: int) -> int:
        """Returns how many updates the energy makes in the update with this number."""
        warm_up = self.method.warm_up
        if self.method.energy_steps and warm_up is not None and warm_up.applies(update):
            return warm_up.energy_steps
        return self.method.energy_steps

    @torch.no_grad()
    def _begin(self, rng: RandomGenerator) -> None:
        """Sets the amortised log-partition from samples of the base."""
        counts = chunk_sizes(self.method.initial_samples, 1000)
        with self._still(self.model):
            energies = [self.model.energy(self._samples(count, rng)) for count in counts]
        self.log_z.copy_(log_mean_exp(-torch.cat(energies)))

    def _still(self, part: nn.Module) -> AbstractContextManager[None]:
        return evaluating(part) if self.method.evaluating else nullcontext()

    def _samples(self, count: int, rng: RandomGenerator) -> Tensor:
        return self.model.decoder(self.model.prior.draw(count, rng))

    def _update_energy(self, x: Tensor, rng: RandomGenerator) -> dict[str, Tensor]:
        energy, method = self.model.energy, self.method
        with frozen(self.model.decoder), self._still(self.model.decoder):
            latents = self.model.prior.draw(method.samples_per_datum * len(x), rng)
            data_energy, samples, sample_energy = energies_of_data_and_samples(
                self.model.decoder, energy, x, latents
            )
            loss = method.criterion.loss(data_energy, sample_energy, self.log_z)
            held = sum((p.value(energy, x, samples, rng) for p in method.penalties), loss.new_zeros(()))
            differentiate(loss + held, [*energy.parameters(), self.log_z])
        data_energy, sample_energy = data_energy.detach(), sample_energy.detach()
        sampled = log_mean_exp(-sample_energy)
        norm = gradient_norm(energy.parameters())
        method.gradients.apply(energy.parameters())
        method.criterion.prepare(self.log_z, sampled)
        self.energy_optimizer.step()
        return {
            "energy_loss": loss.detach(),
            "energy_penalty": held.detach(),
            "gradient_norm": norm,
            "kale": -data_energy.mean() - sampled,
            "log_partition": self.log_z.detach().clone(),
            "log_partition_of_batch": sampled,
            "energy_data": data_energy.mean(),
            "energy_samples": sample_energy.mean(),
            "energy_gap": sample_energy.mean() - data_energy.mean(),
            "energies/data": data_energy,
            "energies/samples": sample_energy,
        }

    def _update_base(self, count: int, rng: RandomGenerator) -> dict[str, Tensor]:
        samples = self._samples(count, rng)
        with frozen(self.model.energy), self._still(self.model.energy):
            energies, slopes = value_and_slope(self.model.energy, samples)
        norm = descend(self.base_optimizer, base_surrogate(samples, energies, slopes))
        return {
            "base_loss": -log_mean_exp(-energies),
            "base_gradient_norm": norm,
            "samples": samples.detach(),
        }


def value_and_slope(energy: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns energies (B,) and their gradients in the data (B, *), without a graph."""
    x = x.detach().requires_grad_()
    value = energy(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), slope


def base_surrogate(samples: Tensor, energies: Tensor, slopes: Tensor) -> Tensor:
    r"""Returns a scalar whose gradient in the base's parameters is that of KALE.

    .. math:: \nabla_\theta \mathrm{KALE} = \sum_i w_i \nabla_x E(x_i) \nabla_\theta g_\theta(z_i), \qquad
        w_i = \frac{e^{-E(x_i)}}{\sum_j e^{-E(x_j)}}

    The energy counts as a fixed function, also where it depends on the base's density (as
    :class:`~ebmzoo_gebm.ratio.DensityRatio` does): the optimal energy's change with the base does not enter.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), on the gradient of KALE

    Arguments:
        samples: The samples :math:`x_i = g_\theta(z_i)`, of shape (N, *), with their graph.
        energies: Their energies, of shape (N,).
        slopes: The gradients of the energy in the samples, of shape (N, *).
    """
    weights = torch.softmax(-energies, 0)
    return (weights * (slopes * samples).flatten(1).sum(1)).sum()
