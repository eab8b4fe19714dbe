"""Arrays of one's own as data sets, as docs/own-data.md has them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmzoo.cli import main
from ebmzoo.data import DataError, NumpyFile
from ebmzoo.fields import FieldError

ZEROS = "0123456789abcdef" * 4
"""What stands for a checksum in the documentation."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path))
    return tmp_path


def saved(folder: Path, array: np.ndarray, name: str = "mine.npy") -> NumpyFile:
    np.save(folder / name, array)
    return NumpyFile(name, hashlib.sha256((folder / name).read_bytes()).hexdigest())


@pytest.mark.parametrize("count", [3, 10, 57, 1000])
def test_every_row_is_in_one_split(folder: Path, count: int):
    data = saved(folder, np.arange(count * 6).reshape(count, 1, 2, 3))
    splits = {split: data.load(split) for split in ("train", "valid", "test")}
    assert data.shape == (1, 2, 3)
    assert torch.equal(torch.cat(list(splits.values())).flatten().sort()[0], torch.arange(6.0 * count))
    assert len(splits["test"]) == max(1, count // 10)
    assert len(splits["valid"]) == max(1, (count - len(splits["test"])) // 10)
    assert torch.equal(data.load("train"), splits["train"])
    if count > 100:
        assert not torch.equal(splits["train"], splits["train"].sort(0)[0])


def test_what_is_loaded_belongs_to_the_caller(folder: Path):
    data = saved(folder, np.zeros((10, 2)))
    data.load("train").fill_(1.0)
    assert not data.load("train").any()


def test_another_file_of_the_same_name_is_refused(folder: Path):
    data = saved(folder, np.zeros((10, 2)))
    data.load("train")
    other = saved(folder, np.ones((20, 2)))
    with pytest.raises(DataError, match=rf"has the SHA-256 {other.sha256}, not {data.sha256}"):
        data.load("train")
    assert other.load("test").tolist() == [[1.0, 1.0]] * 2


WRONG = [
    (np.zeros(5), r"three rows or more, \(N, \*\), not shape \(5,\)"),
    (np.zeros((2, 3)), r"not shape \(2, 3\)"),
    (np.zeros((5, 0)), r"not shape \(5, 0\)"),
    (np.array([["a", "b"]] * 5), "holds no array of numbers"),
    (np.array([{}] * 5), "holds no array of numbers"),
]


@pytest.mark.parametrize(("array", "words"), WRONG)
def test_what_is_no_array_of_points_is_refused(folder: Path, array: np.ndarray, words: str):
    with pytest.raises(DataError, match=words):
        saved(folder, array).load("train")


def test_what_is_no_file_of_numpy_is_refused(folder: Path):
    (folder / "mine.npy").write_text("1,2,3")
    checksum = hashlib.sha256(b"1,2,3").hexdigest()
    with pytest.raises(DataError, match="holds no array of numbers"):
        NumpyFile("mine.npy", checksum).load("train")
    with pytest.raises(DataError, match=r"yours\.npy is absent; put the file there, or name its folder"):
        NumpyFile("yours.npy", checksum).load("train")
    with pytest.raises(FieldError, match=r"64 hexadecimal digits, which `sha256sum mine\.npy` prints"):
        NumpyFile("mine.npy", "abc")
    with pytest.raises(ValueError, match="there is no split 'tset'"):
        saved(folder, np.zeros((5, 2))).load("tset")


def test_the_documented_tables_can_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(folder)
    text = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
    data = saved(folder, np.random.default_rng(0).normal(size=(500, 2)))
    for name, block in zip(("mine", "mine2"), re.findall(r"```gin\n(.*?)```", text, re.DOTALL), strict=True):
        (folder / f"{name}.gin").write_text(block.replace(ZEROS, data.sha256))
    small = ["--set", "Trained.steps=2", "--set", "ModelSelection.every=1", "--seeds", "1"]
    assert main(["reproduce", "mine.gin", "--scale", "paper", *small], standalone_mode=False) == 0
    assert "Real NVP, KALE" in capsys.readouterr().out
    asked = ["--scale", "paper", "--rows", "NVP-ML", "--columns", "RedWine"]
    main(["plan", "mine2.gin", *asked], standalone_mode=False)
    assert "NVP-ML" in capsys.readouterr().out
