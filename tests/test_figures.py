"""Figures show what is on the shelf, are drawn once, and are the same wherever they are drawn."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SUBJECT
from toys import PICTURES, VAES, Blob, Offset

from ebmzoo.curves import BudgetCurves, Curve
from ebmzoo.fields import FieldError
from ebmzoo.figures import (
    Comparison,
    Figure,
    LatentPath,
    drawable,
    due,
    picture,
    save,
    tiled,
)
from ebmzoo.generators import MLPGenerator
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.samplers import Chains, Direct, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo_bases.encoders import MLPEncoder
from ebmzoo_bases.vae import VAE, Gaussian

POINTS = Comparison("points", "Points", Blob(), (SUBJECT,), ("learnt",), count=5)
OF_IMAGES = Samples(VAES["VAE, Bernoulli pictures"], Direct(), 12)
IMAGES = Comparison("images", "Images", PICTURES, (OF_IMAGES, OF_IMAGES), ("one", "two"), count=6)
CHAINS = Chains((Stage(Langevin(0.01), 7),))
PLANE_PATH = LatentPath("plane", "Paths", VAES["VAE"], CHAINS, chains=3)
IMAGE_PATH = LatentPath("ways", "Paths", OF_IMAGES.model, CHAINS, chains=3, shots=4)
BUDGETS = tuple(
    dataclasses.replace(SUBJECT, sampler=Chains((Stage(Langevin(0.01), steps),))) for steps in (1, 4)
)
CURVES = BudgetCurves(
    "budget", "Budgets", (Curve("Langevin", BUDGETS), Curve("none", (SUBJECT,))), (Offset(), Offset(1.0)), 2
)
FIGURES = (POINTS, IMAGES, PLANE_PATH, IMAGE_PATH, CURVES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with all that the figures need."""
    store = Store(tmp_path_factory.mktemp("store"))
    for figure in FIGURES:
        for need in figure.needs():
            store.get(need)
    return store


def size(path: Path) -> tuple[int, int]:
    """Returns width and height of a PNG, whose every chunk has the right checksum."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    from PIL import Image

    with Image.open(path) as image:
        image.verify()
    return struct.unpack(">II", content[16:24])


def fits(path: Path, canvas: tuple[int, int]) -> bool:
    """Whether a picture is as large as its panels and titles, less what stays white, with a margin."""
    margin = 2 * 13
    return all(whole / 3 < side <= whole + margin for side, whole in zip(size(path), canvas, strict=True))


@pytest.mark.parametrize(
    ("figure", "largest"),
    [
        (POINTS, (2 * 416, 533)),
        (IMAGES, (3 * 416, 533)),
        (PLANE_PATH, (2 * 416, 533)),
        (IMAGE_PATH, (286, 403)),
        (CURVES, (2 * 540, 637)),  # whose labels stick out
    ],
    ids=lambda value: value.name if isinstance(value, Figure) else "",
)
def test_pictures_have_their_size_and_are_always_the_same(store, tmp_path, figure, largest):
    for name in ("one", "two"):
        [path] = due([figure], store, tmp_path / name)
        assert fits(path, largest)
    first, second = ((tmp_path / name / f"{figure.name}.png").read_bytes() for name in ("one", "two"))
    assert first == second


def test_a_figure_waits_for_all_that_it_needs(tmp_path):
    shelf = Store(tmp_path / "store")
    both = dataclasses.replace(POINTS, samples=(SUBJECT, SUBJECT.reseeded(1)), labels=("one", "two"))
    assert list(due([both], shelf, tmp_path)) == []
    shelf.get(SUBJECT)
    assert list(due([both], shelf, tmp_path)) == []
    assert not list(tmp_path.glob("*.png"))
    shelf.get(SUBJECT.reseeded(1))
    assert list(due([both], shelf, tmp_path)) == [tmp_path / "points.png"]


def test_drawing_makes_nothing(store, tmp_path):
    before = sorted(store.root.iterdir())
    assert len(list(due(FIGURES, store, tmp_path))) == 5
    assert sorted(store.root.iterdir()) == before


def test_a_figure_is_drawn_again_only_when_it_changed(store, tmp_path, monkeypatch):
    drawn = []
    draw = Comparison.draw

    def spy(figure, store):
        drawn.append(figure.title)
        return draw(figure, store)

    monkeypatch.setattr(Comparison, "draw", spy)
    again = dataclasses.replace(POINTS, title="Again")
    for figure in (POINTS, POINTS, again, again, POINTS):
        assert list(due([figure], store, tmp_path)) == [tmp_path / "points.png"]
    assert drawn == ["Points", "Again", "Points"]
    (tmp_path / "points.png").unlink()
    list(due([POINTS], store, tmp_path))
    (tmp_path / "points.key").unlink()
    list(due([POINTS], store, tmp_path))
    assert drawn[3:] == ["Points", "Points"]


def test_another_sampler_is_another_figure(store, tmp_path):
    [path] = due([POINTS], store, tmp_path)
    before = path.read_bytes()
    other = SUBJECT.reseeded(1)
    store.get(other)
    list(due([dataclasses.replace(POINTS, samples=(other,))], store, tmp_path))
    assert path.read_bytes() != before


def test_curves_show_means_over_seeds_at_what_a_sample_cost(store):
    canvas = CURVES.draw(store)
    assert [axis.get_ylabel() for axis in canvas.axes] == ["offset", "offset"]
    for axis, metric in zip(canvas.axes, CURVES.metrics, strict=True):
        [chains, none] = axis.containers
        costs, means = chains.lines[0].get_data()
        assert list(costs) == [3.0 * 2, 3.0 * 5]  # a gradient at the start, and one for each step
        for samples, mean in zip(BUDGETS, means, strict=True):
            values = [store.get(Score(samples, metric).reseeded(index)) for index in range(2)]
            assert mean == pytest.approx(sum(values) / 2)
        assert list(none.lines[0].get_xdata()) == [0.0]


def test_curves_follow_the_number_of_seeds():
    assert len(CURVES.needs()) == 3 * 2 * 2
    assert len(CURVES.with_seeds(5).needs()) == 3 * 2 * 5
    assert POINTS.with_seeds(5) is POINTS


def test_panels_show_data_and_samples(store):
    canvas = POINTS.draw(store)
    data, samples = canvas.axes
    assert [axis.get_title() for axis in canvas.axes] == ["Data", "learnt"]
    assert canvas.get_suptitle().strip() == "Points"
    for axis, points in ((data, Blob().load("test")), (samples, store.get(SUBJECT))):
        shown = axis.collections[0].get_offsets()
        np.testing.assert_allclose(shown, points[:5].numpy(), rtol=1e-6)
        assert axis.get_xlim() == data.get_xlim()
    low, high = Blob().load("test").min(0).values, Blob().load("test").max(0).values
    assert data.get_xlim()[0] == pytest.approx(float(low[0] - 0.15 * (high - low)[0]))
    assert data.get_ylim()[1] == pytest.approx(float(high[1] + 0.15 * (high - low)[1]))


def test_images_stand_in_a_square(store):
    """Six images of 8 × 8, three in a line: two lines, with one pixel around each."""
    _, one, _ = IMAGES.draw(store).axes
    assert one.images[0].get_array().shape == (2 * 9 + 1, 3 * 9 + 1)


def test_paths_begin_and_end_where_the_chains_do(store):
    latents, decoded = PLANE_PATH.draw(store).axes
    for axis in (latents, decoded):
        lines = [line.get_xydata() for line in axis.lines]
        assert [line.shape for line in lines] == [(8, 2)] * 3
        *_, starts, ends = (each.get_offsets() for each in axis.collections)
        np.testing.assert_allclose(starts, [line[0] for line in lines])
        np.testing.assert_allclose(ends, [line[-1] for line in lines])
    model = store.get(PLANE_PATH.model)
    way = torch.tensor(latents.lines[0].get_xydata(), dtype=torch.float32)
    expected = model.decoder(way).detach().numpy()
    np.testing.assert_allclose(decoded.lines[0].get_xydata(), expected, rtol=1e-4, atol=1e-5)


def test_latents_that_are_no_points_of_the_plane_are_not_shown(tmp_path):
    method = VAE(3, MLPGenerator(8, 1), MLPEncoder(8, 1), Gaussian(0.1))
    figure = LatentPath("three", "Three", Trained(method, Blob(), 2, 16), CHAINS, chains=2)
    [decoded] = figure.draw(Store(tmp_path)).axes
    assert decoded.get_title() == "decoded, over the data"
    assert len(decoded.lines) == 2


def test_tiles_by_hand():
    images = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 1.0, 0.5)])
    images[0, 0, 0, 1] = 3.0
    half, third = 0.5, 0.75
    expected = [
        [half, half, half, half, half, half, half],
        [half, 0.0, 1.0, half, 1.0, 1.0, half],
        [half, 0.0, 0.0, half, 1.0, 1.0, half],
        [half, half, half, half, half, half, half],
        [half, third, third, half, half, half, half],
        [half, third, third, half, half, half, half],
        [half, half, half, half, half, half, half],
    ]
    assert tiled(images, 2).tolist() == expected


def test_tiles_in_colour():
    images = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(4, 3, 2, 3)
    grid = tiled(images, 4)
    assert grid.shape == (4, 17, 3)
    assert grid[1, 1].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2,), True),
        ((1, 8, 8), True),
        ((3, 32, 32), True),
        ((3,), False),
        ((2, 8, 8), False),
        ((8, 8), False),
    ],
)
def test_what_can_be_drawn(shape, expected, tmp_path):
    assert drawable(shape) == expected
    points = torch.zeros(3, *shape)
    if expected:
        save(picture(points, "points"), tmp_path / "points.png")
        assert fits(tmp_path / "points.png", (416, 533))
    else:
        with pytest.raises(ValueError, match="only points of the plane and images can be drawn, not data of"):
            picture(points, "points")


def test_a_picture_shows_every_sample():
    [axis] = picture(torch.zeros(70, 1, 4, 4), "many").axes
    assert axis.images[0].get_array().shape == (8 * 5 + 1, 9 * 5 + 1)


def test_paths_of_data_without_a_picture(tmp_path):
    method = VAE(2, MLPGenerator(8, 1), MLPEncoder(8, 1), Gaussian(0.1))
    figure = LatentPath("x", "x", Trained(method, Blob(shape=(5,)), 2, 16), CHAINS)
    with pytest.raises(ValueError, match=r"not data of shape \(5,\)"):
        figure.draw(Store(tmp_path))


WRONG = [
    (
        lambda: dataclasses.replace(POINTS, labels=()),
        "Comparison.labels should be one for each of the 1 samples",
    ),
    (lambda: dataclasses.replace(POINTS, count=0), "Comparison.count should be a number above zero"),
    (lambda: dataclasses.replace(PLANE_PATH, chains=0), "LatentPath.chains should be a number above zero"),
    (lambda: dataclasses.replace(PLANE_PATH, shots=0), "LatentPath.shots should be a number above zero"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_figures_that_make_no_sense(make, message):
    with pytest.raises(FieldError) as caught:
        make()
    assert message in str(caught.value)
