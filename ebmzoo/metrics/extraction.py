"""Features of images, and what torch-fidelity computes of them: the only file that imports it.

Images in [-1, 1] are given to torch-fidelity as it wants them, as 8-bit RGB; the extractor turns them back.

What torch-fidelity leaves open is fixed here: it does not move the global random state of torch, keeps
nothing on disk (where its names would say nothing of weights), starts no other process, runs where the
samples are, and is given no keyword that it does not know, since it would ignore it in silence.

References:
    | High-fidelity performance metrics for generative models in PyTorch (Obukhov et al., 2020)
    | https://github.com/toshas/torch-fidelity
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmzoo.data.dataset import DataError, Dataset
from ebmzoo.metrics.metric import check_finite
from ebmzoo.models import Model
from ebmzoo.store import Recipe

BATCH = 256
"""How many images pass the classifier at once, which moves no value beyond float rounding."""

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
"""Where torch-fidelity takes Inception's weights from: those of 2015, which published FID and IS rest on."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The SHA-256 of that file, whose name has the first eight digits."""

INCEPTION_BATCH = 64
"""How many images pass Inception at once, each blown up to 299×299 pixels."""


def eight_bit(images: Tensor) -> Tensor:
    """Returns images as torch-fidelity takes them.

    Arguments:
        images: Images in [-1, 1], of shape (N, 1, H, W) or (N, 3, H, W); what lies outside is clipped.

    Returns:
        The images as integers 0 to 255, rounded to the nearest, of shape (N, 3, H, W), on the CPU.
    """
    levels = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).cpu()


class Images(torch.utils.data.Dataset[Tensor]):
    """Images as a data set of torch.

    Arguments:
        images: The images, of shape (N, 3, H, W).
    """

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Pair:
    """Samples and the data that they are compared with.

    Arguments:
        samples: The samples, of shape (N, channels, height, width).
        data: The data set.
        split: Its split.
        at_least: How many samples and data are needed.
        needs: What needs them, for the message.
        count: How many data are compared, or None for all of the split.

    Raises:
        ValueError: If there are fewer, a sample is not finite, or they are no images.
    """

    def __init__(
        self,
        samples: Tensor,
        data: Dataset,
        split: str,
        at_least: int,
        needs: str,
        count: int | None = None,
    ):
        check_images(samples, data)
        real = data.load(split)
        if count is not None and count > len(real):
            raise ValueError(f"count is {count}, but there are {len(real)} data of the split {split!r}")
        real = real[:count]
        fewest = min(len(samples), len(real))
        if fewest < at_least:
            raise ValueError(
                f"{needs} asks for {at_least} samples and data or more; there are {len(samples)} samples and "
                f"{len(real)} data of the split {split!r}"
            )
        self.samples, self.real = Images(eight_bit(samples)), Images(eight_bit(real))
        self.channels, self.on_gpu = data.shape[0], samples.is_cuda

    def measure(self, options: dict[str, Any], key: str, model: Model, recipe: Recipe) -> float:
        """Returns one of the numbers that torch-fidelity computes of a classifier's features.

        Arguments:
            options: Which metric, and its settings, by torch-fidelity's names.
            key: The name of the number.
            model: The classifier.
            recipe: Its recipe.
        """
        known = {"feature_extractor": registered(model, recipe, self.channels)}
        return self.measure_by(known, options, key)

    def measure_by(self, extractor: Mapping[str, Any], options: dict[str, Any], key: str) -> float:
        """Returns the same of another extractor's features, which torch-fidelity's options name."""
        inputs = {"input1": self.samples, "input2": self.real}
        return calculated({**extractor, **options, **inputs}, key, self.on_gpu)


def check_images(samples: Tensor, data: Dataset) -> None:
    """Raises ValueError unless samples (N, *) are finite images of the shape of the data."""
    check_finite(samples)
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise ValueError(f"images (1 or 3, H, W) are needed; {type(data).__name__} holds {data.shape}")
    if samples.shape[1:] != data.shape:
        raise ValueError(f"samples are {tuple(samples.shape[1:])}, but the data are {data.shape}")


def calculated(options: Mapping[str, Any], key: str, on_gpu: bool) -> float:
    """Returns one of the numbers that torch-fidelity computes.

    Arguments:
        options: Inputs, extractor and metric with its settings, by torch-fidelity's names.
        key: The name of the number.
        on_gpu: Whether it is computed on a GPU.
    """
    import torch_fidelity

    options = {
        "batch_size": BATCH,
        "cuda": on_gpu,
        "cache": False,
        "save_cpu_ram": True,  # which is what keeps it from starting loader processes
        "verbose": False,
        **options,
    }
    check_options(options)
    with torch.random.fork_rng(devices=[]):
        return float(torch_fidelity.calculate_metrics(**options)[key])


def protocol(extractor: str, size: str = "size as it is") -> dict[str, Any]:
    """Returns what moves all numbers that are computed here.

    Arguments:
        extractor: What makes the features.
        size: What is done to the size of images.
    """
    return {
        "extractor": extractor,
        "images": f"clipped to [-1, 1], rounded to 8 bits, {size}, grey as RGB",
        "torch-fidelity": metadata.version("torch-fidelity"),
    }


def inception(metric: str) -> dict[str, Any]:
    """Returns the options by which torch-fidelity computes with Inception's features.

    Arguments:
        metric: The metric that needs them, for the message.

    Raises:
        DataError: If the weights are absent or damaged; the message says how to get them.
    """
    weights = _weights(metric)
    return {
        "feature_extractor": "inception-v3-compat",
        "feature_extractor_weights_path": str(weights),
        "batch_size": INCEPTION_BATCH,
    }


def _weights(metric: str) -> Path:
    """Returns the first file of Inception's weights that is whole."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION_URL).name
    named = os.environ.get("EBMZOO_INCEPTION")
    states = []
    for path in (cached, *([Path(named)] if named else [])):
        if not path.is_file():
            states.append(f"{path} (absent)")
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == INCEPTION_SHA256:
            return path
        states.append(f"{path} (damaged or another file: its SHA-256 begins with {found[:8]}, not 6726825d)")
    if not named:
        states.append("the file that the environment variable EBMZOO_INCEPTION names (not set)")
    raise DataError(
        f"{metric} needs the weights of torch-fidelity's Inception, and ebmzoo downloads nothing by itself. "
        f"Looked for: {'; '.join(states)}. To get them, download {INCEPTION_URL} (96 MB) to the first of "
        "these places, or to any other and set EBMZOO_INCEPTION to it. FD-<name>, the FrechetDistance of a "
        "classifier that is trained here, needs no download"
    )


def check_options(options: dict[str, Any]) -> None:
    """Raises ValueError if torch-fidelity does not know an option, which it would ignore."""
    from torch_fidelity.defaults import DEFAULTS

    unknown = options.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"torch-fidelity has no option {', '.join(sorted(unknown))}")


_registered: set[str] = set()


def registered(model: Model, recipe: Recipe, channels: int) -> str:
    """Returns the name under which torch-fidelity knows a classifier, after making it known if it was not.

    The name depends on the recipe and on the weights, since the registry is one for the whole process, takes
    each name but once, and keeps what it was given.

    Arguments:
        model: The classifier.
        recipe: Its recipe.
        channels: How many of the three channels of an image it takes.
    """
    from torch_fidelity import register_feature_extractor

    name = f"ebmzoo-{recipe.key[:12]}-{fingerprint(model.energy)[:12]}-{channels}"
    if name not in _registered:
        register_feature_extractor(name, extractor(model.energy, channels))
        _registered.add(name)
    return name


def fingerprint(network: nn.Module) -> str:
    """Returns the SHA-256 of a network's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def extractor(classifier: Any, channels: int) -> type:
    """Returns a class of feature extractors as torch-fidelity wants one.

    Arguments:
        classifier: A module with a method ``features`` from images (B, channels, H, W) to vectors (B, D).
        channels: How many of an image's three channels it takes.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    kept = copy.deepcopy(classifier).cpu()

    class Features(FeatureExtractorBase):
        """The classifier's features, in double precision, from 8-bit RGB."""

        def __init__(self, name: str, features_list: list[str], **unused: Any):
            super().__init__(name, features_list)
            self.classifier = copy.deepcopy(kept)

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> None:
            return None

        def forward(self, images: Tensor) -> tuple[Tensor]:
            pixels = images[:, :channels].float() / 127.5 - 1
            features = self.classifier.features(pixels).double()
            if not features.isfinite().all():
                raise ValueError("the features are not finite; the classifier that makes them is broken")
            return (features,)

    return Features
