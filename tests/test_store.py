"""Keys say everything that changes a result, and the shelf gives back what was put on it or says why not."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, make_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import METHODS, VAES, Blob, Countdown, Note, Offset, full_disk, journal, kept, processes, until

from ebmzoo.fields import added
from ebmzoo.metrics import FrechetDistance
from ebmzoo.metrics.features import ClassifierFeatures, DataFeatures
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.runtime import Deadline, OutOfTime, Runtime
from ebmzoo.samplers import MALA, Chains, Decay, Direct, FromNoise, Langevin, Stage
from ebmzoo.store import (
    DamagedArtifact,
    Recipe,
    Store,
    StoreError,
    canonical,
    describe,
    everything_behind,
    inspect,
    load_tensors,
    save_tensors,
)
from ebmzoo.training import GoBack, Limit, LowerLearningRate, Selection

TILTED = dataclasses.replace(
    METHODS["Tilting of VAE, Gaussian pictures"],
    divergence=GoBack(LowerLearningRate(0.3), limits=(Limit("energy_gap", 1e3),)),
    selection=Selection(Offset(0.5), Direct(), every=2, count=8, patience=3),
)
DECAY = Decay(Langevin(0.1), steps=6, every=3, factor=0.5)
SAMPLES = Samples(TILTED, Chains((Stage(MALA(0.1), 3), DECAY), FromNoise(0.9)), count=7, shard=3)
SCORE = Score(SAMPLES, FrechetDistance("toys", METHODS["Classifier"]))
"""A score with everything behind it that a table has."""

FEATURES = DataFeatures(SAMPLES.data, "test", ClassifierFeatures(METHODS["Classifier"]))
"""What the samples are compared with."""


# Keys


def altered(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that differs from this one in one leaf, with the path to the leaf."""
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            for path, other in altered(getattr(value, entry.name)):
                changed = copy.copy(value)
                vars(changed).pop("key", None)
                object.__setattr__(changed, entry.name, other)  # past every check of ranges
                yield f"{type(value).__name__}.{entry.name} {path}".strip(), changed
    elif isinstance(value, tuple):
        yield "longer", (*value, 1)
        for index, item in enumerate(value):
            for path, other in altered(item):
                yield f"[{index}] {path}", (*value[:index], other, *value[index + 1 :])
    else:
        changes: dict[type, Callable[[Any], Any]] = {
            bool: lambda x: not x,
            int: lambda x: x + 1,
            float: lambda x: x * 1.0000001 + 1e-9,
            str: lambda x: x + " ",
            type(None): lambda x: 0,
        }
        yield "", changes[type(value)](value)


def test_any_changed_field_changes_the_key():
    keys = {path: other.key for path, other in altered(SCORE)}
    assert len(keys) > 100
    assert {
        "Score.split",
        "Score.subject Samples.seed",
        "Score.subject Samples.model Trained.base Trained.method VAE.latent",
        "Score.subject Samples.model Trained.selection Selection.metric Offset.to",
        "Score.subject Samples.sampler Chains.schedule [1] Decay.kernel Langevin.step_size",
        "Score.metric FrechetDistance.features Trained.method Classifier.optimizer Adam.beta2",
    } <= keys.keys()
    assert SCORE.key not in keys.values()
    assert len(set(keys.values())) == len(keys)


def test_the_class_is_part_of_the_key():
    assert Note("a", after=()).key != Score(SAMPLES, Offset()).key
    kernels = [describe(Langevin(0.1)), describe(MALA(0.1))]
    assert kernels[0] != kernels[1]


def test_equal_recipes_share_a_key():
    whole, fractional = Note("a", weight=1), Note("a", weight=1.0)
    assert whole == fractional
    assert whole.key == fractional.key
    assert Note("a", weight=0.0).key == Note("a", weight=-0.0).key
    assert copy.deepcopy(SCORE).key == SCORE.key
    assert dataclasses.replace(SCORE).key == SCORE.key


def test_the_description_is_what_it_always_was():
    """Artifacts keep their names for good: this text may change only together with a reason to lose them."""
    note = Note("β", (Note("b", weight=0.25),), 2.0)
    assert canonical(describe(note)) == (
        '{"after":[{"after":[],"class":"toys.Note","fails":false,"text":"b","version":1,"waits":false,'
        '"weight":0.25}],"class":"toys.Note","fails":false,"text":"\\u03b2","version":1,"waits":false,"weight":2}'
    )
    assert note.key == "af47e2e1e6cb3c15c82d2366368a2558c630b58fbae31945ded1284f0c93f6ec"


def settings(module: str, **fields: Any) -> Any:
    """A frozen dataclass ``Settings`` of a module, with fields of these defaults."""
    columns = [
        (n, Any, f if isinstance(f, dataclasses.Field) else field(default=f)) for n, f in fields.items()
    ]
    cls = make_dataclass("Settings", columns, frozen=True)
    cls.__module__ = module
    return cls


def test_an_added_field_keeps_old_keys_at_its_default():
    old, new = settings("some", a=1), settings("some", a=1, b=added(0.5))
    assert describe(new()) == describe(old())
    assert describe(new(b=0.5)) == describe(old())
    assert describe(new(b=0.25)) not in (describe(old()), describe(new(b=0.75)))


def test_a_class_may_move_within_its_package():
    here = describe(settings("package.one", a=1)())
    assert here == describe(settings("package.two.three", a=1)())
    assert here != describe(settings("other.one", a=1)())


def test_a_raised_version_changes_the_key_of_all_that_need_it(monkeypatch: pytest.MonkeyPatch):
    before = SCORE.key
    monkeypatch.setattr(Trained, "version", Trained.version + 1)
    assert dataclasses.replace(SCORE).key != before
    assert Note("a").key == Note("a").key


@dataclass
class Thawed:
    a: int = 1


@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, {1}, Path("a"), b"a", float("nan"), float("inf"), torch.zeros(()), len, Blob, Thawed()],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_description_is_refused(value: Any):
    with pytest.raises(TypeError, match="cannot be part of a recipe"):
        describe((1, Note("a", weight=value)))


def test_keys_and_random_numbers_are_those_of_any_other_process():
    """Python hashes strings by a seed of its own in every process."""
    code = (
        "from test_store import SCORE; rng = SCORE.rng('any');"
        "import torch; print(SCORE.key, torch.randint(2**62, (), generator=rng).item())"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    number = torch.randint(2**62, (), generator=SCORE.rng("any")).item()
    assert done.stdout.split() == [SCORE.key, str(number)]


def test_random_numbers_depend_on_key_and_purpose_only():
    def first(recipe: Recipe, purpose: str) -> list[float]:
        return torch.randn(4, generator=recipe.rng(purpose)).tolist()

    torch.manual_seed(1)
    expected = first(SCORE, "shard 0")
    torch.manual_seed(2)
    assert first(copy.deepcopy(SCORE), "shard 0") == expected
    others = [first(SCORE, "shard 1"), first(SAMPLES, "shard 0"), first(SAMPLES.reseeded(1), "shard 0")]
    assert all(other != expected for other in others)


def test_needs_are_found_however_deep():
    base = VAES["VAE, Gaussian pictures"]
    assert TILTED.needs() == (base,)
    assert SAMPLES.needs() == (TILTED,)
    assert set(SCORE.needs()) == {SAMPLES, METHODS["Classifier"], FEATURES}
    chosen = FrechetDistance("toys", METHODS["Classifier"])
    selecting = dataclasses.replace(base, selection=Selection(chosen, Direct(), every=2, count=8))
    compared = dataclasses.replace(FEATURES, data=base.data, split="valid")
    assert selecting.needs() == (METHODS["Classifier"], compared)


def test_everything_behind_comes_once_and_in_order():
    first, second = Note("a"), Note("b", (Note("a"),))
    both = [Note("c", (first, second)), Note("d", (second, first))]
    behind = everything_behind(both)
    assert [note.text for note in behind if isinstance(note, Note)] == ["a", "b", "c", "d"]
    assert set(everything_behind([SCORE])) == {
        SCORE,
        SAMPLES,
        TILTED,
        TILTED.base,
        METHODS["Classifier"],
        FEATURES,
    }


# The shelf


def test_what_is_asked_for_again_is_not_made_again(tmp_path: Path):
    base = Note("base")
    notes = [Note("left", (base,)), Note("right", (base,))]
    assert [Store(tmp_path).get(note) for note in notes * 2] == ["base left", "base right"] * 2
    assert journal(tmp_path) == ["base", "left", "right"]
    assert {kept.state for kept in Store(tmp_path).contents()} == {"whole"}


def test_states(tmp_path: Path):
    store, note = Store(tmp_path), Note("a", fails=True)
    assert store.state(note) == "missing"
    assert store.contents() == []
    with pytest.raises(ValueError, match="a cannot be made"):
        store.get(note)
    assert store.state(note) == "begun"
    assert [kept.state for kept in store.contents()] == ["begun"]
    (tmp_path / "gate").touch()
    assert Store(tmp_path).get(note) == "a"
    assert store.state(note) == "kept"


def test_provenance_is_kept_beside_the_artifact(tmp_path: Path):
    store = Store(tmp_path, Runtime(command="ebmzoo reproduce some/table"))
    store.get(VAES["VAE"])
    run = store.run(VAES["VAE"])
    assert run["command"] == "ebmzoo reproduce some/table"
    assert run["versions"]["torch"] == metadata.version("torch")
    assert run["updates"] == 5
    assert run["attempts"] == []
    assert run["artifact"]["bytes"] == len(kept(tmp_path, VAES["VAE"]))
    record = json.loads((store.folder(VAES["VAE"]) / "recipe.json").read_text())
    assert record["key"] == VAES["VAE"].key
    assert record["needs"] == []


def test_nothing_unfinished_stays(tmp_path: Path):
    store = Store(tmp_path)
    samples = Samples(VAES["VAE"], Direct(), count=5, shard=2)
    store.get(samples)
    store.get(Note("a"))
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and "events.out" not in path.name}
    assert left == {".lock", "recipe.json", "run.json", "artifact.safetensors", "artifact.txt", "journal"}


def test_artifacts_are_the_same_in_every_store(tmp_path: Path):
    for index in range(2):
        torch.manual_seed(index)
        before = torch.get_rng_state()
        Store(tmp_path / str(index)).get(SCORE.subject)
        assert torch.equal(torch.get_rng_state(), before), "the global generator was moved"
    artifacts = [sorted((tmp_path / str(index)).rglob("artifact.*")) for index in range(2)]
    assert len(artifacts[0]) == 3
    for one, other in zip(*artifacts, strict=True):
        assert one.relative_to(tmp_path / "0") == other.relative_to(tmp_path / "1")
        assert one.read_bytes() == other.read_bytes()


def test_a_kept_artifact_is_read_without_writing(tmp_path: Path):
    Store(tmp_path).get(VAES["VAE"])

    def everything() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    paths = [*tmp_path.rglob("*"), tmp_path]
    before = everything()
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        store = Store(tmp_path)
        store.get(VAES["VAE"])
        assert [kept.state for kept in store.contents()] == ["whole"]
        assert everything() == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


# Damage


def truncate(folder: Path) -> None:
    content = (folder / "artifact.txt").read_bytes()
    (folder / "artifact.txt").write_bytes(content[:-1])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "artifact.txt").read_bytes())
    content[0] ^= 1
    (folder / "artifact.txt").write_bytes(content)


def another_recipe(folder: Path) -> None:
    other = Note("b")
    Store(folder.parent).get(other)
    shutil.rmtree(folder)
    shutil.copytree(Store(folder.parent).folder(other), folder)
    (folder.parent / "journal").write_text("a\n")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "is not 1 bytes long": truncate,
    "checksum of artifact.txt": flip_a_bit,
    "run.json is missing": lambda folder: (folder / "run.json").unlink(),
    "run.json is missing or cannot be read": lambda folder: (folder / "run.json").write_text("{}"),
    "recipe.json is missing": lambda folder: (folder / "recipe.json").unlink(),
    "recipe.json cannot be read": lambda folder: (folder / "recipe.json").write_bytes(b"\xff\x00{"),
    "recipe.json does not describe": lambda folder: (folder / "recipe.json").write_text(
        (folder / "recipe.json").read_text().replace('"a"', '"c"')
    ),
    "recipe.json does not describe what the folder's name says": another_recipe,
}
every_damage = pytest.mark.parametrize(("words", "damage"), DAMAGE.items(), ids=DAMAGE)


@every_damage
def test_damage_is_named_and_nothing_is_made_again(
    words: str, damage: Callable[[Path], object], tmp_path: Path
):
    note = Note("a")
    Store(tmp_path).get(note)
    folder = Store(tmp_path).folder(note)
    damage(folder)
    content = {path: path.read_bytes() for path in folder.iterdir()}
    for store in [Store(tmp_path), Store(tmp_path)]:
        with pytest.raises(DamagedArtifact, match=words) as caught:
            store.get(Note("top", (note,)))
        assert caught.value.folder == folder
        assert str(folder) in str(caught.value)
    assert journal(tmp_path) == ["a"]
    assert {path: path.read_bytes() for path in folder.iterdir()} == content
    [found] = [kept for kept in Store(tmp_path).contents() if kept.state == "damaged"]
    assert found.folder == folder
    assert words in found.reason


def test_a_longer_prefix_is_needed_than_another_recipe_has(tmp_path: Path):
    """A whole artifact of another recipe whose key begins alike is not taken for this one's."""
    one, other = Note("a"), Note("b")
    Store(tmp_path).get(one)
    object.__setattr__(other, "key", one.key[:12] + other.key[12:])
    with pytest.raises(DamagedArtifact, match="another recipe"):
        Store(tmp_path).get(other)


@pytest.mark.parametrize("content", [b"\xff{", b"[]", b"{}", b'{"key": "0"}'])
def test_work_that_was_begun_for_nobody_knows_what_is_not_gone_on_with(content: bytes, tmp_path: Path):
    note = Note("a", fails=True)
    with pytest.raises(ValueError, match="cannot be made"):
        Store(tmp_path).get(note)
    folder = Store(tmp_path).folder(note)
    (folder / "recipe.json").write_bytes(content)
    (tmp_path / "gate").touch()
    with pytest.raises(DamagedArtifact, match=r"recipe\.json"):
        Store(tmp_path).get(note)
    assert journal(tmp_path) == ["a"]


def test_an_unreadable_tensor_file_is_named(tmp_path: Path):
    """Also where the checksum was made of what is unreadable."""
    samples = Samples(VAES["VAE"], Direct(), count=5, shard=2)
    Store(tmp_path).get(VAES["VAE"])
    with pytest.raises(OutOfTime):
        Store(tmp_path, Runtime(deadline=Countdown(2))).get(samples)
    shard = Store(tmp_path).folder(samples) / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match="shard-00000") as caught:
        Store(tmp_path).get(samples)
    assert caught.value.folder == shard.parent


def test_what_is_damaged_can_be_removed_and_made_again(tmp_path: Path):
    store, note = Store(tmp_path), Note("a")
    store.get(note)
    truncate(store.folder(note))
    [found] = store.contents()
    store.remove(found)
    assert store.state(note) == "missing"
    assert Store(tmp_path).get(note) == "a"


def test_what_is_in_use_cannot_be_removed(tmp_path: Path):
    store, note = Store(tmp_path), Note("a")
    store.get(note)
    [found] = store.contents()
    with store.locked(found.folder), pytest.raises(StoreError, match="in use by another process"):
        store.remove(found)
    assert Store(tmp_path).get(note) == "a"


# Failure


def test_a_recipe_that_failed_is_not_tried_again_by_the_same_store(tmp_path: Path):
    store, note = Store(tmp_path), Note("a", fails=True)
    for asked in [note, Note("b", (note,)), Note("b", (note,)), note]:
        with pytest.raises(ValueError, match="a cannot be made"):
            store.get(asked)
    assert journal(tmp_path) == ["a"]
    with pytest.raises(ValueError, match="a cannot be made"):
        Store(tmp_path).get(note)
    assert journal(tmp_path) == ["a", "a"]


def test_a_failure_leaves_what_is_needed_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    samples = Samples(VAES["VAE"], Direct(), count=7, shard=2)
    undisturbed = Store(tmp_path / "undisturbed").get(samples)
    draw, fails = Direct.draw, True
    sizes: list[int] = []

    def failing(self: Direct, model: Any, count: int, rng: torch.Generator) -> torch.Tensor:
        if fails and len(sizes) == 2:
            raise ValueError("no more memory")
        sizes.append(count)
        return draw(self, model, count, rng)

    monkeypatch.setattr(Direct, "draw", failing)
    with pytest.raises(ValueError, match="no more memory"):
        Store(tmp_path).get(samples)
    fails = False
    assert torch.equal(Store(tmp_path).get(samples), undisturbed)
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize("file", ["recipe.json", "run.json", "artifact.txt"])
def test_a_full_disk_leaves_no_artifact_and_no_grudge(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    note, real = Note("a"), os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        Store(tmp_path).get(note)
    assert Store(tmp_path).state(note) != "kept"
    assert "damaged" not in {kept.state for kept in Store(tmp_path).contents()}
    monkeypatch.undo()
    assert Store(tmp_path).get(note) == "a"
    assert inspect(Store(tmp_path).folder(note)).state == "whole"


def test_a_disk_that_fills_up_under_an_artifact_leaves_none(tmp_path: Path):
    samples = Samples(VAES["VAE"], Direct(), count=2000, shard=400)
    Store(tmp_path).get(VAES["VAE"])
    with full_disk(4000), pytest.raises(OSError, match="File too large"):
        Store(tmp_path).get(samples)
    with (
        full_disk(8000),
        pytest.raises(OSError, match=r"\.part cannot be written.*too large"),
    ):
        Store(tmp_path).get(samples)
    assert Store(tmp_path).state(samples) == "begun"
    assert torch.equal(Store(tmp_path).get(samples), Store(tmp_path / "undisturbed").get(samples))


# Several processes


def ask(root: Path, note: Note, told: Path) -> str:
    sys.stderr = told.open("w", buffering=1)
    return str(Store(root).get(note))


def test_two_processes_that_ask_at_once_make_it_once(tmp_path: Path):
    note = Note("a", (Note("base"),), waits=True)
    with ProcessPoolExecutor(2, mp_context=processes()) as pool:
        first = pool.submit(ask, tmp_path, note, tmp_path / "first")
        until(lambda: journal(tmp_path) == ["base", "a"])
        second = pool.submit(ask, tmp_path, note, tmp_path / "second")
        until(lambda: "another process makes it; waiting" in read(tmp_path / "second"))
        (tmp_path / "gate").touch()
        assert [first.result(), second.result()] == ["base a", "base a"]
    assert journal(tmp_path) == ["base", "a"]


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_waiting_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    note, deadline = Note("a"), Deadline()
    told: list[str] = []

    def interrupt(message: str) -> None:
        told.append(message)
        deadline.ask_to_stop()

    monkeypatch.setattr("ebmzoo.store.shelf.say", interrupt)
    with Store(tmp_path).locked(Store(tmp_path).folder(note)), pytest.raises(OutOfTime):
        Store(tmp_path, Runtime(deadline=deadline)).get(note)
    assert len(told) == 1
    assert journal(tmp_path) == []
    assert Store(tmp_path).get(note) == "a"


def test_a_store_whose_time_is_over_still_gives_what_is_kept(tmp_path: Path):
    Store(tmp_path).get(Note("a"))
    late = Store(tmp_path, Runtime(deadline=Deadline(0.0)))
    assert late.get(Note("a")) == "a"
    for _ in range(2):
        with pytest.raises(OutOfTime):
            late.get(Note("b"))
    assert journal(tmp_path) == ["a"]


def test_a_model_of_another_version_is_named(tmp_path: Path) -> None:
    """Whose parts are others than those that are built now, under the same key."""
    store, recipe = Store(tmp_path), VAES["VAE"]
    store.get(recipe)
    path = store.folder(recipe) / recipe.artifact
    weights = {name: value for name, value in load_tensors(path).items() if "posterior" not in name}
    save_tensors(tmp_path / "old.safetensors", weights)
    with pytest.raises(StoreError, match=r"another version of ebmzoo.*such as posterior\.encoder"):
        recipe.open(store, tmp_path / "old.safetensors")
