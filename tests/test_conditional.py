"""Energies of classes: what each class is, how they learn, and that chains belong to theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from laws import generator
from torch import Tensor, nn

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.energies import MLPEnergy
from ebmzoo.models import Flat, Model, Normal
from ebmzoo.samplers import MALA, Chains, FromNoise, Stage
from ebmzoo.training import Adam, Batch, Batches
from ebmzoo_pixel.conditional import ClassChains, Conditional, EnergyOfClasses, Unconditional, given
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.igebm import ConditionalIGEBMEnergy, IGEBMEnergy, NoNorm
from ebmzoo_pixel.memory import Fresh, Replay
from ebmzoo_pixel.networks import JEMEnergy
from ebmzoo_pixel.spaces import Unbounded
from ebmzoo_pixel.terms import LastStep

MEANS = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [3.0, -2.0]])


class Bowls(nn.Module):
    """The energies of one normal law for each of three classes, with the means as parameters."""

    classes = 3

    def __init__(self, means: Tensor):
        super().__init__()
        self.means = nn.Parameter(means.clone())

    def given(self, x: Tensor, labels: Tensor) -> Tensor:
        return 2 * (x - self.means[labels]).square().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([self.given(x, torch.full((len(x),), label)) for label in range(3)])
        return math.log(3) - torch.logsumexp(-each, 0)


@dataclass(frozen=True)
class Learnt:
    """Bowls that all begin in the middle."""

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        return Bowls(torch.zeros(3, *shape))


def labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of the bowls at the means, the classes in turns."""
    labels = torch.arange(count) % 3
    return MEANS[labels] + 0.5 * torch.randn(count, 2, generator=generator(seed)), labels


@pytest.mark.parametrize(
    "architecture", [ConditionalIGEBMEnergy(3, 4, 1), JEMEnergy(10, 1, 3)], ids=["IGEBM", "JEM"]
)
def test_energies_of_classes(architecture):
    torch.manual_seed(0)
    energy = architecture.energy((1, 8, 8)).eval()
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(6, 1, 8, 8, generator=generator(0))
    assert isinstance(energy, EnergyOfClasses)
    assert energy.classes == 3
    each = torch.stack([energy.given(x, torch.full((6,), label)) for label in range(3)])
    assert float((each[0] - each[1]).detach().abs().min()) > 1e-4
    mixed = energy.given(x, torch.tensor([0, 1, 2, 2, 1, 0]))
    torch.testing.assert_close(mixed, each[[0, 1, 2, 2, 1, 0], range(6)])
    constant = 0.0 if isinstance(energy, ClassifierEnergy) else math.log(3)
    torch.testing.assert_close(energy(x), constant - torch.logsumexp(-each, 0))


def test_conditional_igebm_begins_as_igebm_without_biases():
    torch.manual_seed(1)
    conditional = ConditionalIGEBMEnergy(3, 4, 2, norm=NoNorm()).energy((1, 16, 16))
    plain = IGEBMEnergy(4, 2, norm=NoNorm()).energy((1, 16, 16))
    assert conditional.head[0].negative_slope == 0.2
    plain[-4] = conditional.head[0]
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "residual" in name and name.endswith("bias"):
                parameter.zero_()
        for mine, its in zip(convolutions(conditional), convolutions(plain), strict=True):
            mine.weight.copy_(its.weight)
        conditional.head[-2].load_state_dict(plain[-2].state_dict())
    x = torch.randn(3, 1, 16, 16, generator=generator(1))
    for label in range(3):
        torch.testing.assert_close(conditional.given(x, torch.full((3,), label)), plain(x))
    torch.testing.assert_close(conditional(x), plain(x))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_the_size_of_conditional_igebm():
    """A bias fewer for every channel of a convolution in a block, and three numbers for every class."""
    plain = sum(p.numel() for p in IGEBMEnergy(norm=NoNorm()).energy((3, 32, 32)).parameters())
    made = ConditionalIGEBMEnergy(norm=NoNorm()).energy((3, 32, 32))
    outputs = 3 * (128 + 256 + 512)
    inputs = 128 * 4 + 256 * 3 + 512 * 2
    expected = plain - 2 * outputs + 10 * (inputs + 2 * outputs)
    assert sum(p.numel() for p in made.parameters()) == expected


@pytest.mark.parametrize("memory", [Fresh(FromNoise(2.0)), Replay(1200, 0.05)], ids=["fresh", "replay"])
def test_every_class_learns_its_own_law(memory):
    method = ContrastiveLearning(
        Learnt(),
        (Stage(MALA(0.1), 20),),
        Unbounded(2.0),
        memory,
        chains=2,
        optimizer=Adam(0.05, 0.5, 0.9),
        conditioning=Conditional(),
    )
    torch.manual_seed(0)
    learner, rng = method.learner(method.model((2,), None)), generator(1)
    x, labels = labelled(3000, 0)
    batches = Batches(x, labels, 300, generator(2))
    for _ in range(150):
        learner.step(batches, rng)
    torch.testing.assert_close(learner.model.energy.means.detach(), MEANS, atol=0.15, rtol=0)


def test_without_conditioning_labels_do_not_matter():
    law = Model(Flat(Normal((2,))), nn.Identity(), Bowls(MEANS))
    assert Unconditional().law(law, torch.tensor([0, 1]), 2) is law


def test_chains_of_a_datum_are_of_its_class():
    law = Conditional().law(Model(Flat(Normal((2,))), nn.Identity(), Bowls(MEANS)), torch.tensor([2, 0]), 6)
    x = torch.zeros(6, 2)
    torch.testing.assert_close(law.energy(x), 2 * MEANS[[2, 0] * 3].square().sum(1))


def test_terms_see_the_classes():
    """The last step of a chain of class 1 leads to where that class is."""
    method = ContrastiveLearning(
        Learnt(), (), Unbounded(), Fresh(), terms=(LastStep(1.0, 0.1, 1e-9),), conditioning=Conditional()
    )
    learner = method.learner(method.model((2,), None))
    samples = torch.tensor([[1.0, 0.0]])
    terms = learner.terms(Batch(torch.zeros(1, 2), torch.tensor([1])), samples, generator(0))
    (slope,) = torch.autograd.grad(terms["LastStep"], learner.model.energy.means)
    assert float(slope[1].abs().sum()) > 0
    assert float(slope[[0, 2]].abs().sum()) == 0


def test_every_class_is_drawn_as_often():
    law = Model(Flat(Normal((2,), 2.0)), nn.Identity(), Bowls(MEANS))
    drawn = ClassChains((Stage(MALA(0.1), 200),)).draw(law, 3000, generator(3))
    for label in range(3):
        found = drawn[label::3]
        torch.testing.assert_close(found.mean(0), MEANS[label], atol=5 * 0.5 / math.sqrt(1000), rtol=0)
        torch.testing.assert_close(found.std(0), torch.full((2,), 0.5), atol=0.06, rtol=0)


def test_the_mixture_is_what_an_energy_of_classes_is_by_itself():
    """Chains of all classes together have the law of all data, wherever they begin."""
    law = Model(Flat(Normal((2,), 2.0)), nn.Identity(), Bowls(0.4 * MEANS))
    alone = Chains((Stage(MALA(0.1), 400),)).draw(law, 3000, generator(4))
    classes = ClassChains((Stage(MALA(0.1), 400),)).draw(law, 3000, generator(5))
    torch.testing.assert_close(alone.mean(0), classes.mean(0), atol=0.12, rtol=0)
    torch.testing.assert_close(alone.std(0), classes.std(0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda law: given(law, torch.tensor([3])), "there is no class 3 among the 3 "),
        (lambda law: Conditional().law(law, None, 2), "Conditional needs data with classes"),
    ],
)
def test_what_classes_need(ask, words: str):
    with pytest.raises(ValueError, match=words):
        ask(Model(Flat(Normal((2,))), nn.Identity(), Bowls(MEANS)))


def test_an_energy_without_classes_is_refused():
    law = Model(Flat(Normal((2,))), nn.Identity(), MLPEnergy(4, 1).energy((2,)))
    with pytest.raises(
        ValueError, match=r"an energy of classes, such as JEMEnergy or ConditionalIGEBMEnergy"
    ):
        ClassChains((Stage(MALA(0.1), 1),)).draw(law, 1, generator(0))
