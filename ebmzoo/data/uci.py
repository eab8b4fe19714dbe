"""Tables of numbers of the UCI archive, prepared as in the literature on density estimation.

Rows are put in a random order; wines are dequantised; the columns are permuted; then all is centred and
whitened. The last tenth of the rows is the test split, and of the rest the last tenth, at most 1000 rows,
the valid split. Seed, order of these operations and generator are those of the code that Generalized Energy
Based Models took over from the deep kernel exponential family, so the splits are the same row by row, as far
as the files are.

Two things that this literature does are kept, since its numbers depend on them: the whitening is computed
from all rows, those of the test split included (the first 10 000 in the new order), and what is added to a
wine's column is uniform on plus or minus the whole median gap between its values, twice as wide as it would
take.

References:
    | Learning deep kernels for exponential family densities (Wenliang et al., 2019), Section 5.2
    | https://arxiv.org/abs/1811.08357
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), Appendix
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ebmzoo.data.dataset import DataError, check_split
from ebmzoo.data.files import FromFiles, fetching

_ARCHIVE = "https://archive.ics.uci.edu/ml/machine-learning-databases"

SEED = 1
"""The seed of the rows' order, the columns' and the dequantisation."""


class UCITable(FromFiles):
    """A table of the UCI archive, whitened."""

    sources: ClassVar[Mapping[str, str]]
    """Where every file comes from, below the archive's address."""

    columns: ClassVar[int]
    """The number of columns that are left."""

    dequantised: ClassVar[bool] = False
    test_rows: ClassVar[int | None] = None
    """The number of rows of the test split, or None for a tenth."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return (self.columns,)

    def load(self, split: str) -> Tensor:
        """Returns the rows of a split, of shape (N, columns), in a tensor of the caller's own.

        Raises:
            DataError: If the files are absent or damaged; the message says how to get them.
            ValueError: If there is no such split.
        """
        check_split(split)
        return _splits(self, self.folder())[split].clone()

    def fetch(self, folder: Path) -> None:
        """Downloads the files."""
        from torchvision.datasets.utils import download_url

        for file, state in self.states(folder).items():
            if state in ("absent", "damaged"):
                address, target = f"{_ARCHIVE}/{self.sources[file]}", folder / file
                target.unlink(missing_ok=True)
                download_url(address, str(target.parent), target.name, self.files[file])

    @abstractmethod
    def read(self, folder: Path) -> np.ndarray:
        """Returns the table as the archive has it, of shape (N, columns), with the columns that stay.

        Raises:
            ValueError: If a file is not what it should be.
        """


@dataclass(frozen=True)
class RedWine(UCITable):
    """Physicochemical properties of 1599 red wines: 1296 to learn from, 144 to choose by, 159 to report on.

    References:
        | Modeling wine preferences by data mining from physicochemical properties (Cortez et al., 2009)
        | https://doi.org/10.24432/C56S3T
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "uci/winequality-red.csv": "2daeecee174368f8a33b82c8cccae3a5"
    }
    sources: ClassVar[Mapping[str, str]] = {"uci/winequality-red.csv": "wine-quality/winequality-red.csv"}
    columns: ClassVar[int] = 11
    dequantised: ClassVar[bool] = True

    def read(self, folder: Path) -> np.ndarray:
        """Returns all columns but the quality."""
        return np.loadtxt(folder / "uci/winequality-red.csv", delimiter=";", skiprows=1)[:, :-1]


@dataclass(frozen=True)
class WhiteWine(UCITable):
    """Physicochemical properties of 4898 white wines: 3969 to learn from, 440 to choose by, 489 to report on.

    References:
        | Modeling wine preferences by data mining from physicochemical properties (Cortez et al., 2009)
        | https://doi.org/10.24432/C56S3T
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "uci/winequality-white.csv": "5d9ff0f7f716dace19e3ab4578775fd7"
    }
    sources: ClassVar[Mapping[str, str]] = {"uci/winequality-white.csv": "wine-quality/winequality-white.csv"}
    columns: ClassVar[int] = 11
    dequantised: ClassVar[bool] = True

    def read(self, folder: Path) -> np.ndarray:
        """Returns all columns but the quality."""
        return np.loadtxt(folder / "uci/winequality-white.csv", delimiter=";", skiprows=1)[:, :-1]


@dataclass(frozen=True)
class Parkinsons(UCITable):
    """Voice measurements of people with Parkinson's disease: 5875 recordings, 4760 to learn from.

    Of the 19 columns from the time of the test on, four that are correlated above 0.98 with a later one are
    left out.

    References:
        | Accurate telemonitoring of Parkinson's disease progression by noninvasive speech tests (Tsanas et
          al., 2010)
        | https://doi.org/10.24432/C5ZS3N
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "uci/parkinsons_updrs.data": "4f97310e2c9fbeedb72e8a37822fee45"
    }
    sources: ClassVar[Mapping[str, str]] = {
        "uci/parkinsons_updrs.data": "parkinsons/telemonitoring/parkinsons_updrs.data"
    }
    columns: ClassVar[int] = 15

    def read(self, folder: Path) -> np.ndarray:
        """Returns the columns from the time of the test on, but those that repeat another."""
        table = np.loadtxt(folder / "uci/parkinsons_updrs.data", delimiter=",", skiprows=1)[:, 3:]
        return uncorrelated(table, 0.98)


@dataclass(frozen=True)
class HepMass(UCITable):
    """Simulated particle collisions of mass 1000, those with a new particle: 22 columns.

    Five columns with few values are left out; the test split has 174 900 rows. The archive publishes no
    checksums.

    References:
        | Parameterized neural networks for high-energy physics (Baldi et al., 2016)
        | https://doi.org/10.24432/C5PP5W
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "uci/1000_train.csv.gz": None,
        "uci/1000_test.csv.gz": None,
    }
    sources: ClassVar[Mapping[str, str]] = {
        "uci/1000_train.csv.gz": "00347/1000_train.csv.gz",
        "uci/1000_test.csv.gz": "00347/1000_test.csv.gz",
    }
    columns: ClassVar[int] = 22
    test_rows: ClassVar[int | None] = 174_900

    def read(self, folder: Path) -> np.ndarray:
        """Returns the rows with label one, without the label and the columns that are nearly discrete."""
        parts = [np.loadtxt(folder / name, delimiter=",", skiprows=1) for name in self.files]
        table = np.concatenate(parts)
        if table.shape[1] != 28:
            raise ValueError(f"28 columns expected, and {table.shape[1]} found")
        return np.delete(table[table[:, 0] == 1], [0, 6, 10, 14, 18, 22], axis=1)


@dataclass(frozen=True)
class MiniBooNE(UCITable):
    """Electron neutrinos of an experiment: 43 columns.

    Of the archive's 50 columns those with a value that comes more than five times are left out, and so are
    rows of -1000. The archive publishes no checksum.

    References:
        | Boosted decision trees, an alternative to artificial neural networks (Roe et al., 2005)
        | https://doi.org/10.24432/C5QC87
    """

    files: ClassVar[Mapping[str, str | None]] = {"uci/MiniBooNE_PID.txt": None}
    sources: ClassVar[Mapping[str, str]] = {"uci/MiniBooNE_PID.txt": "00199/MiniBooNE_PID.txt"}
    columns: ClassVar[int] = 43

    def read(self, folder: Path) -> np.ndarray:
        """Returns the signal events, which come first in the file and whose number is in its first line."""
        path = folder / "uci/MiniBooNE_PID.txt"
        with path.open() as lines:
            signal = int(lines.readline().split()[0])
            table = np.loadtxt(lines, max_rows=signal)
        if table.shape != (signal, 50):
            raise ValueError(f"{signal} rows of 50 columns expected, and {table.shape} found")
        table = table[table[:, 0] > -100]
        most = [np.unique(column, return_counts=True)[1].max() for column in table.T]
        return table[:, np.asarray(most) <= 5]


@lru_cache(maxsize=5)
def _splits(data: UCITable, folder: Path) -> dict[str, Tensor]:
    """Returns all splits of a table."""
    try:
        table = data.read(folder)
    except (ValueError, EOFError, OSError) as error:
        files = ", ".join(data.files)
        raise DataError(
            f"{type(data).__name__} cannot be read from {files} in {folder}: {error}. Delete what is there "
            f"and download it again: {fetching([type(data).__name__], folder)}"
        ) from error
    if table.shape[1] != data.columns:
        raise DataError(
            f"{type(data).__name__} should have {data.columns} columns after those that repeat are left out, "
            f"not {table.shape[1]}: the files in {folder} are not the archive's, or not whole"
        )
    if not np.ptp(table, 0).all():
        raise DataError(
            f"column {int(np.ptp(table, 0).argmin()) + 1} of {type(data).__name__} is the same everywhere in "
            f"{folder}: the files are not the archive's, or not whole"
        )
    rows = torch.from_numpy(prepared(table, data.dequantised)).float()
    tests = len(rows) // 10 if data.test_rows is None else data.test_rows
    if 2 * tests > len(rows):
        raise DataError(
            f"{type(data).__name__} has {len(rows)} rows in {folder}, too few for a test split of {tests}: "
            "the files are not whole"
        )
    rest = len(rows) - tests
    valid = min(rest // 10, 1000)
    return {
        "train": rows[: rest - valid],
        "valid": rows[rest - valid : rest],
        "test": rows[rest:],
    }


def prepared(table: np.ndarray, dequantised: bool) -> np.ndarray:
    """Returns a table (N, D) with shuffled rows, permuted columns and white values.

    Arguments:
        table: The table, of shape (N, D).
        dequantised: Whether uniform noise of the median gap is added to each column first.
    """
    rng = np.random.RandomState(SEED)
    table = table.astype(np.float64)
    rng.shuffle(table)
    if dequantised:
        for column in table.T:
            gap = np.median(np.diff(np.unique(column)))
            column += (2 * rng.rand(len(column)) - 1) * gap
    return whitened(table[:, rng.permutation(table.shape[1])])


def whitened(table: np.ndarray, rows: int = 10_000) -> np.ndarray:
    """Returns a table (N, D) centred, and rotated and scaled so that its first rows have unit covariance."""
    centred = table - table.mean(0)
    used = centred[:rows]
    _, scales, axes = np.linalg.svd(used, full_matrices=False)
    return centred @ (axes.T / scales * np.sqrt(len(used)))


def uncorrelated(table: np.ndarray, limit: float) -> np.ndarray:
    """Returns a table (N, D) without columns that are correlated above ``limit`` with another.

    The first of those that are goes first. At the first look the absolute value of a correlation counts,
    later its sign counts too, as in the code whose numbers are compared.
    """
    correlation = np.abs(np.corrcoef(table.T))
    while True:
        repeated = np.flatnonzero((correlation > limit).sum(1) > 1)
        if len(repeated) == 0:
            return table
        table = np.delete(table, repeated[0], axis=1)
        correlation = np.corrcoef(table.T)
