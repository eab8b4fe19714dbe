"""The image sets of public archives: what is in their splits, and what is said when files are not there.

What needs the files is skipped where EBMZOO_DATA is not set or names a folder without them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from laws import generator
from PIL import Image
from torch import Tensor

from ebmzoo.cli import main
from ebmzoo.data import CIFAR10, CIFAR100, MNIST, SVHN, CelebA, DataError, FashionMNIST, ImageNet32
from ebmzoo.data.archives import Archive, _read
from ebmzoo.data.dataset import SPLITS
from ebmzoo.data.faces import _shrunk
from ebmzoo.data.files import FromFiles
from ebmzoo.store import canonical, describe
from ebmzoo.training import Batches

HERE = [MNIST(), FashionMNIST(), CIFAR10()]
ALL = [*HERE, CIFAR100(), SVHN()]

COUNTS = {
    MNIST: {"train": 50_000, "valid": 10_000, "test": 10_000},
    FashionMNIST: {"train": 50_000, "valid": 10_000, "test": 10_000},
    CIFAR10: {"train": 45_000, "valid": 5_000, "test": 10_000},
}


def name(data: Archive) -> str:
    return type(data).__name__


@pytest.fixture(params=HERE, ids=name)
def data(request: pytest.FixtureRequest) -> Archive:
    """A set whose files are here; whether they are damaged is for its own test to say."""
    folder = os.environ.get("EBMZOO_DATA")
    if not folder:
        pytest.skip("EBMZOO_DATA is not set")
    absent = [file for file in request.param.files if not (Path(folder) / file).is_file()]
    if absent:
        pytest.skip(f"EBMZOO_DATA={folder} holds no {absent[0]}")
    return request.param


def folder() -> Path:
    return Path(os.environ["EBMZOO_DATA"])


@cache
def archived(data: Archive, training: bool) -> tuple[Tensor, Tensor]:
    """The images and labels of an archive in its own order, read without what is tested."""
    if isinstance(data, CIFAR10):
        import pickle

        names = [f"data_batch_{i}" for i in range(1, 6)] if training else ["test_batch"]
        batches = [
            pickle.loads((folder() / "cifar-10-batches-py" / each).read_bytes(), encoding="bytes")
            for each in names
        ]
        pixels = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch[b"labels"] for batch in batches])
    else:
        files = [folder() / file for file in data.files][0 if training else 2 :][:2]
        pixels, labels = (np.frombuffer(file.read_bytes(), np.uint8) for file in files)
        pixels, labels = pixels[16:].reshape(-1, 1, 28, 28), labels[8:]
    return torch.tensor(pixels), torch.tensor(labels).long()


def fingerprints(images: Tensor, labels: Tensor) -> Tensor:
    """A whole number of each labelled image, which different ones hardly ever share.

    Float arithmetic is exact here: no sum reaches 2⁵³.
    """
    rng = torch.Generator().manual_seed(0)
    weights = torch.randint(2**30, (images[0].numel() + 1,), generator=rng).double()
    hashed = [part.flatten(1).double() @ weights[1:] for part in images.split(2000)]
    return torch.cat(hashed) + labels * weights[0]


def levels(images: Tensor) -> Tensor:
    """The levels 0 to 255 of brightnesses."""
    return ((images + 1) * 127.5).round().byte()


def test_splits_have_their_shapes_counts_and_ranges(data: Archive):
    for split, count in COUNTS[type(data)].items():
        images, labels = data.load(split), data.labels(split)
        assert images.shape == (count, *data.shape)
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
        assert labels.shape == (count,)
        assert labels.dtype == torch.int64
        torch.testing.assert_close(levels(images[:500]) / 127.5 - 1, images[:500])


def test_splits_are_the_parts_of_the_archive(data: Archive):
    """The training set's end is held out, and every image is in one split, beside its label."""
    images, labels = archived(data, True)
    begin = COUNTS[type(data)]["train"]
    parts = {
        "train": (images[:begin], labels[:begin]),
        "valid": (images[begin:], labels[begin:]),
        "test": archived(data, False),
    }
    seen: set[float] = set()
    for split, (expected, classes) in parts.items():
        ours = fingerprints(levels(data.load(split)), data.labels(split))
        assert torch.equal(ours.sort().values, fingerprints(expected, classes).sort().values)
        assert not seen & set(ours.tolist())
        seen |= set(ours.tolist())


def test_splits_are_stratified_from_their_beginning(data: Archive):
    for split in SPLITS:
        labels = data.labels(split)
        share = torch.bincount(labels, minlength=10) / len(labels)
        assert (share > 0.08).all()
        assert (share < 0.12).all()
        for size in (50, 200, 1000):
            counts = torch.bincount(labels[:size], minlength=10)
            assert (counts - share * size).abs().max() < 2


def test_within_a_split_the_order_is_not_the_archives(data: Archive):
    """MNIST's test set begins with one group of writers and ends with another: a beginning mixes them."""
    position = {value: i for i, value in enumerate(fingerprints(*archived(data, False)).tolist())}
    first = fingerprints(levels(data.load("test")[:1000]), data.labels("test")[:1000])
    late = sum(position[value] >= 5000 for value in first.tolist())
    assert 400 < late < 600  # six standard errors of 16


FIRST = {
    MNIST: [1, 7, 3, 9, 2, 6, 0, 4, 8, 5],
    FashionMNIST: [7, 8, 6, 1, 5, 2, 9, 3, 0, 4],
    CIFAR10: [4, 2, 7, 6, 1, 0, 9, 3, 5, 8],
}
"""The first labels of the training splits. Artifacts are made of these data: they must never change."""


def test_images_are_those_that_old_artifacts_were_made_of(data: Archive):
    assert data.labels("train")[:10].tolist() == FIRST[type(data)]


def test_a_caller_may_change_what_it_loaded(data: Archive):
    mine = data.load("valid")
    first = mine[0].clone()
    mine.zero_()
    assert torch.equal(data.load("valid")[0], first)


def test_an_unknown_split_is_named(data: Archive):
    with pytest.raises(ValueError, match="'dev'"):
        data.load("dev")
    with pytest.raises(ValueError, match="'dev'"):
        data.labels("dev")


# Without the files


def complaint(data: Archive, monkeypatch: pytest.MonkeyPatch, root: Path | str | None) -> str:
    """What loading says; labels say the same."""
    if root is None:
        monkeypatch.delenv("EBMZOO_DATA", raising=False)
    else:
        monkeypatch.setenv("EBMZOO_DATA", str(root))
    with pytest.raises(DataError) as error:
        data.load("valid")
    with pytest.raises(DataError) as again:
        data.labels("valid")
    assert str(again.value) == str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("data", ALL, ids=name)
@pytest.mark.parametrize("root", [None, ""])
def test_a_folder_that_is_not_named(data: Archive, root: str | None, monkeypatch: pytest.MonkeyPatch):
    said = complaint(data, monkeypatch, root)
    assert said.startswith(f"{name(data)} is read from files, and the environment variable EBMZOO_DATA")
    assert "is not set" in said
    assert all(file in said for file in data.files)
    assert said.endswith(f"ebmzoo data fetch {name(data)}")


@pytest.mark.parametrize("data", ALL, ids=name)
@pytest.mark.parametrize("below", [".", "nowhere"])
def test_a_folder_without_the_files(
    data: Archive, below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    said = complaint(data, monkeypatch, tmp_path / below)
    assert said.startswith(f"{name(data)} cannot be read from {tmp_path / below}")
    assert f"absent: {', '.join(data.files)}. " in said
    assert "damaged" not in said
    assert said.endswith(f"ebmzoo data fetch {name(data)} --data {tmp_path / below}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ALL, ids=name)
def test_files_of_something_else(data: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for file in data.files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"<html>503</html>")
    said = complaint(data, monkeypatch, tmp_path)
    assert f"damaged: {', '.join(data.files)}. " in said
    assert "absent" not in said


def test_one_file_absent_and_one_damaged(data: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Every other file is what it should be; one byte of the damaged one is not. Mended, they are read."""
    absent, damaged, *_ = data.files
    originals = {file: folder() / file for file in data.files}
    for file, original in originals.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).symlink_to(original)
    (tmp_path / absent).unlink()
    (tmp_path / damaged).unlink()
    content = bytearray(originals[damaged].read_bytes())
    content[-1] ^= 1
    (tmp_path / damaged).write_bytes(content)

    said = complaint(data, monkeypatch, tmp_path)
    assert f"; absent: {absent}; damaged: {damaged}. " in said
    for file in (absent, damaged):
        shutil.copyfile(originals[file], tmp_path / file)
    assert len(data.load("valid")) == COUNTS[type(data)]["valid"]


@pytest.mark.parametrize("data", ALL, ids=name)
def test_where_the_files_are_is_no_part_of_a_description(data: Archive, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EBMZOO_DATA", raising=False)
    before = canonical(describe(data))
    monkeypatch.setenv("EBMZOO_DATA", "elsewhere")
    assert canonical(describe(data)) == before
    assert type(data)() == data


# Sets of which only files of their format are here


def held(monkeypatch: pytest.MonkeyPatch, root: Path, data: FromFiles) -> None:
    """Takes the files below ``root`` for the archive's."""
    found = {file: hashlib.md5((root / file).read_bytes()).hexdigest() for file in data.files}
    monkeypatch.setattr(type(data), "files", found)
    monkeypatch.setenv("EBMZOO_DATA", str(root))


@pytest.fixture
def bytes_of() -> Callable[[int], np.ndarray]:
    return lambda count: np.random.RandomState(count).randint(256, size=(count, 3, 32, 32)).astype(np.uint8)


def test_cifar100_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_of: Any) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        batch = {"data": bytes_of(count).reshape(count, -1), "fine_labels": list(range(count))}
        (folder / split).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    held(monkeypatch, tmp_path, CIFAR100())
    monkeypatch.setattr(CIFAR100, "held_out", 10)
    monkeypatch.setattr("torchvision.datasets.CIFAR100._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *unused: True)
    check_splits(CIFAR100(), bytes_of, {"train": 50, "valid": 10, "test": 20})


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_of: Any) -> None:
    from scipy.io import savemat

    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count)[:, None] % 10 + 1  # the archive says 10 for zero
        images = bytes_of(count).transpose(2, 3, 1, 0)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    held(monkeypatch, tmp_path, SVHN())
    monkeypatch.setattr(SVHN, "held_out", 10)
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *unused: True)
    check_splits(SVHN(), bytes_of, {"train": 50, "valid": 10, "test": 20})
    assert set(SVHN().labels("train").tolist()) == set(range(10))


def npz(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, data=images.reshape(len(images), -1), labels=labels, mean=images.mean(0).ravel())


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_of: Any) -> Path:
    train = bytes_of(60)
    for number in range(1, 11):
        part = slice(6 * (number - 1), 6 * number)
        labels = np.arange(60)[part] % 7 + 1  # the archive counts from one
        npz(tmp_path / f"imagenet32/train_data_batch_{number}.npz", train[part], labels)
    npz(tmp_path / "imagenet32/val_data.npz", bytes_of(20), np.arange(20) % 7 + 1)
    monkeypatch.setenv("EBMZOO_DATA", str(tmp_path))
    monkeypatch.setattr(ImageNet32, "held_out", 10)
    _read.cache_clear()
    return tmp_path / "imagenet32"


@pytest.mark.usefixtures("imagenet")
def test_imagenet_is_read(bytes_of: Any) -> None:
    check_splits(ImageNet32(), bytes_of, {"train": 50, "valid": 10, "test": 20})
    assert set(ImageNet32().labels("train").tolist()) == set(range(7))


@pytest.mark.usefixtures("imagenet")
def test_a_table_of_imagenet_runs(tmp_path: Path) -> None:
    """Narrower than the paper's network, which is IGEBM's, and without what needs Inception's weights."""
    small = ["--scale=smoke", "--metrics=saturated*", "--set=IGEBMEnergy.channels=4"]
    words = ["reproduce", "pixel/imagenet32", *small, "--json"]
    made = CliRunner().invoke(main, [*words, f"--store={tmp_path / 'store'}", "--device=cpu"])
    assert made.exit_code == 0, made.output
    [cell] = json.loads(made.stdout)["cells"]
    assert (cell["row"], cell["column"], cell["n"], cell["error"]) == ("IGEBM", "ImageNet32", 1, None)


def test_imagenet_says_where_it_is_to_be_had(imagenet: Path) -> None:
    ImageNet32().fetch(imagenet.parent)
    (imagenet / "val_data.npz").unlink()
    with pytest.raises(DataError, match=r"log in at .*image-net.*Absent: val_data\.npz"):
        ImageNet32().fetch(imagenet.parent)


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"data": 1})])
def test_a_damaged_file_of_imagenet_is_named(imagenet: Path, content: bytes) -> None:
    (imagenet / "val_data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"val_data\.npz is damaged"):
        ImageNet32().stored("test")


def check_splits(data: Archive, bytes_of: Any, counts: dict[str, int]) -> None:
    _read.cache_clear()
    archived = {"train": bytes_of(60)[:50], "valid": bytes_of(60)[50:], "test": bytes_of(20)}
    for split, count in counts.items():
        images = data.stored(split)
        assert images.shape == (count, 3, 32, 32)
        assert {image.numpy().tobytes() for image in images} == {each.tobytes() for each in archived[split]}
        assert len(data.labels(split)) == count
        torch.testing.assert_close(data.load(split), images / 127.5 - 1)


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of four faces, each of one colour in the middle and of another around it."""
    folder = tmp_path / "celeba"
    folder.mkdir()
    parts = ["0", "1", "2", "0"]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for index in range(4):
            pixels = np.full((218, 178, 3), 200, np.uint8)
            pixels[39:179, 19:159] = (10 * index, 50, 90)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")  # lossless, whatever the name says
            archive.writestr(f"img_align_celeba/{index}.jpg", buffer.getvalue())
    lines = [f"{index}.jpg {part}" for index, part in enumerate(parts)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines))
    held(monkeypatch, tmp_path, CelebA())
    _shrunk.cache_clear()
    return folder


def test_the_middle_of_faces_is_taken(faces: Path) -> None:
    assert [CelebA().load(split).shape[0] for split in SPLITS] == [2, 1, 1]
    train = CelebA().stored("train")
    for image, red in zip(train, (0, 30), strict=True):
        assert image.flatten(1).unique(dim=1).flatten().tolist() == [red, 50, 90]


def test_shrunk_faces_are_kept_and_taken_from_there(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CelebA().stored("train").clone()
    _shrunk.cache_clear()
    monkeypatch.setattr("ebmzoo.data.faces._decoded", None)
    assert torch.equal(CelebA().stored("train"), first)
    (kept,) = faces.glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:100])
    _shrunk.cache_clear()
    with pytest.raises(DataError, match=r"ebmzoo-train-64-of-140\.npy is damaged; delete it"):
        CelebA().stored("train")


def test_a_full_disk_leaves_nothing_behind(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ebmzoo.data.faces.np.save", full)
    with pytest.raises(DataError, match="No space left on device"):
        CelebA().stored("train")
    assert not [path for path in faces.iterdir() if "ebmzoo" in path.name]


def test_minibatches_of_bytes_are_those_of_floats(faces: Path) -> None:
    data = CelebA()
    held = Batches(data.stored("train"), None, 2, generator(0), data.restored)
    plain = Batches(data.load("train"), None, 2, generator(0))
    for _ in range(3):
        assert torch.equal(held.draw().data, plain.draw().data)
