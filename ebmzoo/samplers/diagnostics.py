r"""How well chains do: acceptance, gradients, effective sample size and split R-hat.

References:
    | Bayesian Data Analysis (Gelman et al., 2013), Section 11.4-11.5
    | Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021), Section 3
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ebmzoo.samplers.kernel import Info, State


def _split(chains: Tensor) -> Tensor:
    """Cuts chains (S, B) in two halves, (S // 2, 2 B), in double precision."""
    half = len(chains) // 2
    return torch.cat([chains[:half], chains[-half:]], 1).double()


def _within_and_total(halves: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean variance within chains, and the estimate of the variance over all chains."""
    steps = len(halves)
    within = halves.var(0).mean()
    total = within * (steps - 1) / steps + halves.mean(0).var()
    return within, total


def split_rhat(chains: Tensor) -> float:
    r"""Returns :math:`\hat R` of chains cut in two: near one where they have forgotten where they began.

    Arguments:
        chains: A scalar recorded along B chains for S steps, of shape (S, B), S at least 4.

    Returns:
        The potential scale reduction. It is infinite where chains stay at different values and NaN where all
        stay at one.
    """
    within, total = _within_and_total(_split(chains))
    return float((total / within).sqrt())


def effective_sample_size(chains: Tensor) -> float:
    r"""Returns the number of independent draws that tell as much about a mean as the chains together.

    :math:`S B / (1 + 2 \sum_t \hat\rho_t)`, with autocorrelations :math:`\hat\rho_t` over the split chains,
    summed until the sums of neighbouring pairs turn negative and made to decrease (Geyer's initial monotone
    sequence; the first pair always counts). Antithetic chains tell more than as many independent draws; no
    more than some :math:`\log_{10}(S B)` times as much is believed.

    Arguments:
        chains: A scalar recorded along B chains for S steps, of shape (S, B), S at least 4.

    Returns:
        The effective sample size, or NaN where all chains stay at one value.
    """
    halves = _split(chains)
    steps, count = halves.shape
    within, total = _within_and_total(halves)
    if not total > 0:
        return math.nan
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=0).abs().square()
    autocovariance = torch.fft.irfft(spectrum, n=2 * steps, dim=0)[:steps].mean(1) / steps
    rho = 1 - (within - autocovariance * steps / (steps - 1)) / total
    rho[0] = 1.0
    pairs = rho[: steps // 2 * 2].view(-1, 2).sum(1)
    negative = (pairs < 0).nonzero()
    pairs = pairs[: max(1, int(negative[0]))] if len(negative) else pairs
    tau = -1 + 2 * pairs.cummin(0).values.sum()
    return float(steps * count / max(float(tau), 1 / math.log10(steps * count + 10)))


class ChainRecord:
    """What chains did, step by step. Nothing leaves the device before :meth:`summary`."""

    def __init__(self) -> None:
        self.log_prob: list[Tensor] = []
        self.acceptance: list[Tensor] = []
        self.at_box: list[Tensor] = []
        self.gradient = torch.tensor(math.nan)
        self.notes: dict[str, float] = {}

    def add(self, state: State, info: Info) -> None:
        """Notes a step."""
        self.log_prob.append(state.log_prob)
        self.acceptance.append(info.acceptance.mean())
        self.at_box.append(info.at_box.mean())
        self.gradient = state.score.abs().mean()

    def summary(self) -> dict[str, float]:
        r"""Returns acceptance, mean \|gradient\|, and, over the second half, split R-hat and the sample size.

        R-hat, the effective sample size and the integrated autocorrelation time, in steps, are those of the
        log-density, the one scalar every target has. A time as long as the second half means that chains
        moved nowhere in it, and that its true length is unknown.
        They are left out of records of fewer than eight steps, or whose batches differ in size. What was
        noted by name comes first.
        """
        if not self.log_prob:
            return dict(self.notes)
        summary = self.notes | {
            "acceptance": float(torch.stack(self.acceptance).mean()),
            "mean_gradient": float(self.gradient),
            "at_box": float(self.at_box[-1]),
        }
        if len(self.log_prob) >= 8 and len({len(values) for values in self.log_prob}) == 1:
            second = torch.stack(self.log_prob[len(self.log_prob) // 2 :])
            summary["split_rhat"] = split_rhat(second)
            summary["effective_sample_size"] = size = effective_sample_size(second)
            summary["autocorrelation_time"] = second.numel() / size
        return summary


_record: ContextVar[ChainRecord | None] = ContextVar("chain record", default=None)


def recording() -> bool:
    """Whether steps are recorded here."""
    return _record.get() is not None


def observe(state: State, info: Info) -> None:
    """Notes a step in the record of the enclosing :func:`recording_chains`, if there is one."""
    record = _record.get()
    if record is not None:
        record.add(state, info)


def note(facts: Mapping[str, float]) -> None:
    """Notes facts by name in the same record, for samplers that run no chains of kernels."""
    record = _record.get()
    if record is not None:
        record.notes.update(facts)


@contextmanager
def recording_chains() -> Iterator[ChainRecord]:
    """Records every step that a schedule takes in this block."""
    record = ChainRecord()
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)
