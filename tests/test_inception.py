"""Inception's scores: their weights are asked for, checked and never downloaded, and the scores are right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import to_pil_image

from ebmzoo import config
from ebmzoo.cli import main
from ebmzoo.data import Dataset
from ebmzoo.data.dataset import DataError, check_split
from ebmzoo.fields import FieldError
from ebmzoo.metrics import FID, KID, InceptionScore, Metric, Precision, Recall, extraction, features
from ebmzoo.metrics.features import DataFeatures
from ebmzoo.store import Recipe

NAME = "weights-inception-2015-12-05-6726825d.pth"

SCORES = [InceptionScore(), FID(), KID(5, 40), Precision(features.InceptionFeatures())]
each = pytest.mark.parametrize("metric", SCORES, ids=lambda metric: metric.label)


@dataclass(frozen=True)
class Pictures(Dataset):
    """Uniform noise, from a seed of its own for each split."""

    count: int = 60
    shape: tuple[int, ...] = (3, 4, 4)

    def load(self, split: str) -> Tensor:
        check_split(split)
        rng = Generator().manual_seed({"train": 1, "valid": 2, "test": 3}[split])
        return 2 * torch.rand(self.count, *self.shape, generator=rng) - 1


PIXELS = Pictures()


def score(metric: Metric, samples: Tensor, data: Dataset = PIXELS) -> float:
    def get(recipe: Recipe) -> Any:
        assert isinstance(recipe, DataFeatures), "Inception is no artifact of the store"
        return recipe.computed(get)

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
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Puts a formula of images in [-1, 1] in the place of Inception."""

    def put(formula: Callable[[Tensor], Tensor]) -> None:
        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            features = formula(images.float() / 127.5 - 1).double()
            return features, features

        monkeypatch.setattr(extraction, "inception_weights", lambda metric: Path("none"))
        monkeypatch.setattr(extraction, "inception", lambda metric, device: network)
        monkeypatch.setattr(features, "_remembered", OrderedDict())

    return put


def random_inception(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch-fidelity's network with random weights and running statistics."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
        patch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: {})
        network = theirs.FeatureExtractorInceptionV3("any", [extraction.POOLING, extraction.LOGITS])
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return network


# The weights.


@each
def test_without_weights_the_error_says_all_that_is_needed(metric: Metric, hub: Path) -> None:
    with pytest.raises(DataError) as caught:
        score(metric, PIXELS.load("valid"))
    message = str(caught.value)
    assert message.startswith(f"{metric.label} needs the weights of torch-fidelity's Inception")
    assert f"{hub} (absent)" in message
    assert "--weights or EBMZOO_INCEPTION names (neither is given)" in message
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
        extraction.inception_weights("FID")
    monkeypatch.setenv("EBMZOO_INCEPTION", str(hub.parent / "elsewhere.pth"))
    with pytest.raises(DataError, match=r"elsewhere\.pth \(absent\)"):
        extraction.inception_weights("FID")


def test_the_first_whole_file_is_taken(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"whole"
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(whole).hexdigest())
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half")
    other = tmp_path / "other.pth"
    other.write_bytes(whole)
    monkeypatch.setenv("EBMZOO_INCEPTION", str(other))
    assert extraction.inception_weights("IS") == other
    hub.write_bytes(whole)
    assert extraction.inception_weights("IS") == hub


def test_weights_that_the_command_line_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"whole")
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(b"whole").hexdigest())
    monkeypatch.setenv("EBMZOO_INCEPTION", "")  # so that it is put back afterwards
    asked = ["plan", "tilting/toy", "--scale", "smoke", "--store", str(tmp_path), "--weights"]
    assert CliRunner().invoke(main, [*asked, str(other)]).exit_code == 0
    assert extraction.inception_weights("FID") == other
    assert CliRunner().invoke(main, [*asked, str(tmp_path / "absent.pth")]).exit_code == 2


def test_the_digest_is_of_the_file_that_torch_fidelity_downloads() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert extraction.INCEPTION_URL == URL_INCEPTION_V3
    assert Path(URL_INCEPTION_V3).stem.split("-")[-1] == extraction.INCEPTION_SHA256[:8]
    assert len(extraction.INCEPTION_SHA256) == 64


def test_torch_fidelity_takes_the_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the options do not reach Inception, which then would want to download."""
    hub.parent.mkdir(parents=True)
    torch.save(random_inception(monkeypatch).state_dict(), hub)
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(hub.read_bytes()).hexdigest())
    samples = Pictures(2).load("valid")
    assert 1 <= score(InceptionScore(splits=1), samples) <= 2


def test_numbers_are_those_of_torch_fidelity_on_the_same_files(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its command line prints them, with Inception of random weights, over folders of pictures."""
    from torch_fidelity import fidelity

    hub.parent.mkdir(parents=True)
    torch.save(random_inception(monkeypatch).state_dict(), hub)
    monkeypatch.setattr(extraction, "INCEPTION_SHA256", hashlib.sha256(hub.read_bytes()).hexdigest())
    data = Pictures(4, (3, 8, 8))
    samples = 0.7 * data.load("valid")
    for folder, images in (("samples", samples), ("data", data.load("test"))):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(features.eight_bit(images)):
            to_pil_image(image).save(tmp_path / folder / f"{index}.png")
    words = f"""
        fidelity --input1 {tmp_path}/samples --input2 {tmp_path}/data --cpu --json --silent --no-cache
        --feature-extractor inception-v3-compat --feature-extractor-weights-path {hub} --save-cpu-ram
        --fid --isc --isc-splits 2 --no-samples-shuffle --kid --kid-subsets 1 --kid-subset-size 4
        --prc --prc-neighborhood 2
    """
    monkeypatch.setattr(sys, "argv", words.split())
    fidelity.main()
    expected = json.loads(capsys.readouterr().out)
    assert score(FID(), samples, data) == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    inception = features.InceptionFeatures()
    kid = score(KID(1, 4), samples, data)
    assert kid == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    found = features.sample_features(samples, inception, lambda recipe: None)
    by_hand = [part.double().softmax(1) for part in found[extraction.LOGITS].chunk(2)]
    scores = [(p * (p / p.mean(0)).log()).sum(1).mean().exp().item() for p in by_hand]
    assert expected["inception_score_mean"] == pytest.approx(sum(scores) / 2, rel=1e-6)
    # untrained weights give features within rounding of each other: neighbours are those of one network
    monkeypatch.setattr(extraction, "agree", lambda *networks: False)
    monkeypatch.setattr(features, "_remembered", OrderedDict())
    for metric, name in ((Precision(inception, 2), "precision"), (Recall(inception, 2), "recall")):
        assert score(metric, samples, data) == expected[name]


@torch.no_grad()
def test_the_faster_network_has_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_inception(monkeypatch)
    faster = extraction.Inception(network)
    images = torch.randint(256, (2, 3, 20, 33), generator=Generator().manual_seed(0), dtype=torch.uint8)
    for ours, its in zip(faster(images), network(images), strict=True):
        assert float((ours - its).norm()) < 1e-4 * float(its.norm())
    assert extraction.agree(faster, network, torch.device("cpu"))
    faster.head.weight.mul_(1.01)
    assert not extraction.agree(faster, network, torch.device("cpu"))


@pytest.mark.parametrize("size", [1, 7, 32, 299, 400])
def test_lines_are_interpolated_as_tensorflow_1_does(size: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    line = torch.rand(1, 1, size, 1, generator=Generator().manual_seed(0))
    expected = interpolate_bilinear_2d_like_tensorflow1x(line, size=(299, 299), align_corners=False)[0, 0]
    found = extraction.interpolation(size, 299, torch.device("cpu")) @ line[0, 0]
    torch.testing.assert_close(found.expand(299, 299), expected, atol=1e-5, rtol=1e-5)


# The scores.


def test_they_are_offered_by_name() -> None:
    offered = {name for kind in config.classes().values() for name in kind}
    assert {"InceptionScore", "FID"} <= offered
    assert [InceptionScore().label, FID().label] == ["IS", "FID"]
    assert not InceptionScore().lower_is_better
    assert FID().lower_is_better


def test_an_undecided_classifier_gives_one(looks: Any) -> None:
    looks(lambda x: torch.zeros(len(x), 10))
    assert score(InceptionScore(), PIXELS.load("valid")) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_sure_classifier_of_balanced_classes_gives_their_number(looks: Any, classes: int) -> None:
    rows = torch.arange(60) % classes
    samples = ((rows / 100).view(-1, 1, 1, 1) - 0.5).expand(-1, 3, 4, 4)

    def logits(x: Tensor) -> Tensor:
        index = ((x[:, 0, 0, 0] + 0.5) * 100).round().long()
        return 30 * nn.functional.one_hot(index, classes).float()

    looks(logits)
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

    looks(logits)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert score(InceptionScore(splits=1), samples) == pytest.approx(2 * math.exp(-entropy), rel=1e-6)


def test_fid_is_the_frechet_distance(looks: Any) -> None:
    def formula(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5]

    looks(formula)
    samples = 0.5 * PIXELS.load("valid") + 0.2
    five = [formula(features.eight_bit(x).double() / 127.5 - 1) for x in (samples, PIXELS.load("test"))]
    same = extraction.frechet_distance(*five)
    assert score(FID(), samples) == pytest.approx(same, rel=1e-6)
    assert same > score(FID(), PIXELS.load("valid"))
    assert abs(score(FID(), PIXELS.load("test"))) < 1e-8


def test_fid_compares_with_as_many_data_as_it_is_told(looks: Any) -> None:
    looks(lambda x: x.flatten(1)[:, :7])
    samples = PIXELS.load("valid")
    fewer = dataclasses.replace(PIXELS, count=40)
    assert torch.equal(fewer.load("test"), PIXELS.load("test")[:40])
    assert score(FID(count=40), samples) == score(FID(), samples, fewer) != score(FID(), samples)
    with pytest.raises(ValueError, match="count is 61, but there are 60 data of the split 'test'"):
        score(FID(count=61), samples)
    with pytest.raises(FieldError, match=r"FID\.count"):
        FID(count=1)


@each
def test_the_same_twice_and_global_random_states_are_left_alone(metric: Metric, looks: Any) -> None:
    looks(lambda x: x.flatten(2).sum(2))
    state, samples = torch.random.get_rng_state(), PIXELS.load("valid")
    assert score(metric, samples) == score(metric, samples)
    assert torch.equal(torch.random.get_rng_state(), state)


@each
def test_what_cannot_be_scored_is_refused(metric: Metric, looks: Any) -> None:
    looks(lambda x: x.flatten(2).sum(2))
    samples = PIXELS.load("valid")
    with pytest.raises(ValueError, match=r"images \(1 or 3, H, W\) are needed; Pictures holds \(2, 4, 4\)"):
        score(metric, samples[:, :2], Pictures(shape=(2, 4, 4)))
    with pytest.raises(ValueError, match="but the data are"):
        score(metric, samples[:, :, :2])
    with pytest.raises(ValueError, match="60 of 60 samples are not finite"):
        score(metric, samples * math.nan)


def test_grey_images_are_scored(looks: Any) -> None:
    looks(lambda x: x.flatten(2).sum(2))
    grey = Pictures(shape=(1, 4, 4))
    assert score(InceptionScore(), grey.load("valid"), grey) == pytest.approx(1, abs=1e-6)
    assert math.isfinite(score(FID(), grey.load("valid"), grey))


def test_parts_must_not_be_empty(looks: Any) -> None:
    looks(lambda x: x.flatten(2).sum(2))
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
