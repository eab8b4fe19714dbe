r"""Samplers that choose among independent draws from the prior instead of following a gradient.

Each draws :math:`u \sim \rho`, so that :math:`x = g(u)` is a sample of the base, and looks at the energy
:math:`E(x)` alone. Where the base is a GAN and :math:`-E` its calibrated logit, these are discriminator
rejection sampling, the Metropolis-Hastings GAN and sampling-importance-resampling. None of them can reach
what the base does not make.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, added, positive, within
from ebmzoo.models import Model, evaluated, in_chunks
from ebmzoo.samplers.diagnostics import note
from ebmzoo.samplers.kernel import chosen


@dataclass(frozen=True)
class Rejection:
    r"""Discriminator rejection sampling.

    With :math:`F = -\beta E(x)` and :math:`M` the largest :math:`F` seen so far, a proposal is accepted with
    probability :math:`\sigma(\hat F)`,

    .. math:: \hat F = F - M - \log(1 - e^{F - M - \epsilon}) - \gamma

    At :math:`\gamma = 0` and :math:`\epsilon \to 0` that is :math:`e^{F - M}`: rejection sampling, exact if
    :math:`M` is the true maximum. The paper raises :math:`\gamma` to a percentile of :math:`\hat F` over the
    proposals, so that a fixed share of them has a chance of at least one half; what is sampled is then
    :math:`\sigma(\hat F)` times the base's law, somewhere between the model and the base. The paper's public
    TensorFlow code hands 0.80 to a function that expects a percentage, hence takes the 0.8th percentile:
    ``percentile=0.8``, where it means 80.

    References:
        | Discriminator Rejection Sampling (Azadi et al., 2019), Section 3
        | https://arxiv.org/abs/1810.06758

    Arguments:
        percentile: The percentile of :math:`\hat F`, from 0 to 100, that :math:`\gamma` is; None for
            :math:`\gamma = 0`.
        burn_in: How many proposals are drawn for a first :math:`M`, once for every shard of samples.
        epsilon: The constant :math:`\epsilon`.
        beta: The inverse temperature :math:`\beta`.
        patience: After how many proposals for each sample that is wanted it is given up.
        batch: How many proposals are drawn at once, and the percentile is taken over.
    """

    percentile: float | None = 80.0
    burn_in: int = 50_000
    epsilon: float = 1e-8
    beta: float = 1.0
    patience: int = 100_000
    batch: int = added(10_000)

    def __post_init__(self) -> None:
        positive(self, "burn_in", "epsilon", "beta", "patience", "batch")
        if self.percentile is not None:
            within(self, "percentile", 0.0, 100.0)

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` accepted proposals.

        Raises:
            ValueError: If too few proposals are accepted.
        """
        highest = torch.full((), -math.inf, device=rng.device)
        for done in range(0, self.burn_in, self.batch):
            size = min(self.batch, self.burn_in - done)
            _, energy = evaluated(model, model.prior.draw(size, rng))
            highest = torch.maximum(highest, -self.beta * energy.min())
        kept: list[Tensor] = []
        found = proposed = 0
        while found < count:
            if proposed > self.patience * count:
                raise ValueError(
                    f"rejection kept {found} of {proposed} proposals, and {count} are wanted: the energy is "
                    "too sharp for it; sample by chains, lower beta, or raise patience"
                )
            data, energy = evaluated(model, model.prior.draw(self.batch, rng))
            highest = torch.maximum(highest, -self.beta * energy.min())
            kept.append(data[self._accepts(-self.beta * energy - highest, rng)])
            found, proposed = found + len(kept[-1]), proposed + self.batch
        note({"acceptance": found / proposed})
        return torch.cat(kept)[:count]

    def _accepts(self, below: Tensor, rng: Generator) -> Tensor:
        """Says of each proposal whether it is kept, from :math:`F - M`, of shape (N,)."""
        odds = below - torch.log(-torch.expm1((below - self.epsilon).double())).to(below)
        if self.percentile is not None:
            odds = odds - torch.quantile(odds, self.percentile / 100)
        return torch.rand(odds.shape, generator=rng, device=odds.device) < odds.sigmoid()


@dataclass(frozen=True)
class IndependenceMetropolis:
    r"""Metropolis-Hastings with proposals from the prior: the MH-GAN.

    A chain at :math:`x` moves to a proposal :math:`x'` with probability

    .. math:: \min\left(1, e^{\beta (E(x) - E(x'))}\right)

    which leaves the model invariant for any number of proposals. As published, chains begin at held-out data,
    and one that accepted nothing begins again at a sample of the base, so that no datum is ever returned.
    What share never moved is in the diagnostics, as ``never_moved``.

    References:
        | Metropolis-Hastings Generative Adversarial Networks (Turner et al., 2019), Section 3
        | https://arxiv.org/abs/1811.11357

    Arguments:
        proposals: The number of proposals to each chain.
        start: The data that chains begin at, or None for samples of the base.
        split: The split of these data.
        beta: The inverse temperature :math:`\beta`.
    """

    proposals: int = 640
    start: Dataset | None = None
    split: str = "valid"
    beta: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "proposals", "beta")

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns the last states of ``count`` chains.

        Raises:
            FieldError: If the data of the start have another shape than the base's.
        """
        at, energy = self._begin(model, count, rng)
        at, moved, moves = self._run(model, at, energy, rng)
        share = float((~moved).double().mean())
        note({"acceptance": moves / (count * self.proposals), "never_moved": share})
        if self.start is None or bool(moved.all()):
            return at
        lost = (~moved).nonzero().flatten()
        again = evaluated(model, model.prior.draw(len(lost), rng))
        at[lost], _, _ = self._run(model, *again, rng)
        return at

    def _begin(self, model: Model, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Returns where the chains begin, and the energies there."""
        if self.start is None:
            return evaluated(model, model.prior.draw(count, rng))
        with torch.no_grad():
            made = tuple(model.decoder(model.prior.anchor.new_zeros(1, *model.prior.shape)).shape[1:])
        if self.start.shape != made:
            raise FieldError(self, "start", f"data of the shape {made} that the base makes")
        data = self.start.load(self.split).to(rng.device)
        data = data[torch.randint(len(data), (count,), generator=rng, device=rng.device)]
        with torch.no_grad():
            return data, in_chunks(model.energy, data)

    def _run(self, model: Model, at: Tensor, energy: Tensor, rng: Generator) -> tuple[Tensor, Tensor, float]:
        """Returns where the chains end, which of them ever moved, and the number of moves."""
        moved = torch.zeros(len(at), dtype=torch.bool, device=at.device)
        moves = torch.zeros((), dtype=torch.double, device=at.device)
        for _ in range(self.proposals):
            proposal, its_energy = evaluated(model, model.prior.draw(len(at), rng))
            chance = (self.beta * (energy - its_energy)).exp()
            accepts = torch.rand(chance.shape, generator=rng, device=chance.device) < chance
            at = chosen(accepts, proposal, at)
            energy = torch.where(accepts, its_energy, energy)
            moved |= accepts
            moves += accepts.sum()
        return at, moved, float(moves)


@dataclass(frozen=True)
class Resampling:
    r"""Sampling-importance-resampling: each sample is one of its own proposals, by their weights.

    Proposal :math:`x_i` of a sample's :math:`K` is chosen with probability proportional to
    :math:`e^{-\beta E(x_i)}`. The law is the model's as :math:`K \to \infty`; for bounded weights the bias is
    of order :math:`1 / K`. Samples are independent of one another. The effective number of proposals,
    :math:`(\sum w)^2 / \sum w^2` on average over samples, is in the diagnostics.

    References:
        | The calculation of posterior distributions by data augmentation: comment (Rubin, 1987)

    Arguments:
        proposals: The number :math:`K` of proposals to each sample.
        beta: The inverse temperature :math:`\beta`.
    """

    proposals: int = 640
    beta: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "proposals", "beta")

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` resampled proposals.

        By the Gumbel-max trick, one batch of proposals is held at a time, however many there are in all.
        """
        best: Tensor | None = None
        score = total = squares = torch.zeros(())
        shift = torch.zeros(())
        for _ in range(self.proposals):
            data, energy = evaluated(model, model.prior.draw(count, rng))
            weight = -self.beta * energy
            unit = torch.rand(weight.shape, generator=rng, device=weight.device, dtype=torch.double)
            drawn = weight - (-unit.clamp_min(1e-300).log()).log()
            if best is None:
                best, score, shift = data, drawn, weight
                total = squares = torch.ones_like(weight, dtype=torch.double)
                continue
            wins = drawn > score
            best = chosen(wins, data, best)
            score = torch.where(wins, drawn, score)
            higher = torch.maximum(shift, weight)
            old, new = (shift - higher).double().exp(), (weight - higher).double().exp()
            total, squares, shift = total * old + new, squares * old.square() + new.square(), higher
        assert best is not None
        note({"effective_proposals": float((total.square() / squares).mean())})
        return best
