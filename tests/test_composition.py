"""Energies put together, images restored and ensembles: the laws that they should have."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import Tensor, nn
from toys import Blob, kept, make_in_pieces

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.data import Digits
from ebmzoo.energies import MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.models import Flat, Model, Normal, StandardNormal
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.runtime import Runtime
from ebmzoo.samplers import MALA, SGLD, Chains, Direct, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo.training import Learner, Method
from ebmzoo_pixel.composition import Composed, Joined, Mixture, OfClass, Product
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.ensemble import Ensemble, Snapshots
from ebmzoo_pixel.memory import Replay
from ebmzoo_pixel.restoration import FromSaltAndPepper, Inpainting, LowerHalf, Middle
from ebmzoo_pixel.spaces import InBox, Unbounded


class Bowl(nn.Module):
    """The energy of N(m, diag(s²))."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.mean) / self.std).square().sum(1)


class Idle(Learner):
    """Learns nothing."""

    def step(self, batches, rng):
        return {"loss": torch.zeros(())}


@dataclass(frozen=True)
class Known(Method):
    """A method whose energy is known beforehand."""

    mean: tuple[float, ...] = (0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0)
    latent: bool = False

    def model(self, shape, base):
        prior = StandardNormal(shape) if self.latent else Flat(Normal(shape))
        return Model(prior, nn.Linear(2, 2) if self.latent else nn.Identity(), Bowl(self.mean, self.std))

    def learner(self, model):
        return Idle(model, {})


def known(*mean: float, std: tuple[float, ...] = (1.0, 1.0), **settings: bool) -> Trained:
    return Trained(Known(mean, std, **settings), Blob(shape=(len(mean),)), 1, 8)


WIDE, TALL = known(1.0, 0.0, std=(0.5, 2.0)), known(0.0, -1.0, std=(2.0, 0.5))


def test_the_product_of_two_laws_is_their_intersection(tmp_path: Path):
    """Of N(1, 0.5²) and N(0, 2²): precision 4 + 1/4, mean 4 / 4.25; the other way round across."""
    both = Composed((WIDE, TALL), Product(), Blob())
    samples = Samples(both, Chains((Stage(MALA(0.1), 200),)), 4000)
    drawn = Store(tmp_path).get(samples)
    mean, std = 4 / 4.25, 4.25**-0.5
    tolerance = 5 * std / math.sqrt(len(drawn))
    assert drawn.mean(0).tolist() == pytest.approx([mean, -mean], abs=tolerance)
    assert drawn.std(0).tolist() == pytest.approx([std, std], rel=0.06)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_put_together_is_compiled_if_that_is_asked_for(compiled: bool, tmp_path: Path):
    store = Store(tmp_path, Runtime(compiled=compiled))
    assert store.get(Composed((WIDE, TALL), Product(), Blob())).compiled is compiled
    method = Snapshots(LEARNING, every=1, count=2)
    model = method.model((2,), None)
    model.compiled = compiled
    assert method.learner(model).learner.model.compiled is compiled


def test_energies_are_joined_by_hand():
    x = torch.tensor([[0.3, -0.2], [2.0, 1.0]])
    energies = [Bowl((0.0, 0.0), (1.0, 1.0)), Bowl((1.0, 0.0), (1.0, 2.0))]
    a, b = (energy(x) for energy in energies)
    torch.testing.assert_close(Joined(energies, Product())(x), a + b)
    torch.testing.assert_close(Joined(energies, Product((1.0, -0.5)))(x), a - 0.5 * b)
    torch.testing.assert_close(Joined(energies, Mixture())(x), -((-a).exp() + (-b).exp()).log())
    weighted = -(0.25 * (-a).exp() + 3 * (-b).exp()).log()
    torch.testing.assert_close(Joined(energies, Mixture((0.25, 3.0)))(x), weighted)


def test_a_mixture_has_the_mass_of_both(tmp_path: Path):
    """At the mode of each of two normal laws of one width, far apart: three times as much of the second."""
    parts = (known(-3.0, 0.0), known(3.0, 0.0))
    model = Store(tmp_path).get(Composed(parts, Mixture((1.0, 3.0)), Blob()))
    ratio = model.energy(torch.tensor([[-3.0, 0.0]])) - model.energy(torch.tensor([[3.0, 0.0]]))
    assert float(ratio) == pytest.approx(math.log(3), abs=1e-5)


def test_what_is_put_together_wrongly_is_named(tmp_path: Path):
    with pytest.raises(FieldError, match=r"Product.powers should be empty or of 2 numbers"):
        Composed((WIDE, TALL), Product((1.0,)), Blob())
    with pytest.raises(FieldError, match="weights"):
        Composed((WIDE, TALL), Mixture((1.0,)), Blob())
    with pytest.raises(FieldError, match="above zero"):
        Mixture((0.0,))
    with pytest.raises(FieldError, match="one model or more"):
        Composed((), Product(), Blob())
    with pytest.raises(ValueError, match=r"of shapes \(2,\) and \(3,\)"):
        Store(tmp_path).get(Composed((WIDE, known(0.0, 0.0, 0.0, std=(1.0,) * 3)), Product(), Blob()))
    with pytest.raises(ValueError, match="samples latents"):
        Store(tmp_path).get(Composed((known(0.0, 0.0, latent=True),), Product(), Blob()))


def test_seeds_reach_the_parts():
    moved = Composed((WIDE, TALL), Product(), Blob()).reseeded(3)
    assert [part.seed for part in moved.parts] == [3, 3]
    assert moved.key != Composed((WIDE, TALL), Product(), Blob()).key


def test_a_composition_is_scored_like_any_model(tmp_path: Path):
    from toys import Offset

    samples = Samples(Composed((WIDE, TALL), Product(), Blob()), Direct(), 8)
    assert Store(tmp_path).get(Score(samples, Offset())) >= 0
    assert samples.data == Blob()


# One class of a classifier.


@dataclass(frozen=True)
class Classes(Method):
    """An energy of three classes."""

    def model(self, shape, base):
        return Model(Flat(Normal(shape)), nn.Identity(), ClassifierEnergy(nn.Flatten(), 2, 3))

    def learner(self, model):
        return Idle(model, {})


def test_one_class_is_its_logit(tmp_path: Path):
    trained = Trained(Classes(), Blob(), 1, 8)
    store = Store(tmp_path)
    x = Blob().load("test")[:5]
    whole = store.get(trained)
    for label in range(3):
        one = store.get(OfClass(trained, label))
        torch.testing.assert_close(one.energy(x), -whole.energy.logits(x)[:, label])
    assert OfClass(trained, 1).data == Blob()
    assert OfClass(trained, 1).reseeded(2).model.seed == 2
    with pytest.raises(ValueError, match="no class 3 among the 3 "):
        store.get(OfClass(trained, 3))
    with pytest.raises(ValueError, match="needs an energy of classes"):
        store.get(OfClass(WIDE, 0))


# Restoration.

PIXELS = Blob(shape=(1, 4, 4))


class Still(nn.Module):
    """The energy of independent N(m, 0.1²) pixels, m their place in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        means = torch.linspace(0, 1, x[0].numel())
        return 50 * (x.flatten(1) - means).square().sum(1)


def test_inpainting_leaves_the_rest_bit_identical():
    model = Model(InBox().prior((1, 4, 4)), nn.Identity(), Still())
    images = PIXELS.load("test")
    for region in (LowerHalf(), Middle()):
        sampler = Inpainting(PIXELS, region, (Stage(SGLD(0.001, 0.01, box=(-1.0, 1.0)), 5),))
        drawn = sampler.draw(model, 80, generator(0))
        held = ~region.mask((1, 4, 4))
        assert torch.equal(drawn[:, held], images.repeat(2, 1, 1, 1)[:80][:, held])
        assert (drawn[:, ~held] != images.repeat(2, 1, 1, 1)[:80][:, ~held]).all()


def test_what_is_painted_follows_the_conditional_law():
    """Pixels are independent, so that the rest of the image tells nothing: each is N(m, 0.1²)."""
    model = Model(Flat(Normal((1, 4, 4))), nn.Identity(), Still())
    sampler = Inpainting(PIXELS, LowerHalf(), (Stage(MALA(0.005), 60),))
    drawn = sampler.draw(model, 3000, generator(0)).flatten(1)[:, 8:]
    means = torch.linspace(0, 1, 16)[8:]
    torch.testing.assert_close(drawn.mean(0), means, atol=5 * 0.1 / math.sqrt(3000), rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((8,), 0.1), atol=0.01, rtol=0)


def test_regions_by_hand():
    assert LowerHalf().mask((1, 4, 2))[0].tolist() == [[False] * 2] * 2 + [[True] * 2] * 2
    middle = Middle(0.5).mask((2, 4, 4))
    assert middle.sum(dim=(1, 2)).tolist() == [4, 4]
    assert middle[0, 1:3, 1:3].all()


def test_what_cannot_be_painted_is_named():
    steps = (Stage(Langevin(0.01), 1),)
    model = Model(InBox().prior((1, 8, 8)), nn.Identity(), Still())
    with pytest.raises(FieldError, match=r"Inpainting.data"):
        Inpainting(PIXELS, LowerHalf(), steps).draw(model, 3, generator(0))
    with pytest.raises(ValueError, match="no pixel"):
        Inpainting(Digits(), Middle(0.0), steps).draw(model, 3, generator(0))
    latent = Model(StandardNormal((1, 8, 8)), nn.Identity(), Still())
    with pytest.raises(ValueError, match="not of latents"):
        Inpainting(Digits(), Middle(), steps).draw(latent, 3, generator(0))


def test_salt_and_pepper():
    model = Model(InBox().prior((1, 8, 8)), nn.Identity(), Still())
    spoilt = FromSaltAndPepper(Digits(), share=0.1).position(model, 500, generator(0))
    for value in (-0.8, 0.8):  # no grey level of the digits is either
        share = float((spoilt == value).double().mean())
        assert share == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / spoilt.numel()))
    untouched = FromSaltAndPepper(Digits(), share=0.0).position(model, 50, generator(0))
    assert set(untouched.unique().tolist()) <= set(Digits().load("test").unique().tolist())


# Ensembles.

LEARNING = ContrastiveLearning(MLPEnergy(4, 1), (Stage(Langevin(0.01), 2),), Unbounded(), Replay(32, 0.1))


def test_an_ensemble_is_the_mean_of_the_states_that_were_kept(tmp_path: Path):
    """Five updates, one state each two of them, three places: two are kept."""
    recipe = Trained(Snapshots(LEARNING, every=2, count=3), Blob(), 5, 16)
    store = Store(tmp_path)
    model = store.get(recipe)
    assert isinstance(model.energy, Ensemble)
    assert model.energy.kept.tolist() == [1, 1, 0]
    x = Blob().load("test")
    members = [member(x) for member in model.energy.members]
    torch.testing.assert_close(model.energy(x), (members[0] + members[1]) / 2)
    assert not torch.equal(members[0], members[1])


def test_the_last_states_are_kept():
    method = Snapshots(LEARNING, every=1, count=2)
    torch.manual_seed(0)
    learner = method.learner(method.model((2,), None))
    from ebmzoo.training import Batches

    batches, rng = Batches(Blob().load("train"), None, 8, generator(0)), generator(1)
    states = []
    for _ in range(3):
        learner.step(batches, rng)
        states.append(torch.cat([p.detach().flatten() for p in learner.learner.model.energy.parameters()]))
    members = [torch.cat([p.flatten() for p in m.parameters()]) for m in learner.model.energy.members]
    assert torch.equal(members[0], states[2])
    assert torch.equal(members[1], states[1])
    assert learner.model.chains is learner.learner.model.chains


def test_a_cut_ensemble_resumes(tmp_path: Path):
    recipe = Trained(Snapshots(LEARNING, every=2, count=2), Blob(), 6, 16)
    Store(tmp_path / "uncut").get(recipe)
    make_in_pieces(recipe, tmp_path / "cut")
    assert kept(tmp_path / "cut", recipe) == kept(tmp_path / "uncut", recipe)
    with pytest.raises(FieldError):
        dataclasses.replace(recipe.method, count=0)
