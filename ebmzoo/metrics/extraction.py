"""What torch-fidelity does: Inception's features, and numbers from features. The only file that imports it.

Features are given to torch-fidelity's own functions, so the numbers are its own; what makes the features, and
how often, is our affair (:mod:`ebmzoo.metrics.features`).

References:
    | High-fidelity performance metrics for generative models in PyTorch (Obukhov et al., 2020)
    | https://github.com/toshas/torch-fidelity
"""

from __future__ import annotations

import copy
import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ebmzoo.data.dataset import DataError

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
"""Where torch-fidelity takes Inception's weights from: those of 2015, which published FID and IS rest on."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The SHA-256 of that file, whose name has the first eight digits."""

POOLING, LOGITS = "2048", "logits_unbiased"
"""What torch-fidelity calls the features of FID, and those of the Inception score."""


def version() -> str:
    """Returns the version of torch-fidelity."""
    return metadata.version("torch-fidelity")


def inception(metric: str, device: torch.device) -> Any:
    """Returns Inception: from 8-bit images (B, 3, H, W) to a tuple of pooled features and logits.

    Arguments:
        metric: The metric that needs it, for the message.
        device: Where it is to run.

    Raises:
        DataError: If the weights are absent or damaged; the message says how to get them.
    """
    weights = inception_weights(metric)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", [POOLING, LOGITS], feature_extractor_weights_path=str(weights)
    ).to(device)
    faster = Inception(network)
    return faster if agree(faster, network, device) else network


class Inception(nn.Module):
    """torch-fidelity's Inception, rearranged to be faster on a CPU, where its features hardly change.

    Batch normalisations are folded into the convolutions before them, and the rectifiers after them computed
    on the way; weights are laid out channels-last, and images are enlarged by two matrix products.

    Arguments:
        network: torch-fidelity's network. It is not changed.
    """

    def __init__(self, network: Any):
        super().__init__()
        copied = copy.deepcopy(network)
        for parent in list(copied.modules()):
            for name, layer in parent.named_children():
                if isinstance(getattr(layer, "bn", None), nn.BatchNorm2d):
                    setattr(parent, name, Rectified(fuse_conv_bn_eval(layer.conv, layer.bn)))
        *body, head = copied.children()  # in the order in which an image passes them
        self.body = nn.Sequential(*body).to(memory_format=torch.channels_last)
        self.head, self.side = head, int(copied.INPUT_IMAGE_SIZE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns pooled features (B, 2048) and logits (B, 1008) of 8-bit images (B, 3, H, W)."""
        height, width = (interpolation(size, self.side, images.device) for size in images.shape[2:])
        enlarged = height @ images.float() @ width.T
        pixels = ((enlarged - 128) / 128).contiguous(memory_format=torch.channels_last)
        pooled = self.body(pixels).flatten(1)
        return pooled, pooled @ self.head.weight.T


class Rectified(nn.Module):
    """A convolution and the rectifier after it, in one pass over memory where oneDNN runs both.

    Arguments:
        convolution: The convolution.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is left of the convolution above zero."""
        layer = self.convolution
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return layer(x).relu_()
        geometry = layer.padding, layer.stride, layer.dilation, layer.groups
        fused = torch.ops.mkldnn._convolution_pointwise  # what torch.compile makes of the two
        return fused(x, layer.weight, layer.bias, *geometry, "relu", [], "")


def interpolation(size: int, side: int, device: torch.device) -> Tensor:
    r"""Returns the matrix (side, size) by which TensorFlow 1 interpolates a line of pixels linearly.

    Pixel i of the result lies at :math:`i \cdot \mathrm{size} / \mathrm{side}` of the line: no half pixels,
    and nothing beyond the last one.
    """
    place = torch.arange(side, device=device) * (size / side)
    below = place.floor().long()
    share = (place - below)[:, None]
    line = torch.eye(size, device=device)
    return (1 - share) * line[below] + share * line[(below + 1).clamp(max=size - 1)]


@torch.no_grad()
def agree(faster: nn.Module, network: nn.Module, device: torch.device) -> bool:
    """Whether two networks give the same features of a picture of noise, to 1e-4 of their norm."""
    noise = Generator(device).manual_seed(0)
    image = torch.randint(256, (1, 3, 32, 32), generator=noise, device=device, dtype=torch.uint8)
    pairs = zip(faster(image), network(image), strict=True)
    return all(float((a - b).norm()) <= 1e-4 * float(b.norm()) for a, b in pairs)


def inception_weights(metric: str) -> Path:
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
        states.append("the file that --weights or EBMZOO_INCEPTION names (neither is given)")
    raise DataError(
        f"{metric} needs the weights of torch-fidelity's Inception, and ebmzoo downloads nothing by itself. "
        f"Looked for: {'; '.join(states)}. To get them, download {INCEPTION_URL} (96 MB) to the first of "
        "these places, or to any other and name it by --weights or EBMZOO_INCEPTION. "
        "FD-<name>, the FrechetDistance of a classifier that is trained here, needs no download"
    )


def frechet_distance(samples: Tensor, data: Tensor) -> float:
    """Returns the Fréchet distance between Gaussians fitted to features (N, D) and (M, D)."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    fitted = [fid_features_to_statistics(features.cpu()) for features in (samples, data)]
    return float(fid_statistics_to_metric(*fitted, verbose=False)["frechet_inception_distance"])


def kernel_distance(samples: Tensor, data: Tensor, subsets: int, subset_size: int, seed: int) -> float:
    """Returns the mean squared discrepancy of random subsets of features (N, D) and (M, D), cubic kernel."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    found = kid_features_to_metric(
        samples,
        data,
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        rng_seed=seed,
        verbose=False,
    )
    return float(found["kernel_inception_distance_mean"])


def precision_and_recall(samples: Tensor, data: Tensor, neighbours: int) -> tuple[float, float]:
    """Returns precision and recall of features (N, D) of samples and (M, D) of data."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(
        samples, data, prc_neighborhood=neighbours, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
    )
    return float(found["precision"]), float(found["recall"])


def inception_score(logits: Tensor, splits: int, seed: int) -> float:
    """Returns the Inception score of logits (N, K), shuffled and cut into so many parts."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    return float(isc_features_to_metric(logits, splits, True, seed)["inception_score_mean"])
