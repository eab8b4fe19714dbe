"""The networks of DCGAN and SNGAN learn from real images, and a run that is cut goes on to the same bits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toys import kept, make_in_pieces

from ebmzoo.data import CIFAR10, MNIST
from ebmzoo.data.dataset import DataError
from ebmzoo.recipes import Trained
from ebmzoo.store import Store
from ebmzoo_bases.dcgan import DCGANEnergy, DCGANGenerator
from ebmzoo_bases.gan import GAN, BetweenPenalty, Hinge, NonSaturating, Wasserstein
from ebmzoo_bases.sngan import (
    SNGANConvEnergy,
    SNGANConvGenerator,
    SNGANResNetEnergy,
    SNGANResNetGenerator,
)

PAIRS = {
    "DCGAN": GAN(100, DCGANGenerator(16), DCGANEnergy(16), NonSaturating()),
    "SNGAN": GAN(128, SNGANConvGenerator(8), SNGANConvEnergy(8), Hinge(), critic_steps=2),
    "SNGAN, residual": GAN(128, SNGANResNetGenerator(16), SNGANResNetEnergy(16), Hinge()),
    "WGAN-GP": GAN(128, SNGANConvGenerator(8), SNGANConvEnergy(8), Wasserstein(), BetweenPenalty()),
}


@pytest.mark.skipif("EBMZOO_DATA" not in os.environ, reason="EBMZOO_DATA does not say where the images are")
@pytest.mark.parametrize("data", [MNIST(), CIFAR10()], ids=lambda data: type(data).__name__)
@pytest.mark.parametrize("name", PAIRS)
def test_a_cut_run_ends_as_an_uncut_one(name: str, data: MNIST | CIFAR10, tmp_path: Path):
    try:
        data.load("test")
    except DataError as error:
        pytest.skip(str(error))
    recipe = Trained(PAIRS[name], data, 2, 8)
    Store(tmp_path / "uncut").get(recipe)
    assert make_in_pieces(recipe, tmp_path / "cut") == 2
    assert kept(tmp_path / "cut", recipe) == kept(tmp_path / "uncut", recipe)
