"""Tables of the UCI archive: read from files of the archive's formats, which the tests make, and prepared."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ebmzoo.cli import main
from ebmzoo.data import DataError, HepMass, MiniBooNE, Parkinsons, RedWine, WhiteWine
from ebmzoo.data.uci import UCITable, prepared, uncorrelated, whitened

RNG = np.random.RandomState


def wine(path: Path, rows: int = 200) -> None:
    """Writes values on a grid, as wines have."""
    values = RNG(0).randint(1, 60, (rows, 12)) / 4
    header = ";".join(f'"column {i}"' for i in range(12))
    lines = [";".join(f"{value:g}" for value in row) for row in values]
    path.write_text("\n".join([header, *lines]) + "\n")


def parkinsons(path: Path, rows: int = 300) -> None:
    """Writes 22 columns, of which four repeat a later one."""
    values = RNG(0).randn(rows, 22)
    for repeated, later in [(6, 10), (8, 10), (11, 16), (13, 16)]:
        values[:, repeated] = values[:, later] + 1e-3 * RNG(1).randn(rows)
    header = ",".join(f"column{i}" for i in range(22))
    path.write_text("\n".join([header, *(",".join(f"{v:.8g}" for v in row) for row in values)]) + "\n")


def hepmass(path: Path, rows: int = 400) -> None:
    values = RNG(len(path.name)).randn(rows, 28)
    values[:, 0] = np.arange(rows) % 2
    text = "# label," + ",".join(f"f{i}" for i in range(27)) + "\n"
    text += "\n".join(",".join(f"{v:.8e}" for v in row) for row in values) + "\n"
    path.write_bytes(gzip.compress(text.encode()))


def miniboone(path: Path, signal: int = 300, background: int = 100) -> None:
    values = RNG(0).randn(signal + background, 50)
    values[:, :7] = values[:, :7].round()  # columns with values that repeat
    values[5] = -1000.0
    rows = "\n".join(" ".join(f"{v:.8e}" for v in row) for row in values)
    path.write_text(f"  {signal}  {background}\n{rows}\n")


WRITERS: dict[type[UCITable], Callable[[Path], None]] = {
    RedWine: wine,
    WhiteWine: wine,
    Parkinsons: parkinsons,
    HepMass: hepmass,
    MiniBooNE: miniboone,
}
SIZES = {
    RedWine: (162, 18, 20),
    WhiteWine: (162, 18, 20),
    Parkinsons: (243, 27, 30),
    HepMass: (324, 36, 40),
    MiniBooNE: (243, 27, 29),
}


@pytest.fixture(params=WRITERS, ids=lambda kind: kind.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UCITable:
    """A table whose files, of the archive's format, are in a folder of their own."""
    kind = request.param
    for file in kind.files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        WRITERS[kind](tmp_path / file)
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path))
    monkeypatch.setattr(kind, "files", dict.fromkeys(kind.files))  # these files have other checksums
    monkeypatch.setattr(HepMass, "test_rows", 40)
    return kind()


def test_splits_of_generated_files(made: UCITable) -> None:
    parts = [made.load(split) for split in ("train", "valid", "test")]
    assert tuple(len(part) for part in parts) == SIZES[type(made)]
    rows = torch.cat(parts)
    assert made.shape == rows.shape[1:]
    assert rows.dtype == torch.float32
    covariance = rows.double().T @ rows.double() / len(rows)
    torch.testing.assert_close(covariance, torch.eye(made.shape[0], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.mean(0), torch.zeros(made.shape), atol=1e-5, rtol=0)
    assert torch.equal(made.load("train"), parts[0])


def test_a_caller_may_change_what_it_loaded(made: UCITable) -> None:
    made.load("test").zero_()
    assert float(made.load("test").abs().sum()) > 0


def test_a_truncated_file_is_named(made: UCITable) -> None:
    path = Path(os.environ["EBMZOO_DATA"]) / list(made.files)[-1]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"{type(made).__name__}.*ebmzoo data fetch|not whole"):
        made.load("train")


def test_a_column_that_is_the_same_everywhere_is_named(
    made: UCITable, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = type(made).read

    def still(data: UCITable, folder: Path) -> np.ndarray:
        table = read(data, folder)
        table[:, 1] = 7
        return table

    monkeypatch.setattr(type(made), "read", still)
    with pytest.raises(DataError, match=f"column 2 of {type(made).__name__} is the same everywhere"):
        made.load("train")


def test_nonsense_is_named(made: UCITable) -> None:
    for file in made.files:
        (Path(os.environ["EBMZOO_DATA"]) / file).write_text("<html>\n<b>503</b>\n")
    with pytest.raises(DataError, match=rf"{type(made).__name__} cannot be read"):
        made.load("train")


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.__name__)
def test_without_files(kind: type[UCITable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBMZOO_DATA", raising=False)
    with pytest.raises(DataError, match=f"EBMZOO_DATA.*ebmzoo data fetch {kind.__name__}"):
        kind().load("train")
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path / "my data"))
    with pytest.raises(DataError, match="absent: uci/") as refusal:
        kind().load("train")
    assert str(refusal.value).endswith(f"ebmzoo data fetch {kind.__name__} --data '{tmp_path}/my data'")
    with pytest.raises(ValueError, match="'dev'"):
        kind().load("dev")


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(RedWine, (1296, 144, 159)), (WhiteWine, (3969, 440, 489)), (Parkinsons, (4760, 528, 587))],
)
def test_splits_of_the_archives_own_files(kind: type[UCITable], sizes: tuple[int, ...]) -> None:
    folder = os.environ.get("EBMZOO_DATA")
    if not folder or not (Path(folder) / next(iter(kind.files))).is_file():
        pytest.skip("EBMZOO_DATA holds no such file")
    assert tuple(len(kind().load(split)) for split in ("train", "valid", "test")) == sizes
    assert set(kind().states(Path(folder)).values()) == {"whole"}


def test_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uci").mkdir()
    wine(tmp_path / "uci/winequality-red.csv")
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"damaged: uci/winequality-red\.csv"):
        RedWine().load("train")


# What is done to a table


def test_preparation_is_that_of_the_published_numbers() -> None:
    """The same operations, in numpy's global generator and in the order of the code of the literature."""
    table = RNG(3).randint(0, 40, (60, 4)) / 2.0
    np.random.seed(1)
    data = table.copy()
    np.random.shuffle(data)
    for d in range(4):
        gap = np.median(np.diff(np.unique(data[:, d])))
        data[:, d] += (np.random.rand(60) * 2 - 1) * gap
    data = data[:, np.random.permutation(4)]
    data = data - data.mean(0)
    _, s, vt = np.linalg.svd(data)
    np.testing.assert_allclose(prepared(table, True), data @ (vt.T / s * np.sqrt(60)), atol=1e-10)


def test_whitening_uses_the_first_rows_only() -> None:
    table = RNG(0).randn(500, 3) * [1, 10, 100]
    white = whitened(table, rows=100)
    first = white[:100]
    np.testing.assert_allclose(first.T @ first / 100, np.eye(3), atol=1e-10)
    assert abs(white.mean()) < 1e-12


def test_a_repeated_column_goes() -> None:
    table = RNG(0).randn(200, 4)
    table[:, 1] = table[:, 3] * 2 + 1
    assert np.array_equal(uncorrelated(table, 0.98), table[:, [0, 2, 3]])
    assert np.array_equal(uncorrelated(table[:, :3], 0.98), table[:, :3])


def test_what_is_given_stays_as_it_is() -> None:
    table = RNG(0).randn(50, 3)
    before = table.copy()
    prepared(table, True)
    assert np.array_equal(table, before)


def test_the_table_of_all_five_runs_from_files_of_the_archives_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, write in WRITERS.items():
        for file in kind.files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            write(tmp_path / file)
        monkeypatch.setattr(kind, "files", dict.fromkeys(kind.files))
    monkeypatch.setattr(HepMass, "test_rows", 40)
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path))
    words = ["reproduce", "gebm/uci", "--scale", "smoke", "--device", "cpu", "--json"]
    made = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "store")], prog_name="ebmzoo")
    assert made.exit_code == 0, made.output
    cells = json.loads(made.stdout)["cells"]
    assert len(cells) == 4 * 5 * 2
    assert all(cell["n"] == 1 and cell["error"] is None for cell in cells)
