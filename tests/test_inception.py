"""Inception's scores: their weights are asked for, checked and never downloaded, and the scores are right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn

from ebmzoo import config
from ebmzoo.data import Dataset
from ebmzoo.data.dataset import DataError, check_split
from ebmzoo.fields import FieldError
from ebmzoo.metrics import FID, FrechetDistance, InceptionScore, Metric, extraction
from ebmzoo.models import Model, StandardNormal
from ebmzoo.store import Recipe, Store

NAME = "weights-inception-2015-12-05-6726825d.pth"

both = pytest.mark.parametrize("metric", [InceptionScore(), FID()], ids=lambda metric: metric.label)


@dataclass(frozen=True)
class Pictures(Dataset):
    """Uniform noise, from a seed of its own for each split."""

    count: int = 60
    shape: tuple[int, ...] = (3, 4, 4)

    def load(self, split: str) -> Tensor:
        check_split(split)
        rng = Generator().manual_seed({"train": 1, "valid": 2, "test": 3}[split])
        return 2 * torch.rand(self.count, *self.shape, generator=rng) - 1


@dataclass(frozen=True)
class Named(Recipe):
    """A recipe that names a stand-in and makes none."""

    artifact: ClassVar[str] = "artifact.none"
    name: str

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    def open(self, store: Store, kept: Path) -> Any:
        raise NotImplementedError


class StandIn(nn.Module):
    """Features by a formula."""

    def __init__(self, formula: Callable[[Tensor], Tensor]):
        super().__init__()
        self.formula = formula

    def features(self, x: Tensor) -> Tensor:
        return self.formula(x)


PIXELS = Pictures()


def score(metric: Metric, samples: Tensor, data: Dataset = PIXELS) -> float:
    def get(recipe: Recipe) -> Any:
        raise AssertionError("Inception is no artifact of the store")

    return metric.value(samples, data, "test", get, Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that torch-fidelity would have downloaded, which is absent, in a machine without a network."""

    def refuse(*unused: Any, **names: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("EBMZOO_INCEPTION", raising=False)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path / "hub" / "checkpoints" / NAME


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Tensor], Tensor]], None]:
    """Puts a formula in the place of Inception."""

    def put(name: str, formula: Callable[[Tensor], Tensor]) -> None:
        model = Model(StandardNormal((1,)), nn.Identity(), StandIn(formula))
        known = {"feature_extractor": extraction.registered(model, Named(name), 3)}
        monkeypatch.setattr("ebmzoo.metrics.inception.inception", lambda metric: known)

    return put


# The weights.


@both
def test_without_weights_the_error_says_all_that_is_needed(metric: Metric, hub: Path) -> None:
    with pytest.raises(DataError) as caught:
        score(metric, PIXELS.load("valid"))
    message = str(caught.value)
    assert message.startswith(f"{metric.label} needs the weights of torch-fidelity's Inception")
    assert f"{hub} (absent)" in message
    assert "EBMZOO_INCEPTION names (not set)" in message
    assert extraction.INCEPTION_URL in message
    assert "FD-<name>" in message


def test_absent_weights_are_noticed_before_the_data_are_read() -> None:
    @dataclass(frozen=True)
    class Unread(Pictures):
        def load(self, split: str) -> Tensor:
            raise AssertionError("read")

    with pytest.raises(DataError, match="FID needs the weights"):
        score(FID(), PIXELS.load("valid"), Unread())


def test_a_damaged_file_is_named_with_its_digest(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half of it")
    digest = hashlib.sha256(b"half of it").hexdigest()[:8]
    with pytest.raises(
        DataError, match=rf"{NAME} \(damaged or another file: its SHA-256 begins with {digest}"
    ):
        extraction.inception("FID")
    monkeypatch.setenv("EBMZOO_INCEPTION", str(hub.parent / "elsewhere.pth"))
    with pytest.raises(DataError, match=r"elsewhere\.pth \(absent\)"):
        extraction.inception("FID")


def test_the_first_whole_file_is_taken(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"whole"
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(whole).hexdigest())
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half")
    other = tmp_path / "other.pth"
    other.write_bytes(whole)
    monkeypatch.setenv("EBMZOO_INCEPTION", str(other))
    assert extraction.inception("IS")["feature_extractor_weights_path"] == str(other)
    hub.write_bytes(whole)
    assert extraction.inception("IS")["feature_extractor_weights_path"] == str(hub)


def test_the_digest_is_of_the_file_that_torch_fidelity_downloads() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert extraction.INCEPTION_URL == URL_INCEPTION_V3
    assert Path(URL_INCEPTION_V3).stem.split("-")[-1] == extraction.INCEPTION_SHA256[:8]
    assert len(extraction.INCEPTION_SHA256) == 64


def test_torch_fidelity_takes_the_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the options do not reach Inception, which then would want to download."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    hub.parent.mkdir(parents=True)
    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
        patch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: {})
        torch.save(theirs.FeatureExtractorInceptionV3("any", ["2048"]).state_dict(), hub)
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(hub.read_bytes()).hexdigest())
    samples = Pictures(2).load("valid")
    assert 1 <= score(InceptionScore(splits=1), samples) <= 2


# The scores.


def test_they_are_offered_by_name() -> None:
    offered = {name for kind in config.classes().values() for name in kind}
    assert {"InceptionScore", "FID"} <= offered
    assert [InceptionScore().label, FID().label] == ["IS", "FID"]
    assert not InceptionScore().lower_is_better
    assert FID().lower_is_better


def test_an_undecided_classifier_gives_one(looks: Any) -> None:
    looks("undecided", lambda x: torch.zeros(len(x), 10))
    assert score(InceptionScore(), PIXELS.load("valid")) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_sure_classifier_of_balanced_classes_gives_their_number(looks: Any, classes: int) -> None:
    rows = torch.arange(60) % classes
    samples = ((rows / 100).view(-1, 1, 1, 1) - 0.5).expand(-1, 3, 4, 4)

    def logits(x: Tensor) -> Tensor:
        index = ((x[:, 0, 0, 0] + 0.5) * 100).round().long()
        return 30 * nn.functional.one_hot(index, classes).float()

    looks(f"sure of {classes}", logits)
    assert score(InceptionScore(splits=1), samples) == pytest.approx(classes, rel=1e-9)
    alike = samples[:1].expand(60, 3, 4, 4)
    assert score(InceptionScore(), alike) == pytest.approx(1, abs=1e-9)


def test_a_half_sure_classifier_gives_the_formula(looks: Any) -> None:
    """Two classes, one half of the samples each, with probability p: exp(log 2 - H(p))."""
    p = 0.8
    samples = torch.tensor([-0.5, 0.5]).repeat(30).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    def logits(x: Tensor) -> Tensor:
        sign = x[:, 0, 0, 0].sign()
        return torch.stack([sign, -sign], 1) * 0.5 * math.log(p / (1 - p))

    looks("half sure", logits)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert score(InceptionScore(splits=1), samples) == pytest.approx(2 * math.exp(-entropy), rel=1e-6)


def test_fid_is_the_frechet_distance(looks: Any) -> None:
    def formula(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5]

    looks("five pixels", formula)
    samples = 0.5 * PIXELS.load("valid") + 0.2
    model = Model(StandardNormal((1,)), nn.Identity(), StandIn(formula))
    same = FrechetDistance("five", Named("five pixels")).value(
        samples, PIXELS, "test", lambda recipe: model, Generator()
    )
    assert score(FID(), samples) == same > score(FID(), PIXELS.load("valid"))
    assert abs(score(FID(), PIXELS.load("test"))) < 1e-8


def test_fid_compares_with_as_many_data_as_it_is_told(looks: Any) -> None:
    looks("seven pixels", lambda x: x.flatten(1)[:, :7])
    samples = PIXELS.load("valid")
    fewer = dataclasses.replace(PIXELS, count=40)
    assert torch.equal(fewer.load("test"), PIXELS.load("test")[:40])
    assert score(FID(count=40), samples) == score(FID(), samples, fewer) != score(FID(), samples)
    with pytest.raises(ValueError, match="count is 61, but there are 60 data of the split 'test'"):
        score(FID(count=61), samples)
    with pytest.raises(FieldError, match=r"FID\.count"):
        FID(count=1)


@both
def test_the_same_twice_and_global_random_states_are_left_alone(metric: Metric, looks: Any) -> None:
    looks("sums", lambda x: x.flatten(2).sum(2))
    state, samples = torch.random.get_rng_state(), PIXELS.load("valid")
    assert score(metric, samples) == score(metric, samples)
    assert torch.equal(torch.random.get_rng_state(), state)


@both
def test_what_cannot_be_scored_is_refused(metric: Metric, looks: Any) -> None:
    looks("sums again", lambda x: x.flatten(2).sum(2))
    samples = PIXELS.load("valid")
    with pytest.raises(ValueError, match=r"images \(1 or 3, H, W\) are needed; Pictures holds \(2, 4, 4\)"):
        score(metric, samples[:, :2], Pictures(shape=(2, 4, 4)))
    with pytest.raises(ValueError, match="but the data are"):
        score(metric, samples[:, :, :2])
    with pytest.raises(ValueError, match="60 of 60 samples are not finite"):
        score(metric, samples * math.nan)


def test_grey_images_are_scored(looks: Any) -> None:
    looks("grey", lambda x: x.flatten(2).sum(2))
    grey = Pictures(shape=(1, 4, 4))
    assert score(InceptionScore(), grey.load("valid"), grey) == pytest.approx(1, abs=1e-6)
    assert math.isfinite(score(FID(), grey.load("valid"), grey))


def test_parts_must_not_be_empty(looks: Any) -> None:
    looks("parts", lambda x: x.flatten(2).sum(2))
    with pytest.raises(ValueError, match="splits is 10, but there are 9 samples"):
        score(InceptionScore(), PIXELS.load("valid")[:9])
    with pytest.raises(FieldError, match=r"InceptionScore\.splits"):
        InceptionScore(splits=0)


def test_protocols_say_what_moves_the_value_and_not_where_the_weights_lie() -> None:
    first, second = (json.loads(json.dumps(metric.protocol())) for metric in (InceptionScore(5), FID()))
    for protocol in (first, second):
        assert protocol["extractor"] == "inception-v3-compat"
        assert protocol["weights"] == extraction.INCEPTION_SHA256
        assert "299×299" in protocol["images"]
    assert (first["splits"], first["layer"], second["layer"]) == (5, "logits_unbiased", "2048")
    assert "data" not in first
    assert second["data"] == "the whole split"


def test_protocols_name_the_layers_that_torch_fidelity_takes() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layer = FeatureExtractorInceptionV3.get_default_feature_layer_for_metric
    assert [layer("isc"), layer("fid")] == [m.protocol()["layer"] for m in (InceptionScore(), FID())]
