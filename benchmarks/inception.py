"""Time per image of Inception's features: torch-fidelity's network as it comes, and rearranged.

With random weights, which take as long as any. The two take turns within one run, in a new order every round,
each with as many images at once as it takes where nobody says otherwise.

Run as ``python benchmarks/inception.py --help``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Generator, Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from ebmzoo.metrics.extraction import LOGITS, POOLING, Inception
from ebmzoo.metrics.features import INCEPTION_BATCH

THEIR_BATCH = 64
"""How many images torch-fidelity's own call takes at once, unless it is told."""


def stock() -> nn.Module:
    """Returns torch-fidelity's Inception with random weights."""
    torch.manual_seed(0)
    with (
        patch.object(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None),
        patch.object(theirs, "load_state_dict_from_url", lambda url, progress: {}),
    ):
        return theirs.FeatureExtractorInceptionV3("any", [POOLING, LOGITS])


def in_parts(network: nn.Module, batch: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Returns what takes images through a network, so many at once."""

    def features(images: Tensor) -> tuple[Tensor, ...]:
        parts = [network(part) for part in images.split(batch)]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each [5]")
    parser.add_argument("--images", type=int, default=64, help="images in a turn [64]")
    parser.add_argument("--side", type=int, default=32, help="height and width of the images [32]")
    options = parser.parse_args()
    network = stock()
    contenders = {
        "torch-fidelity": in_parts(network, THEIR_BATCH),
        "ebmzoo": in_parts(Inception(network), INCEPTION_BATCH["cpu"]),
    }
    noise = Generator().manual_seed(0)
    shape = (options.images, 3, options.side, options.side)
    images = torch.randint(256, shape, generator=noise, dtype=torch.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    with torch.no_grad():
        results = {name: contender(images) for name, contender in contenders.items()}
        for _ in range(options.rounds):
            for name in order.sample(list(contenders), len(contenders)):
                began = time.perf_counter()
                contenders[name](images)
                seconds[name].append((time.perf_counter() - began) / options.images)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in median.items():
        print(f"{name}: {1e3 * taken:.1f} ms an image")
    print(f"ratio: {median['torch-fidelity'] / median['ebmzoo']:.2f}")
    for index, name in enumerate(("pooled features", "logits")):
        ours, its = results["ebmzoo"][index], results["torch-fidelity"][index]
        print(f"{name} differ by {float((ours - its).norm() / its.norm()):.1e} of their norm")


if __name__ == "__main__":
    main()
