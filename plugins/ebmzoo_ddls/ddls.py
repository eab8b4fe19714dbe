r"""Discriminator driven latent sampling (DDLS).

If a critic's output is the logit :math:`D(x) = \log p(x) / p_g(x)`, then :math:`p_g(x) e^{D(x)}` is the law
of the data, and the generator carries the latent law

.. math:: \pi(z) \propto p_0(z) \, e^{D(g(z))}

to it. A GAN of this package is that model already: :class:`~ebmzoo.samplers.Chains` over the trained GAN is
DDLS without calibration. What the method adds is the calibration of the critic. Nothing is retrained.

References:
    | Your GAN is Secretly an Energy-based Model and You Should Use Discriminator Driven Latent Sampling (Che
      et al., 2020)
    | https://arxiv.org/abs/2003.06060
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ebmzoo.models import Model, NoEnergy, check_makes, in_chunks
from ebmzoo.training import Batches, Learner, Method
from ebmzoo_ddls.calibration import Calibration, LogisticCalibration, Map


class CalibratedEnergy(nn.Module):
    r"""Minus the calibrated output of a critic, :math:`E(x) = -c(D(x))`.

    Arguments:
        critic: The energy :math:`-D` that the critic was trained as, (B, *) to (B,).
        calibration: The function :math:`c`.
    """

    def __init__(self, critic: nn.Module, calibration: Map):
        super().__init__()
        self.critic, self.calibration = critic, calibration

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return -self.calibration(-self.critic(x))


@dataclass(frozen=True)
class DDLS(Method):
    """Calibrates the critic of a trained GAN.

    An update is one fit to a minibatch of data and as many samples, so one update on all data of a split that
    the GAN has not seen is what is wanted: ``Trained.split = 'valid'``, ``Trained.steps = 1``.

    Arguments:
        calibration: The family of functions from the critic's output to a logit.
    """

    calibration: Calibration = LogisticCalibration()

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the base's networks, frozen and in evaluation mode, with the critic before its calibration.

        Raises:
            ValueError: If there is no base, it has no critic, or it makes data of another shape.
        """
        if base is None or isinstance(base.energy, NoEnergy):
            raise ValueError("DDLS needs a trained base with a critic; bind Trained.base to a GAN")
        check_makes(base, shape, "DDLS")
        copied = copy.deepcopy(base).requires_grad_(False).eval()
        energy = CalibratedEnergy(copied.energy, self.calibration.map())
        return Model(copied.prior, copied.decoder, energy)

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the calibration."""
        return CalibrationLearner(model)


class CalibrationLearner(Learner):
    """Fits the calibration to data against samples of the base."""

    def __init__(self, model: Model):
        super().__init__(model, {})

    @torch.no_grad()
    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Fits the calibration anew."""
        energy, data = self.model.energy, batches.draw().data
        assert isinstance(energy, CalibratedEnergy)
        samples = self.model.decoder(self.model.prior.draw(len(data), rng))
        outputs = -torch.cat([in_chunks(energy.critic, data), in_chunks(energy.critic, samples)])
        real = torch.cat([torch.ones(len(data)), torch.zeros(len(data))]).to(outputs)
        energy.calibration.fit(outputs, real)
        logits = energy.calibration(outputs)
        return {
            "cross_entropy": binary_cross_entropy_with_logits(logits, real),
            "cross_entropy_before": binary_cross_entropy_with_logits(outputs, real),
            **energy.calibration.facts(),
            "accuracy": ((logits > 0) == (real > 0)).float().mean(),
            "outputs/data": outputs[: len(data)],
            "outputs/samples": outputs[len(data) :],
            "samples": samples,
        }
